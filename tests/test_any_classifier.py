"""`gapcam.load` on classifiers that are not ours: every kind of head, on both engines."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

import gapcam
from gapcam.models.pytorch import trace
from gapcam.types import ArgumentError, ModelError, Preprocessing
from head_nets import CLASSES, NETS, SIDE

LABELS = [f"class {i}" for i in range(CLASSES)]
WANTS = Preprocessing((SIDE, SIDE), (120.0, 110.0, 100.0), (60.0, 58.0, 56.0))

KINDS = {
    "gap_linear": "gap-linear",
    "gap_functional_relu": "gap-linear",
    "gap_conv1x1": "gap-linear",
    "conv1x1_gap": "gap-linear",
    "squeezenet": "gap-linear",
    "gap_batchnorm_linear": "gap-linear",
    "gap_two_linear": "gap-linear",
    "window_avgpool": "gap-linear",
    "sum_linear": "gap-linear",
    "gmp_linear": "gmp-linear",
    "gap_norm_linear": "gap-norm-linear",
    "gap_rms_linear": "gap-norm-linear",
    "gap_l2_linear": "gap-norm-linear",
    "gap_hidden": "gap-hidden",
    "flatten_linear": "flatten-linear",
    "flatten_hidden": "flatten-hidden",
    "mobile": "gap-linear",
    "squeezed": "gap-linear",
    "nhwc_swin": "gap-linear",
    "tokens_mean": "gap-linear",
    "tokens_mean_norm": "gap-norm-linear",
    "tokens_class": "class-token",
    "tokens_registers_mean": "gap-linear",
    "tokens_registers_class": "class-token",
    "tokens_mix": "token-mix",
}
EXACT = {"gap-linear", "gap-norm-linear", "flatten-linear"}


def loaded(net: nn.Module, **options: object) -> gapcam.Localizer:
    options = {"labels": LABELS, "preprocessing": WANTS} | options
    return gapcam.load(net, **options)


@pytest.fixture(autouse=True, scope="module")
def traced_once() -> Iterator[None]:
    """Both engines start from one program of a network, as they do where one load tries both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "trace_module", functools.cache(trace.trace_module))
        yield


@functools.cache
def net_of(name: str) -> nn.Module:
    return NETS[name]()


@functools.cache
def usual(name: str) -> gapcam.Localizer:
    """A network loaded with no option that it does not need; for readers only, it is kept."""
    return loaded(net_of(name))


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


@pytest.mark.parametrize("name", KINDS)
def test_both_engines_give_the_maps_that_the_head_says(name: str, noise: np.ndarray):
    net = net_of(name)
    fast, slow = usual(name), loaded(net, engine="torch")
    assert fast.card.head == slow.card.head == KINDS[name]
    assert (fast.engine.name, slow.engine.name) == ("onnx", "torch")
    proof = fast.check()
    assert proof.exact == (KINDS[name] in EXACT), str(proof)
    everything = np.arange(CLASSES)
    for batch in (1, 3):
        ours = fast.engine.run_maps(noise[:batch], everything)
        theirs = slow.engine.run_maps(noise[:batch], everything)
        span = np.ptp(theirs.logits)
        np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-4 * span)
        np.testing.assert_allclose(ours.maps, theirs.maps, atol=1e-3 * np.ptp(theirs.maps))
    x = torch.from_numpy((noise - np.float32(WANTS.mean)) / np.float32(WANTS.scale))
    with torch.no_grad():
        plain = net(x.permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(ours.logits, plain, atol=1e-4 * np.ptp(plain))


@pytest.mark.parametrize("name", ["gap_linear", "gap_norm_linear", "tokens_class"])
def test_the_best_classes_are_those_of_the_scores(name: str, noise: np.ndarray):
    engine = usual(name).engine
    for count in (1, 3, CLASSES):
        out = engine.run_maps(noise, count)
        np.testing.assert_array_equal(out.classes, np.argsort(-out.logits, 1)[:, :count])
        asked = engine.run_maps(noise, out.classes)
        np.testing.assert_allclose(asked.maps, out.maps, atol=1e-5)


def test_maps_have_the_shape_of_pictures_that_are_not_square(noise: np.ndarray):
    wide = np.concatenate([noise, noise], 2)
    assert usual("gap_linear").engine.run_maps(wide, 1).maps.shape == (3, 1, 4, 8)


def test_a_network_of_one_size_says_so():
    localizer = usual("flatten_linear")
    assert localizer.card.fixed_hw == (SIDE, SIDE)
    with pytest.raises(ArgumentError, match=r"takes pictures of 64 x 64 only, not "):
        gapcam.Localizer(localizer.engine, localizer.card, gapcam.RECIPES["fast"])


def test_a_network_without_finer_features_gets_the_papers_recipe():
    localizer = usual("tokens_mean")
    assert localizer.recipe.name == "paper"
    with pytest.raises(ArgumentError, match=r"no features at half its map's stride.*paper"):
        loaded(NETS["tokens_mean"](), recipe="default")


def test_recipes_of_another_network_say_so():
    recipe = usual("gap_linear").recipe
    assert (recipe.name, recipe.input_size_hw) == ("default", (SIDE, SIDE))
    assert recipe.chosen_on.endswith("with efficientnet-lite0 and not with this network")
    assert (recipe.cost, recipe.chosen_score) == (0.0, "")


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_network_without_a_head_is_refused_with_a_way_out(engine: str):
    with pytest.raises(ModelError, match=r"gapcam train|larger|layer"):
        loaded(NETS["no_head"](), engine=engine)


def test_wrong_options_are_named():
    net = NETS["gap_linear"]()
    with pytest.raises(ArgumentError, match=r"load: unknown option 'label': expected one of"):
        gapcam.load(net, label=LABELS)
    with pytest.raises(ArgumentError, match=r"engine: expected auto or onnx or torch, got 'cuda'"):
        loaded(net, engine="cuda")
    with pytest.raises(ArgumentError, match=r"method: expected cam or gradcam or layercam"):
        loaded(net, method="scorecam")
    with pytest.raises(ArgumentError, match=r"'gradcam' needs gradients: use the torch engine"):
        loaded(net, method="gradcam", engine="onnx")
    with pytest.raises(ArgumentError, match="labels"):
        gapcam.load(net, preprocessing=WANTS)
    with pytest.raises(ArgumentError, match="preprocessing"):
        gapcam.load(net, labels=LABELS)


def test_the_choice_of_engine_is_said_and_can_be_forced():
    heard: list[str] = []
    forced = loaded(net_of("gap_linear"), engine="torch", tell=heard.append)
    assert forced.engine.name == "torch"
    assert any("runs on PyTorch: as asked" in words for words in heard)
    assert "Engine: torch." in str(forced.check())
    assert "Engine: onnx." in str(usual("gap_linear").check())


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("ending", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()])
def test_a_network_that_gives_probabilities_is_read_before_them(
    engine: str, ending: nn.Module, noise: np.ndarray
):
    bare = net_of("gap_linear")
    localizer = loaded(nn.Sequential(bare, ending).eval(), engine=engine)
    assert localizer.card.head == "gap-linear"
    assert "makes probabilities, is left out" in localizer.card.features_at
    x = torch.from_numpy((noise - np.float32(WANTS.mean)) / np.float32(WANTS.scale))
    with torch.no_grad():
        plain = bare(x.permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(localizer.engine.run_maps(noise, 1).logits, plain, atol=1e-4)
