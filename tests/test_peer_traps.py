"""What other class-map libraries get wrong with a user's own network: one test a trap."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gapcam
from gapcam.types import ArgumentError, GapcamError, ModelError, PictureError, Preprocessing
from head_nets import CHANNELS, CLASSES, NETS, SIDE, TOKENS, Tokens

LABELS = [f"class {i}" for i in range(CLASSES)]
USUAL = Preprocessing((SIDE, SIDE), (120.0, 110.0, 100.0), (60.0, 58.0, 56.0))
PLAIN = Preprocessing((SIDE, SIDE), (0.0,) * 3, (255.0,) * 3)
WIDE = Preprocessing((64, 96), USUAL.mean, USUAL.scale)
BOTH = pytest.mark.parametrize("engine", ["onnx", "torch"])
BLACK = np.zeros((SIDE, SIDE, 3), np.uint8)
NOISE = np.random.default_rng(4).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
EVERY = np.arange(CLASSES)
BRIGHT, SHADY, NOWHERE = 0, 1, 2
BIAS = torch.linspace(-1, 1, CLASSES)


class Light(nn.Module):
    """Its one feature is how bright a cell of 8 x 8 is; class 0 is light, class 1 its contrary."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv2d(3, 1, 8, 8, bias=False)
        self.classifier = nn.Linear(1, CLASSES)
        with torch.no_grad():
            self.cells.weight.fill_(1 / 192)
            self.classifier.weight.copy_(torch.tensor([[4.0, -4, 0, 1, 2, 3, -1]]).T)
            self.classifier.bias.copy_(BIAS)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.cells(x).mean((2, 3)))


class Standardized(nn.Module):
    """Divides by the deviation of the picture itself, which one of a single colour has not."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Light()

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean((2, 3), keepdim=True)
        return self.net(x / x.square().mean((2, 3), keepdim=True).sqrt())


class Spilt(Light):
    """Fails in its forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("out of coffee")


def wide_tokens() -> nn.Module:
    """A vision transformer for pictures of 64 x 96: 8 rows of 12 patches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = Tokens("mean", extra=5).eval()
        net.places = nn.Parameter(torch.randn(1, 96, TOKENS) / 4)
    return net


OWN: dict[str, tuple[Callable[[], nn.Module], Preprocessing]] = {
    "light": (Light, PLAIN),
    "standardized": (Standardized, PLAIN),
    "wide_tokens": (wide_tokens, WIDE),
    "half": (lambda: NETS["gap_norm_linear"]().half(), USUAL),
}


@pytest.fixture(scope="module")
def loaded():
    """`loaded(name, engine)` and the network it was loaded from; each is loaded once."""
    kept: dict[tuple[str, str], tuple[gapcam.Localizer, nn.Module]] = {}

    def of(name: str, engine: str) -> tuple[gapcam.Localizer, nn.Module]:
        if (name, engine) not in kept:
            make, wants = OWN.get(name) or (NETS[name], USUAL)
            kept[name, engine] = load(net := make(), engine, wants), net
        return kept[name, engine]

    return of


def load(net: nn.Module, engine: str = "torch", wants: Preprocessing = USUAL) -> gapcam.Localizer:
    return gapcam.load(net, labels=LABELS, preprocessing=wants, engine=engine, threads=1)


def shown(pixels: np.ndarray, wants: Preprocessing = USUAL) -> Tensor:
    """What a network sees of `[B, H, W, 3]`."""
    x = (pixels - np.float32(wants.mean)) / np.float32(wants.scale)
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def lit(size_hw: tuple[int, int], box_xyxy: tuple[int, int, int, int]) -> np.ndarray:
    """A dark photo with one bright box."""
    picture = np.full((*size_hw, 3), 10, np.uint8)
    left, top, right, bottom = box_xyxy
    picture[top:bottom, left:right] = 250
    return picture


def looked_at(net: nn.Module) -> list:
    """What a user could find changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    parts = [(p.training, [len(getattr(p, kind)) for kind in hooks]) for p in net.modules()]
    weights = [
        (id(p), p.requires_grad, p.grad, p.dtype, p.device, p._version) for p in net.parameters()
    ]
    return [parts, weights, [p.tobytes() for p in map(Tensor.numpy, net.buffers())]]


@BOTH
def test_convnext_norm_between_pooling_and_classifier(engine: str, loaded):
    localizer, net = loaded("gap_norm_linear", engine)
    assert localizer.check().exact
    out = localizer.engine.run_maps(NOISE, EVERY)
    span = np.ptp(out.logits)
    ours = out.maps.mean((2, 3)) + localizer.engine.bias - out.logits
    assert np.abs(ours).max() <= 1e-4 * span
    # What takes w . f for the map leaves the norm out, and is off by much of the scores' range.
    classifier = net.head[3]
    features = torch.from_numpy(localizer.engine.run(NOISE).features)
    naive = torch.einsum("ck,bkhw->bchw", classifier.weight, features).mean((2, 3))
    missed = (naive + classifier.bias).detach().numpy() - out.logits
    assert np.abs(missed).max() > 0.3 * span


@BOTH
@pytest.mark.parametrize("name", ["squeezenet", "gap_conv1x1"])
def test_convolution_for_a_classifier_squeezenet_and_bit(name: str, engine: str, loaded):
    localizer, net = loaded(name, engine)
    assert localizer.check().exact
    out = localizer.engine.run_maps(NOISE, EVERY)
    classifier = next(part for part in net.head if isinstance(part, nn.Conv2d))
    with torch.no_grad():  # a 1 x 1 convolution and a mean may change places
        scores = classifier(net.body(shown(NOISE)))
        scores = scores.relu() if name == "squeezenet" else scores
    ours = out.maps + localizer.engine.bias[:, None, None]
    np.testing.assert_allclose(ours, scores.numpy(), atol=1e-5)


@BOTH
def test_relu_or_min_max_slipped_into_the_map(engine: str, loaded):
    localizer, net = loaded("gap_linear", engine)
    out = localizer.engine.run_maps(NOISE, EVERY)
    with torch.no_grad():
        features = net.body(shown(NOISE))
        expected = torch.einsum("ck,bkhw->bchw", net.head[2].weight, features).numpy()
    np.testing.assert_allclose(out.maps, expected, atol=1e-5)
    assert out.maps.min() < 0
    found = localizer(NOISE[0], top=CLASSES)
    for d in found.detections:  # maps of all classes stay comparable: logit units
        np.testing.assert_allclose(d.map, expected[0, d.class_id], atol=1e-5)


def test_target_layer_need_not_be_named(loaded):
    proof = loaded("gap_linear", "onnx")[0].check()
    assert f"({CHANNELS} channels, 4 x 4); then mean, linear" in proof.features_at


@BOTH
@pytest.mark.parametrize("name", ["gap_linear", "gap_norm_linear"])
def test_fewer_targets_than_pictures_raise(name: str, engine: str, loaded):
    made = loaded(name, engine)[0].engine
    for rows in ([[0]], [[0], [1]], [[0]] * 4):
        with pytest.raises(ArgumentError, match=f"for each of 3 pictures, got {len(rows)}"):
            made.run_maps(NOISE, np.array(rows))


@BOTH
@pytest.mark.parametrize("name", ["gap_linear", "gap_norm_linear"])
def test_bad_class_index_raises_and_names_the_range(name: str, engine: str, loaded):
    localizer, _ = loaded(name, engine)
    for wrong in (-1, CLASSES):
        with pytest.raises(ArgumentError, match=f"class id {wrong}.* classes 0 to {CLASSES - 1}"):
            localizer.engine.run_maps(NOISE, np.array([0, wrong]))
    with pytest.raises(ArgumentError, match=f"class id {CLASSES}.*0 to {CLASSES - 1}"):
        localizer(NOISE[0], classes=[CLASSES])


@BOTH
@pytest.mark.parametrize("name", ["gap_linear", "gap_norm_linear"])
def test_one_class_a_picture_and_several(name: str, engine: str, loaded):
    made = loaded(name, engine)[0].engine
    all_maps = made.run_maps(NOISE, EVERY).maps
    for rows in ([[4], [0], [6]], [[1, 5], [5, 1], [2, 2]]):
        ids = np.array(rows)
        out = made.run_maps(NOISE, ids)
        np.testing.assert_array_equal(out.classes, ids)
        for picture, own in enumerate(ids):
            np.testing.assert_allclose(out.maps[picture], all_maps[picture, own], atol=1e-5)


@BOTH
@pytest.mark.parametrize("name", ["gap_linear", "gap_norm_linear"])
def test_first_picture_of_a_batch_is_not_special(name: str, engine: str, loaded):
    made = loaded(name, engine)[0].engine
    together = made.run_maps(NOISE, 2)
    turned = made.run_maps(NOISE[::-1], 2)
    np.testing.assert_allclose(turned.maps[::-1], together.maps, atol=1e-5)
    for i in range(len(NOISE)):
        alone = made.run_maps(NOISE[i : i + 1], together.classes[i])
        np.testing.assert_allclose(alone.maps[0], together.maps[i], atol=1e-5)
        assert np.ptp(together.maps[i]) > 0


@BOTH
def test_map_that_is_zero_or_negative_everywhere_is_not_stretched(engine: str, loaded):
    localizer, _ = loaded("light", engine)
    found = localizer(lit((64, 64), (16, 16, 40, 40)), classes=[BRIGHT, SHADY, NOWHERE])
    bright, shady, nowhere = found.detections
    assert bright.box_xyxy is not None
    assert shady.map.max() < 0
    assert not nowhere.map.any()
    for none in (shady, nowhere):
        assert none.box_xyxy is none.peak_xy is None
        assert not none.heat.any()
        assert not none.mask.any()
    (dark,) = localizer(np.zeros((50, 70, 3), np.uint8), classes=[BRIGHT]).detections
    assert dark.box_xyxy is None


@BOTH
def test_nan_from_a_picture_is_an_error(loaded, engine: str):
    localizer, _ = loaded("standardized", engine)
    assert localizer.check().exact
    with pytest.raises(ModelError, match="picture 0 of the batch: its scores are not all finite"):
        localizer(BLACK)


@BOTH
def test_nan_in_the_weights_is_an_error(engine: str):
    net = Light()
    with torch.no_grad():
        net.classifier.weight[3] = float("nan")
    with pytest.raises(ModelError):
        load(net, engine, PLAIN)


def test_nan_in_a_picture_is_an_error(loaded):
    localizer, _ = loaded("light", "torch")
    with pytest.raises(GapcamError, match="uint8"):
        localizer(np.full((SIDE, SIDE, 3), np.nan, np.float32))


@pytest.mark.parametrize("engine", ["auto", "onnx", "torch"])
def test_errors_are_not_swallowed_and_leave_the_model(engine: str):
    net = Spilt().train()
    before = looked_at(net)
    with pytest.raises(ModelError, match="ValueError: out of coffee"):
        load(net, engine)
    assert looked_at(net) == before


def test_errors_in_a_stream_come_in_their_turn(loaded, tmp_path: Path):
    localizer, _ = loaded("light", "torch")
    stream = localizer([NOISE[0], tmp_path / "no.jpg", NOISE[1]], classes=[0])
    assert next(stream).detections
    with pytest.raises(PictureError, match=r"no\.jpg"):
        next(stream)


def frozen_in_training() -> nn.Module:
    """Frozen but for its classifier, in training mode."""
    net = NETS["gap_norm_linear"]().train()
    net.requires_grad_(False)
    net.head[3].requires_grad_(True)
    return net


@BOTH
def test_frozen_backbone_and_train_mode(engine: str, loaded):
    net = frozen_in_training()
    before = looked_at(net)
    localizer = load(net, engine)
    out = localizer.engine.run_maps(NOISE, EVERY)
    expected = loaded("gap_norm_linear", "torch")[0].engine.run_maps(NOISE, EVERY).maps
    np.testing.assert_allclose(out.maps, expected, atol=1e-5 * np.ptp(expected))
    assert looked_at(net) == before  # still training, no gradient filled, no hook left
    assert net.training
    assert all(p.grad is None for p in net.parameters())


@BOTH
@pytest.mark.parametrize("outside", [torch.no_grad, torch.inference_mode])
def test_no_grad_or_inference_mode_outside(outside, engine: str, loaded):
    localizer, _ = loaded("gap_norm_linear", engine)
    expected = localizer.engine.run_maps(NOISE, 2).maps
    with outside():
        inside = localizer.engine.run_maps(NOISE, 2).maps
        again = load(NETS["gap_norm_linear"](), "torch") if engine == "torch" else localizer
        np.testing.assert_allclose(again.engine.run_maps(NOISE, 2).maps, expected, atol=1e-5)
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(inside, expected)


@BOTH
def test_half_precision(engine: str, loaded):
    localizer, net = loaded("half", engine)
    assert localizer.check().exact
    out = localizer.engine.run_maps(NOISE, EVERY)
    expected = loaded("gap_norm_linear", engine)[0].engine.run_maps(NOISE, EVERY).maps
    assert out.maps.dtype == np.float32
    np.testing.assert_allclose(out.maps, expected, atol=0.01 * np.ptp(expected))
    assert {p.dtype for p in net.parameters()} == {torch.float16}


def test_hooks_after_torch_compile(loaded):
    net = torch.compile(NETS["gap_norm_linear"](), backend="eager")
    expected = loaded("gap_norm_linear", "torch")[0].engine.run_maps(NOISE, 2).maps
    np.testing.assert_allclose(load(net).engine.run_maps(NOISE, 2).maps, expected, atol=1e-5)


@BOTH
@pytest.mark.parametrize("name", ["light", "gap_norm_linear"])
def test_memory_does_not_grow_with_calls(name: str, engine: str, loaded):
    localizer, _ = loaded(name, engine)
    for _ in range(20):
        localizer(NOISE[0])
    tracemalloc.start()
    before, resident = tracemalloc.get_traced_memory()[0], resident_bytes()
    for _ in range(200):
        localizer(NOISE[0])
    grown, more = tracemalloc.get_traced_memory()[0] - before, resident_bytes() - resident
    tracemalloc.stop()
    assert grown < 100_000  # 500 bytes a call; a kept map of one class would be more
    assert more < 16_000_000


def resident_bytes() -> int:
    """Of this process; 0 where the system does not say."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 if status.exists() else 0


@BOTH
def test_vit_needs_no_reshape_transform_and_no_square_grid(engine: str, loaded):
    localizer, net = loaded("wide_tokens", engine)
    pixels = np.random.default_rng(5).integers(0, 256, (2, 64, 96, 3), np.uint8)
    out = localizer.engine.run_maps(pixels, EVERY)
    tokens: list[Tensor] = []
    hook = net.norm.register_forward_hook(lambda module, given, output: tokens.append(output))
    with torch.no_grad():
        net(shown(pixels))
        patches = tokens[0][:, net.extra :] @ net.classifier.weight.T
    hook.remove()
    expected = patches.transpose(1, 2).reshape(2, CLASSES, 8, 12).numpy()
    np.testing.assert_allclose(out.maps, expected, atol=1e-5)
    assert localizer.check().exact


@BOTH
@pytest.mark.parametrize(
    ("size_hw", "box_xyxy"),
    [
        ((200, 400), (300, 25, 375, 100)),
        ((400, 200), (25, 300, 100, 375)),
        ((120, 600), (0, 0, 75, 120)),  # a centre crop would not see it
    ],
)
def test_boxes_in_pixels_of_the_photo_not_of_a_crop(size_hw, box_xyxy, engine: str, loaded):
    localizer, _ = loaded("light", engine)
    picture = lit(size_hw, box_xyxy)
    (found,) = localizer(picture, classes=[BRIGHT]).detections
    cell_wh = size_hw[1] / 8, size_hw[0] / 8
    off = np.abs(np.subtract(found.box_xyxy, box_xyxy)) / np.tile(cell_wh, 2)
    assert off.max() < 1, found.box_xyxy  # within a cell of the map, on every side
    assert found.mask.shape == size_hw
    left, top, right, bottom = box_xyxy
    assert left <= found.peak_xy[0] <= right
    assert top <= found.peak_xy[1] <= bottom


def test_map_is_not_turned_upside_down_or_inverted(loaded):
    localizer, _ = loaded("light", "torch")
    picture = lit((64, 64), (8, 40, 24, 56))
    (found,) = localizer(picture, classes=[BRIGHT]).detections
    (rows, columns) = np.nonzero(found.heat > 0.9)
    assert len(rows)
    assert (picture[4 * rows + 2, 4 * columns + 2] == 250).all()
