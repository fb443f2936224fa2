from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import gapcam
from gapcam.engines.torch import TorchEngine
from gapcam.models.pytorch.hooks import HookedNetwork
from gapcam.types import ArgumentError, ModelError, Preprocessing
from head_nets import CLASSES, NETS, SIDE, old_onnx
from torch_plans import BY_HAND, network, slopes

PREPARED = Preprocessing((SIDE, SIDE), (127.0, 120.0, 110.0), (60.0, 61.0, 62.0))


def inputs(pixels: np.ndarray, channels: str = "rgb") -> torch.Tensor:
    """What the network sees, channel by channel."""
    planes = []
    for i, (mean, scale) in enumerate(zip(PREPARED.mean, PREPARED.scale, strict=True)):
        plane = pixels[..., i if channels == "rgb" else 2 - i].astype(np.float32)
        planes.append((plane - mean) / scale)
    return torch.from_numpy(np.stack(planes, 1))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def networks() -> dict:
    return {}


@pytest.fixture
def engine(networks: dict):
    def make(name: str, **options) -> TorchEngine:
        if name not in networks:
            networks[name] = network(name)
        return TorchEngine(networks[name], PREPARED, "cpu", **options)

    return make


ALL = np.arange(CLASSES)


@pytest.mark.parametrize("name", BY_HAND)
def test_maps_are_n_slope_times_features(name: str, engine, pixels: np.ndarray):
    out = engine(name).run_maps(pixels, ALL)
    logits, features, slope = slopes(name, inputs(pixels), frozen=True)
    if BY_HAND[name].kind == "gmp-linear":  # M_c = sum_k w_ck f_k
        expected = torch.einsum("ck,bkhw->bchw", NETS[name]().classifier.weight.detach(), features)
    else:
        positions = features.shape[2] * features.shape[3]
        expected = positions * (slope * features).sum(2).transpose(0, 1)
    tolerance = 2e-5 * float(np.ptp(expected.numpy()))
    np.testing.assert_allclose(out.maps, expected.numpy(), atol=tolerance)
    np.testing.assert_allclose(out.logits, logits.numpy(), atol=2e-5)
    assert out.maps.dtype == np.float32


@pytest.mark.parametrize("name", [name for name, hand in BY_HAND.items() if hand.exact])
def test_maps_of_exact_heads_add_up_to_scores(name: str, engine, pixels: np.ndarray):
    made = engine(name)
    out = made.run_maps(pixels, ALL)
    gap = np.abs(out.maps.mean((2, 3)) + made.bias - out.logits).max()
    assert gap <= 1e-5 * np.ptp(out.logits) + 1e-6


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
@pytest.mark.parametrize("name", ["gap_linear", "gap_norm_linear", "gap_hidden", "tokens_class"])
def test_gradcam_and_layercam_follow_their_papers(
    name: str, method: str, engine, pixels: np.ndarray
):
    made = engine(name, method=method)
    out = made.run_maps(pixels, ALL)
    _, features, slope = slopes(name, inputs(pixels), frozen=False)
    average = slope.mean((3, 4), keepdim=True)  # equation 1 of Grad-CAM
    weights = average if method == "gradcam" else slope.clamp(min=0)
    expected = (weights * features).sum(2).clamp(min=0).transpose(0, 1).numpy()
    np.testing.assert_allclose(out.maps, expected, atol=2e-5 * expected.max())
    assert made.head is None


@pytest.mark.parametrize("name", ["gap_linear", "nhwc_swin", "tokens_registers_mean", "gmp_linear"])
def test_run_gives_features_and_a_head_that_make_the_logits(name: str, engine, pixels: np.ndarray):
    made = engine(name)
    out, head = made.run(pixels), made.head
    pooled = out.features.max((2, 3)) if name == "gmp_linear" else out.features.mean((2, 3))
    np.testing.assert_allclose(pooled @ head.weights.T + head.bias, out.logits, atol=2e-5)
    with torch.no_grad():
        np.testing.assert_allclose(out.logits, NETS[name]()(inputs(pixels)).numpy(), atol=2e-5)


def test_a_head_that_is_not_linear_gives_no_matrix(engine):
    assert engine("gap_norm_linear").head is None
    assert engine("flatten_linear").head is None


def test_a_summed_head_is_exact_at_another_size():
    made = TorchEngine(network("sum_linear"), PREPARED, "cpu")
    pixels = np.random.default_rng(2).integers(0, 256, (2, 96, 128, 3), dtype=np.uint8)
    out = made.run_maps(pixels, 3)
    best = np.take_along_axis(out.logits, out.classes, 1)
    bias = made.bias[out.classes]
    assert out.maps.shape == (2, 3, 6, 8)
    np.testing.assert_allclose(out.maps.mean((2, 3)) + bias, best, rtol=1e-4)


def test_one_picture_and_many_give_the_same(engine, pixels: np.ndarray):
    for name in ("gap_linear", "gap_norm_linear", "tokens_class"):
        made = engine(name)
        together = made.run_maps(pixels, 2)
        for i in range(len(pixels)):
            alone = made.run_maps(pixels[i : i + 1], 2)
            np.testing.assert_array_equal(alone.classes[0], together.classes[i])
            np.testing.assert_allclose(alone.maps[0], together.maps[i], atol=2e-5)


def test_the_best_classes_come_first_and_ids_are_kept(engine, pixels: np.ndarray):
    made = engine("gap_hidden")
    out = made.run_maps(pixels, 3)
    for scores, ids in zip(out.logits, out.classes, strict=True):
        assert list(ids) == sorted(range(CLASSES), key=lambda c: (-scores[c], c))[:3]
    rows = np.array([[1, 5], [5, 1], [0, 0]])
    own = made.run_maps(pixels, rows)
    np.testing.assert_array_equal(own.classes, rows)
    every = made.run_maps(pixels, ALL).maps
    for picture, ids in enumerate(rows):
        np.testing.assert_allclose(own.maps[picture], every[picture, ids], atol=1e-5)
    assert own.classes.dtype == np.int64


def test_equal_scores_go_to_the_lower_id(pixels: np.ndarray):
    net = NETS["gap_linear"]()
    nn.init.zeros_(net.head[2].weight)
    nn.init.zeros_(net.head[2].bias)
    made = TorchEngine(HookedNetwork(net, (SIDE, SIDE), "body"), PREPARED, "cpu")
    out = made.run_maps(pixels, 3)
    assert out.classes.tolist() == [[0, 1, 2]] * 3
    assert not out.maps.any()  # an all-zero map is a map, not an error


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory):
    """Both engines of a network: the torch one, and the ONNX one of its file."""
    made: dict[str, tuple] = {}

    def of(name: str) -> tuple:
        if name not in made:
            path = tmp_path_factory.mktemp("pair") / f"{name}.onnx"
            path.write_bytes(old_onnx(NETS[name]()))
            labels = [f"class {i}" for i in range(CLASSES)]
            loaded = gapcam.load(path, labels=labels, preprocessing=PREPARED)
            made[name] = (TorchEngine(network(name), PREPARED, "cpu"), loaded.engine)
        return made[name]

    return of


HEADS = pytest.mark.parametrize("name", ["gap_linear", "gap_norm_linear"])


@HEADS
@pytest.mark.parametrize(
    "wanted",
    [1, 3, CLASSES, [6], [0, 5, 0], [[1], [2], [3]], [[1, 2], [2, 1], [6, 6]], np.uint8([4, 2])],
    ids=str,
)
def test_engines_agree_on_what_is_wanted(name: str, wanted, pair, pixels: np.ndarray):
    ours, theirs = (e.run_maps(pixels, wanted) for e in pair(name))
    np.testing.assert_array_equal(ours.classes, theirs.classes)
    assert ours.classes.dtype == theirs.classes.dtype == np.int64
    np.testing.assert_allclose(ours.maps, theirs.maps, atol=1e-4)
    if not isinstance(wanted, int):
        ids = np.array(wanted, int)
        np.testing.assert_array_equal(ours.classes, np.broadcast_to(ids, (3, ids.shape[-1])))


@HEADS
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (np.array([[1], [2]]), "one row for each of 3 pictures, got 2"),
        (np.array([CLASSES]), f"class id {CLASSES}: this network has classes 0 to {CLASSES - 1}"),
        ([[0], [-2], [9]], "class id -2: this network has classes 0 to 6"),
        (np.array([-1]), "class id -1"),
        (0, "expected 1 to 7, got 0"),
        (8, "expected 1 to 7, got 8"),
        (np.array([1.5]), "expected whole numbers"),
        (np.zeros((1, 1, 1), int), "expected whole numbers"),
        (np.zeros((3, 0), int), "expected whole numbers"),
        ([], "expected whole numbers"),
    ],
    ids=str,
)
def test_both_engines_refuse_wrong_classes(
    name: str, wanted, message: str, pair, pixels: np.ndarray
):
    for engine in pair(name):
        with pytest.raises(ArgumentError, match=message):
            engine.run_maps(pixels, wanted)


def test_wrong_pixels_devices_and_methods_are_refused(engine, pixels: np.ndarray):
    made = engine("gap_linear")
    with pytest.raises(ArgumentError, match=r"expected uint8 \[B, H, W, 3\], got float32"):
        made.run(pixels.astype(np.float32))
    with pytest.raises(ArgumentError, match="expected cam or gradcam or layercam, got 'eigen'"):
        engine("gap_linear", method="eigen")
    with pytest.raises(ArgumentError, match="expected cpu or cuda, got 'abacus'"):
        TorchEngine(made._network, PREPARED, "abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ArgumentError, match="finds no GPU here"):
            TorchEngine(made._network, PREPARED, "cuda")


def test_a_size_that_the_network_cannot_take_is_refused(engine):
    pixels = np.zeros((1, 96, 96, 3), np.uint8)
    with pytest.raises(ModelError, match=r"does not run on 1 pictures 96 x 96.*made for 64 x 64"):
        engine("flatten_linear").run_maps(pixels, 1)


def test_a_map_that_is_no_number_is_named(pixels: np.ndarray):
    class RootHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = NETS["gap_linear"]()

        def forward(self, x):
            return torch.sqrt(0 * self.net(x))  # the slope of sqrt at 0 is infinite

    made = TorchEngine(HookedNetwork(RootHead(), (SIDE, SIDE), "net.body"), PREPARED, "cpu")
    with pytest.raises(ModelError, match="picture 0 of the batch: the map of class 4 is not"):
        made.run_maps(pixels, np.array([4]))
    spoilt = NETS["gap_linear"]()
    with torch.no_grad():
        spoilt.head[2].bias[2] = float("nan")
    made = TorchEngine(HookedNetwork(spoilt, (SIDE, SIDE), "body"), PREPARED, "cpu")
    with pytest.raises(ModelError, match="picture 0 of the batch: its scores are not all finite"):
        made.run_maps(pixels, 1)


def test_channels_can_be_the_other_way_round(engine, pixels: np.ndarray):
    swapped = Preprocessing(PREPARED.size_hw, PREPARED.mean, PREPARED.scale, "bgr")
    made = TorchEngine(engine("gap_linear")._network, swapped, "cpu")
    with torch.no_grad():
        expected = NETS["gap_linear"]()(inputs(pixels, "bgr")).numpy()
    np.testing.assert_allclose(made.run(pixels).logits, expected, atol=2e-5)


def test_the_fingerprint_follows_what_the_outputs_depend_on(engine):
    base = engine("gap_linear")
    assert base.fingerprint == engine("gap_linear").fingerprint
    changed = NETS["gap_linear"]()
    with torch.no_grad():
        changed.head[2].bias[0] += 1e-3
    hooked = [HookedNetwork(n, (SIDE, SIDE), "body") for n in (NETS["gap_linear"](), changed)]
    prints = {TorchEngine(n, PREPARED, "cpu").fingerprint for n in hooked}
    prints |= {base.fingerprint, engine("gap_linear", method="gradcam").fingerprint}
    assert len(prints) == 4


def test_an_engine_serves_several_threads(engine, pixels: np.ndarray):
    made = engine("gap_norm_linear")
    expected = made.run_maps(pixels, 2).maps
    with ThreadPoolExecutor(4) as pool:
        for out in pool.map(lambda _: made.run_maps(pixels, 2), range(8)):
            np.testing.assert_allclose(out.maps, expected, atol=1e-5)


class Choosy(nn.Module):
    """Decides in Python by a value: no program holds it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net = NETS[name]()

    def forward(self, x):
        return self.net(x if x.mean() < 1e6 else -x)


@pytest.mark.parametrize("name", ["gap_linear", "gap_norm_linear", "gap_l2_linear", "gap_hidden"])
def test_a_network_that_cannot_be_exported_gives_the_same_maps(
    name: str, engine, pixels: np.ndarray
):
    made = TorchEngine(HookedNetwork(Choosy(name), (SIDE, SIDE), "net.body"), PREPARED, "cpu")
    ours, theirs = made.run_maps(pixels, ALL), engine(name).run_maps(pixels, ALL)
    np.testing.assert_allclose(ours.maps, theirs.maps, atol=2e-5 * np.ptp(theirs.maps))
    np.testing.assert_allclose(ours.logits, theirs.logits, atol=2e-5)
    np.testing.assert_allclose(made.bias, engine(name).bias, atol=1e-6)
    assert made.run(pixels).features.shape == (3, 24, 4, 4)


@pytest.mark.parametrize(
    ("name", "layer", "grid", "first"),
    [
        ("gap_linear", "body", (4, 4), 0),
        ("nhwc_swin", "norm", (4, 4), 0),
        ("tokens_registers_class", "norm", (8, 8), 5),
        ("flatten_hidden", "body", (4, 4), 0),
    ],
)
def test_the_last_layer_with_positions_is_found(name: str, layer: str, grid, first: int):
    found = HookedNetwork(NETS[name](), (SIDE, SIDE))
    assert (found.layer, found.layout.grid_hw, found.layout.first_patch) == (layer, grid, first)


def test_layers_that_give_no_features_are_refused():
    with pytest.raises(ModelError, match=r"no layer 'body.9'; among its last are: .*head.2"):
        HookedNetwork(NETS["gap_linear"](), (SIDE, SIDE), "body.9")
    with pytest.raises(ModelError, match=r"'head.1' gives \[1, 24\], expected planes"):
        HookedNetwork(NETS["gap_linear"](), (SIDE, SIDE), "head.1")
    with pytest.raises(ModelError, match="no module whose output has a plane or tokens"):
        HookedNetwork(NETS["no_head"](), (SIDE, SIDE))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: CUDA is not checked here")
@pytest.mark.parametrize("name", BY_HAND)
def test_a_gpu_gives_the_same_maps(name: str, engine, pixels: np.ndarray):
    made = TorchEngine(engine(name)._network, PREPARED, "cuda")
    ours, theirs = made.run_maps(pixels, ALL), engine(name).run_maps(pixels, ALL)
    np.testing.assert_allclose(ours.maps, theirs.maps, atol=0.05 * np.ptp(theirs.maps))
    assert ours.maps.dtype == ours.logits.dtype == np.float32
