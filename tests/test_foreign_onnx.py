"""Another tool's ONNX classifier: loaded as it is, with its own scores and the head's maps."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import gapcam
from gapcam.types import ArgumentError, GapcamError, ModelError, Preprocessing
from head_nets import CLASSES, NETS, SIDE, old_onnx

LABELS = [f"class {i}" for i in range(CLASSES)]
WANTS = Preprocessing((SIDE, SIDE), (120.0, 110.0, 100.0), (60.0, 58.0, 56.0))
SIDES = ["batch", 3, "height", "width"]
EVERYTHING = np.arange(CLASSES)
EXACT = {"gap-linear", "gap-norm-linear", "flatten-linear"}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


def given(pixels):
    """What the network takes, channels first."""
    wanted = (pixels - np.float32(WANTS.mean)) / np.float32(WANTS.scale)
    return np.ascontiguousarray(wanted.transpose(0, 3, 1, 2), np.float32)


def loaded(path, **options):
    return gapcam.load(path, **({"labels": LABELS, "preprocessing": WANTS} | options))


def saved(folder, model, name="net"):
    path = folder / f"{name}.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def own_scores(path, x, output="logits"):
    """The file itself on ONNX Runtime, one picture at a time."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run([output], {name: one[None]})[0] for one in x])


def assert_close(ours, theirs, share=1e-5):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=share * np.ptp(theirs))


def assert_adds_up(engine, out):
    ours = out.maps.mean((2, 3)) + engine.bias[out.classes]
    assert_close(ours, np.take_along_axis(out.logits, out.classes, 1), 1e-4)


# --- networks that PyTorch's exporters wrote --------------------------------------------------


class Frozen(nn.Module):
    """A layer norm whose standard deviation counts as a constant of the picture."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        spread = (x.var(-1, unbiased=False, keepdim=True) + self.norm.eps).sqrt().detach()
        return (x - x.mean(-1, keepdim=True)) / spread * self.norm.weight + self.norm.bias


def frozen(net):
    made = copy.deepcopy(net)
    for parent in list(made.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, nn.LayerNorm):
                setattr(parent, name, Frozen(part))
    return made


def autograd_maps(net, module, x):
    """Logits, and M_c = N sum_k dS_c/df_k f_k with f the output of a module, by autograd."""
    kept = {}
    net = frozen(net)
    handle = net.get_submodule(module).register_forward_hook(lambda *of: kept.update(f=of[2]))
    logits = net(torch.from_numpy(x))
    handle.remove()
    features = kept["f"]
    maps = []
    for c in range(CLASSES):
        (slope,) = torch.autograd.grad(logits[:, c].sum(), features, retain_graph=True)
        terms = slope * features
        if features.ndim == 4:
            maps.append(terms.sum(1) * terms[0, 0].numel())
        else:  # tokens: one for the class, then 8 x 8 patches
            maps.append(terms[:, 1:].sum(2).reshape(-1, 8, 8) * 64)
    return logits.detach().numpy(), torch.stack(maps, 1).detach().numpy()


HEADS = {
    "gap_linear": ("gap-linear", "body"),
    "gap_norm_linear": ("gap-norm-linear", "body"),
    "gap_hidden": ("gap-hidden", "body"),
    "flatten_linear": ("flatten-linear", "body"),
    "tokens_class": ("class-token", "blocks.0"),
}
OPSETS = {"gap_linear": (9, 11, 13, 17, 18, 20), "flatten_linear": (11, 20)}
CASES = [(name, opset) for name in HEADS for opset in OPSETS.get(name, (11, 13, 17, 18, 20))]


@pytest.mark.parametrize(("name", "opset"), CASES)
def test_an_older_export_keeps_its_scores_and_gets_the_heads_maps(name, opset, pixels, tmp_path):
    net = NETS[name]()
    path = saved(tmp_path, old_onnx(net, opset))
    localizer = loaded(path)
    kind, module = HEADS[name]
    assert (localizer.card.head, localizer.engine.name) == (kind, "onnx")
    _, maps = autograd_maps(net, module, given(pixels))
    for batch in (1, 3):
        out = localizer.engine.run_maps(pixels[:batch], EVERYTHING)
        assert_close(out.logits, own_scores(path, given(pixels[:batch])))
        assert_close(out.maps, maps[:batch], 1e-4)
    if kind in EXACT:
        assert_adds_up(localizer.engine, out)
    assert localizer.check([pixels[0]]).exact == (kind in EXACT)


def test_any_classes_can_be_asked_for_picture_by_picture(pixels, tmp_path):
    engine = loaded(saved(tmp_path, old_onnx(NETS["gap_norm_linear"]()))).engine
    whole = engine.run_maps(pixels, EVERYTHING)
    asked = np.array([[6, 0], [3, 3], [1, 5]])
    out = engine.run_maps(pixels, asked)
    np.testing.assert_array_equal(out.classes, asked)
    for i, row in enumerate(asked):
        np.testing.assert_allclose(out.maps[i], whole.maps[i, row], atol=1e-5)


@pytest.fixture(scope="module")
def dynamo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PyTorch's newer exporter, sizes free, two outputs: the logits and the features."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = NETS["gap_linear"]()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            features = self.net.body(x)
            return features, self.net.head(features)

    path = tmp_path_factory.mktemp("dynamo") / "net.onnx"
    any_ = torch.export.Dim.AUTO
    torch.onnx.export(
        Both().eval(),
        (torch.zeros(2, 3, SIDE, SIDE),),
        dynamo=True,
        opset_version=20,
        input_names=["picture"],
        output_names=["map", "logits"],
        dynamic_shapes={"x": {0: any_, 2: any_, 3: any_}},
        verbose=False,
    ).save(path)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_newer_export_runs_at_other_sizes_and_its_map_is_no_score(dynamo, pixels):
    localizer = loaded(dynamo)
    assert (localizer.card.fixed_hw, localizer.card.fixed_batch) == (None, None)
    wide = np.concatenate([pixels, pixels], 2)
    for shown in (pixels, wide):
        out = localizer.engine.run_maps(shown, EVERYTHING)
        logits, maps = autograd_maps(NETS["gap_linear"](), "body", given(shown))
        assert_close(out.logits, own_scores(dynamo, given(shown)))
        assert_close(out.logits, logits)
        assert_close(out.maps, maps, 1e-4)
    assert out.maps.shape == (3, CLASSES, 4, 8)


# --- graphs written by hand -------------------------------------------------------------------


def weights(name, *shape, kind=np.float32):
    values = np.random.default_rng(len(name)).standard_normal(shape) * 0.3
    return numpy_helper.from_array(values.astype(kind), name)


def value(name, sides, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, sides)


NODES = [
    helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1] * 4),
    helper.make_node("Relu", ["c"], ["r"]),
    helper.make_node("Conv", ["r", "ww"], ["cc"], strides=[2, 2], pads=[1] * 4),
    helper.make_node("Relu", ["cc"], ["rr"]),
    helper.make_node("GlobalAveragePool", ["rr"], ["pooled"]),
    helper.make_node("Flatten", ["pooled"], ["flat"]),
    helper.make_node("Gemm", ["flat", "www", "bias"], ["logits"], transB=1),
]


def graph(nodes=NODES, inputs=None, outputs=None, channels=3, more=(), opset=17, ir=8, **others):
    """Two convolutions, mean, linear: `x` to `logits`; `r` and `rr` have positions."""
    constants = [
        weights("w", 8, channels, 3, 3),
        weights("ww", 16, 8, 3, 3),
        weights("www", CLASSES, 16),
        weights("bias", CLASSES),
        *more,
    ]
    inputs = inputs or [value("x", SIDES)]
    outputs = outputs or [value("logits", ["batch", CLASSES])]
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    made = helper.make_graph(nodes, "by hand", inputs, outputs, constants)
    model = helper.make_model(made, opset_imports=domains, **others)
    model.ir_version = ir
    return model


SOFTMAX = helper.make_node("Softmax", ["logits"], ["scores"], axis=1)
BY_POSITION = [
    *NODES[:4],
    helper.make_node("Conv", ["rr", "square"], ["planes"]),
    helper.make_node("GlobalAveragePool", ["planes"], ["logits"]),
]
SQUARE = weights("square", CLASSES, 16, 1, 1)


def nhwc(sides):
    turned = helper.make_node("Transpose", ["pictures"], ["x"], perm=[0, 3, 1, 2])
    return graph([turned, *NODES], [value("pictures", sides)])


def weights_as_inputs():
    """As files before ONNX 1.4 had to."""
    model = graph(opset=7, ir=3)
    model.graph.input.extend(value(c.name, list(c.dims)) for c in model.graph.initializer)
    return model


def with_function():
    own = [helper.make_node("Relu", ["a"], ["b"])]
    act = helper.make_function("own", "Act", ["a"], ["b"], own, [helper.make_opsetid("", 17)])
    nodes = [*NODES[:3], helper.make_node("Act", ["cc"], ["rr"], domain="own"), *NODES[4:]]
    return graph(nodes, functions=[act])


def with_branch():
    """A constant condition; its branches read a tensor and a weight of the graph around them."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Mul", ["rr", "gain"], [name])], name, [], [value(name, None)]
        )
        for name in ("then", "else")
    }
    more = [
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.array(1.5, np.float32), "gain"),
    ]
    chosen = helper.make_node("If", ["yes"], ["scaled"], **branches)
    pooled = helper.make_node("GlobalAveragePool", ["scaled"], ["pooled"])
    return graph([*NODES[:4], chosen, pooled, *NODES[5:]], more=more)


TAKEN = {
    "plain": (graph(), None, None),
    "opset 9": (graph(opset=9, ir=4), None, None),
    "opset 21": (graph(opset=21, ir=10), None, None),
    "weights as inputs": (weights_as_inputs(), None, None),
    "a size": (graph(inputs=[value("x", ["batch", 3, SIDE, SIDE])]), (SIDE, SIDE), None),
    "one picture": (graph(inputs=[value("x", [1, 3, "height", "width"])]), None, 1),
    "sides of -1": (graph(inputs=[value("x", [-1, 3, -1, -1])]), None, None),
    "a function": (with_function(), None, None),
    "a feature map beside": (
        graph(outputs=[value("rr", ["batch", 16, "h", "w"]), value("logits", ["batch", CLASSES])]),
        None,
        None,
    ),
    "probabilities beside": (
        graph(
            [*NODES, SOFTMAX],
            outputs=[value("scores", ["batch", CLASSES]), value("logits", ["batch", CLASSES])],
        ),
        None,
        None,
    ),
}


@pytest.mark.parametrize("case", TAKEN)
def test_a_graph_by_hand_is_taken(case, pixels, tmp_path):
    model, fixed_hw, fixed_batch = TAKEN[case]
    localizer = loaded(saved(tmp_path, model))
    card = localizer.card
    assert (card.head, card.fixed_hw, card.fixed_batch) == ("gap-linear", fixed_hw, fixed_batch)
    assert "left out" not in card.features_at
    for batch in (1, 3):
        out = localizer.engine.run_maps(pixels[:batch], EVERYTHING)
        assert_close(out.logits, own_scores(tmp_path / "net.onnx", given(pixels[:batch])))
        assert_adds_up(localizer.engine, out)


@pytest.mark.parametrize("sides", [["batch", "h", "w", 3], [1, SIDE, SIDE, 3]], ids=str)
def test_channels_may_come_last(sides, pixels, tmp_path):
    path = saved(tmp_path, nhwc(sides))
    out = loaded(path).engine.run_maps(pixels, EVERYTHING)
    assert_close(out.logits, own_scores(path, given(pixels).transpose(0, 2, 3, 1)))


def test_branches_keep_what_they_read(pixels, tmp_path):
    path = saved(tmp_path, with_branch())
    out = loaded(path, layer="scaled").engine.run_maps(pixels, EVERYTHING)
    assert_close(out.logits, own_scores(path, given(pixels)))


def test_a_final_softmax_is_left_out_and_the_card_says_so(pixels, tmp_path):
    path = saved(tmp_path, graph([*NODES, SOFTMAX], outputs=[value("scores", ["b", CLASSES])]))
    localizer = loaded(path)
    assert "its last step, which makes probabilities, is left out" in (localizer.card.features_at)
    out = localizer.engine.run_maps(pixels, EVERYTHING)
    power = np.exp(out.logits)
    expected = own_scores(path, given(pixels), "scores")
    np.testing.assert_allclose(power / power.sum(1, keepdims=True), expected, atol=1e-6)
    assert_adds_up(localizer.engine, out)


@pytest.mark.parametrize("softmax", [False, True])
def test_scores_of_one_position_are_flattened(softmax, pixels, tmp_path):
    name = "scores" if softmax else "logits"
    nodes = [*BY_POSITION, SOFTMAX] if softmax else BY_POSITION
    model = graph(nodes, outputs=[value(name, ["batch", CLASSES, 1, 1])], more=[SQUARE])
    path = saved(tmp_path, model)
    localizer = loaded(path)
    out = localizer.engine.run_maps(pixels, EVERYTHING)
    assert localizer.card.head == "gap-linear"
    power = np.exp(out.logits)
    ours = power / power.sum(1, keepdims=True) if softmax else out.logits
    assert_close(ours, own_scores(path, given(pixels), name)[:, :, 0, 0])
    assert_adds_up(localizer.engine, out)


def test_weights_may_lie_in_a_file_beside(pixels, tmp_path):
    path = tmp_path / "net.onnx"
    beside = {"location": "net.bin", "size_threshold": 0}
    onnx.save(graph(), path, save_as_external_data=True, **beside)
    assert (tmp_path / "net.bin").stat().st_size > 5000
    out = loaded(path).engine.run_maps(pixels, EVERYTHING)
    assert_close(out.logits, own_scores(path, given(pixels)))
    (tmp_path / "net.bin").unlink()
    with pytest.raises(ModelError, match=r"net\.onnx: .*net\.bin"):
        loaded(path)


def test_the_files_own_size_is_taken(tmp_path):
    path = saved(tmp_path, graph(inputs=[value("x", [1, 3, 96, 80])]))
    card = loaded(path, preprocessing="0..1").card
    assert (card.fixed_hw, card.recipe.input_size_hw) == ((96, 80), (96, 80))
    with pytest.raises(ModelError, match=r"takes pictures of 96 x 80 only, asked for 64 x 64"):
        loaded(path, preprocessing="0..1", size_hw=(SIDE, SIDE))


def test_a_layer_is_a_tensors_name(pixels, tmp_path):
    path = saved(tmp_path, graph())
    early = loaded(path, layer="r")
    assert early.engine.run_maps(pixels, EVERYTHING).maps.shape[2:] == (32, 32)
    with pytest.raises(ModelError, match=r"layer 'rrr': no .* is called so; close: rr, r"):
        loaded(path, layer="rrr")
    with pytest.raises(ModelError, match=r"layer 'flat': expected a tensor with positions.*rr"):
        loaded(path, layer="flat")


# --- what is refused --------------------------------------------------------------------------


def half():
    model = graph(inputs=[value("x", SIDES, TensorProto.FLOAT16)])
    for constant in model.graph.initializer:
        values = numpy_helper.to_array(constant).astype(np.float16)
        constant.CopyFrom(numpy_helper.from_array(values, constant.name))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def half_inside():
    """Float input and output, half precision between."""
    model = half()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.node[0].input[0] = "xx"
    into = helper.make_node("Cast", ["x"], ["xx"], to=TensorProto.FLOAT16)
    nodes = [into, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def second_head():
    nodes = [*NODES, helper.make_node("Gemm", ["flat", "www", "bias"], ["other"], transB=1)]
    nodes[-2] = helper.make_node("Gemm", ["flat", "www"], ["one"], transB=1)
    return graph(nodes, outputs=[value("one", ["b", CLASSES]), value("other", ["b", CLASSES])])


def detector():
    axes = numpy_helper.from_array(np.array([1]), "axes")
    nodes = [*NODES, helper.make_node("Unsqueeze", ["logits", "axes"], ["boxes"])]
    return graph(nodes, outputs=[value("boxes", ["b", 1, CLASSES])], more=[axes])


def quantized():
    """The last step, the linear layer, on 8 bits."""
    scales = [numpy_helper.from_array(np.array(0.1, np.float32), "scale")]
    zeros = [numpy_helper.from_array(np.array(0, np.int8), "zero")]
    nodes = [
        *NODES[:6],
        helper.make_node("QuantizeLinear", ["flat", "scale", "zero"], ["rough"]),
        helper.make_node("DequantizeLinear", ["rough", "scale", "zero"], ["flatter"]),
        helper.make_node("Gemm", ["flatter", "www", "bias"], ["logits"], transB=1),
    ]
    return graph(nodes, more=[*scales, *zeros])


REFUSED = {
    "8 bits": (quantized(), r"the network is quantized, and gives no maps .* Give its float file"),
    "half precision": (half(), r"expected pictures as float32, got float16\. Export it with"),
    "half inside": (half_inside(), r"computes in half precision \(weight 'w'\)\. Export it in"),
    "grey": (
        graph(inputs=[value("x", ["b", 1, "h", "w"])], channels=1),
        r"expected colour pictures \[B, 3, H, W\] .* got \['free', 1, 'free', 'free'\]",
    ),
    "four channels": (
        graph(inputs=[value("x", ["b", 4, 64, 64])], channels=4),
        r"expected colour pictures .*\['free', 4, 64, 64\]\. Export it with 3 fixed channels",
    ),
    "pairs": (graph(inputs=[value("x", [2, 3, "h", "w"])]), r"takes 2 pictures at once and no"),
    "two inputs": (
        graph(inputs=[value("x", SIDES), value("mask", ["b"])]),
        r"expected one input, the picture, got x, mask\. Export it with one",
    ),
    "two heads": (
        second_head(),
        r"expected one output with logits \[B, C\], got one \[b, 7\], other \[b, 7\]\. Name it",
    ),
    "a segmenter": (
        graph(NODES[:4], outputs=[value("rr", ["b", 16, "h", "w"])]),
        r"got rr \[b, 16, h, w\]\. A network .* is no classifier",
    ),
    "a detector": (detector(), r"got boxes \[b, 1, 7\]\. A network .* is no classifier"),
    "an unknown operator": (
        graph([*NODES[:3], helper.make_node("Foo", ["cc"], ["rr"], domain="own"), *NODES[4:]]),
        r"own:Foo.*export it again",
    ),
    "nothing": (b"", r"not an ONNX model .*Export it again"),
    "half a file": (graph().SerializeToString()[:3000], r"not an ONNX model"),
    "a page": (b"<html><body>Not found</body></html>", r"not an ONNX model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_words(case, tmp_path):
    model, words = REFUSED[case]
    path = saved(tmp_path, model)
    with pytest.raises(ModelError, match=rf"(?s){re.escape(str(path))}: .*{words}"):
        loaded(path)


WRONG = {
    "no labels": ({"labels": None}, r"does not name its 7 classes: give labels, a list or a file"),
    "few labels": ({"labels": LABELS[:5]}, r"the network has 7 classes and 5 names were given"),
    "imagenet": ({"labels": "imagenet"}, r"the network has 7 classes and 1000 names were given"),
    "no preprocessing": (
        {"preprocessing": None},
        r"does not say what it expects of pictures: give preprocessing, 'imagenet' for mean",
    ),
    "unknown preprocessing": ({"preprocessing": "torch"}, r"'torch' is unknown: expected 'imag"),
    "torch": ({"engine": "torch"}, r"runs on ONNX Runtime only, without gradients\. Give the"),
    "gradcam": ({"method": "gradcam"}, r"runs on ONNX Runtime only, without gradients"),
    "checkpoint": ({"checkpoint": "weights.pt"}, r"takes no checkpoint: leave it out"),
    "device": ({"device": "cuda"}, r"takes no device: leave it out"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_is_named(case, tmp_path):
    options, words = WRONG[case]
    with pytest.raises(ArgumentError, match=words):
        loaded(saved(tmp_path, graph()), **options)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(GapcamError, match=r"net\.onnx: no such model file .*Check the path"):
        loaded(tmp_path / "net.onnx")
