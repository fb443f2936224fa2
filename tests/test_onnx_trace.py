from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from gapcam.models.heads import find_head
from gapcam.models.onnx_graphs.trace import strip_probabilities, trace_onnx
from gapcam.models.trace import Layout
from gapcam.types import ModelError
from head_nets import CLASSES, NETS, SIDE, Headed, gap, old_onnx, trunk

RNG = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.3, shape).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    picture: list[int | str],
    outputs: dict[str, list[int | str]],
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("picture", FLOAT, picture)],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    onnx.checker.check_model(made, full_check=True)
    return made


def node(op: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), output.split(), **attributes)


def keras(opset: int = 9, batch: int | str = "b") -> onnx.ModelProto:
    """Channels last, attributes for axes, a softmax at the end, a name of its own: as tf2onnx."""
    nodes = [
        node("Transpose", "picture", "planes", perm=[0, 3, 1, 2]),
        node("Conv", "planes kernel", "conv", strides=[2, 2], auto_pad="SAME_UPPER"),
        node("Relu", "conv", "relu"),
        node("Transpose", "relu", "places", perm=[0, 2, 3, 1]),
        node("ReduceMean", "places", "pooled", axes=[1, 2], keepdims=0),
        node("MatMul", "pooled matrix", "product"),
        node("Add", "product shift", "scores"),
        node("Softmax", "scores", "probabilities", axis=1),
    ]
    constants = {"kernel": weights(8, 3, 3, 3), "matrix": weights(8, 5), "shift": weights(5)}
    return model(nodes, constants, [batch, "h", "w", 3], {"probabilities": [batch, 5]}, opset)


def run(proto: onnx.ModelProto, wanted: list[str], picture: np.ndarray) -> list[np.ndarray]:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"picture": picture})


def loaded(net: nn.Module, opset: int = 17) -> onnx.ModelProto:
    return onnx.load_from_string(old_onnx(net, opset))


def ops(proto: onnx.ModelProto) -> list[str]:
    return [step.op for step in trace_onnx(proto, (SIDE, SIDE)).steps]


@pytest.mark.parametrize("name", ["gap_norm_linear", "tokens_class", "squeezed", "flatten_hidden"])
def test_shapes_are_those_of_a_run(name: str):
    proto = loaded(NETS[name]())
    trace = trace_onnx(proto, (SIDE, SIDE))
    names = [output for step in trace.steps for output in step.outputs]
    values = run(proto, names, np.zeros((2, 3, SIDE, SIDE), np.float32))
    assert [trace.shapes[n] for n in names] == [value.shape for value in values]
    assert trace.shapes[trace.picture] == (2, 3, SIDE, SIDE)


@pytest.mark.parametrize("name", NETS)
def test_steps_can_run_in_their_order_and_each_is_needed(name: str):
    trace = trace_onnx(loaded(NETS[name]()), (SIDE, SIDE))
    there, read = {trace.picture}, {trace.logits}
    for step in trace.steps:
        assert there.issuperset(step.inputs)
        there.update(step.outputs)
        read.update(step.inputs)
    assert all(read.intersection(step.outputs) for step in trace.steps)
    assert trace.steps[-1].outputs == (trace.logits,)


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
@pytest.mark.parametrize("name", ["gap_norm_linear", "gap_l2_linear", "mobile", "tokens_mix"])
def test_old_and_new_operator_sets_give_the_same_head(name: str, opset: int):
    plan = find_head(trace_onnx(loaded(NETS[name](), opset), (SIDE, SIDE)))
    newest = find_head(trace_onnx(loaded(NETS[name]()), (SIDE, SIDE)))
    assert (plan.kind, plan.layout) == (newest.kind, newest.layout)


def activated(function: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Headed(trunk(), gap(nn.Linear(24, 8), function, nn.Linear(8, CLASSES))).eval()


@pytest.mark.parametrize(
    "function", [nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Hardswish(), nn.Mish()], ids=repr
)
def test_activations_of_several_nodes_are_one_activation(function: nn.Module):
    found = ops(loaded(activated(function), 13))
    tail = [op for op in found[found.index("mean") :] if op not in ("reshape", "scale")]
    assert tail == ["mean", "linear", "activation", "linear"]


class Normed(nn.Module):
    """One of the ways to write a norm of `[B, K]`."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, x):
        if self.way == "layer":
            centred = x - x.mean(1, keepdim=True)
            return centred / torch.sqrt((centred * centred).mean(1, keepdim=True) + 1e-6)
        if self.way == "rms":
            return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)
        if self.way == "length":
            return x / x.norm(dim=1, keepdim=True).clamp_min(1e-6)
        return torch.nn.functional.normalize(x)


@pytest.mark.parametrize("way", ["layer", "rms", "length", "normalize"])
def test_norms_of_several_nodes_are_one_norm(way: str):
    net = Headed(trunk(), gap(Normed(way), nn.Linear(24, CLASSES))).eval()
    trace = trace_onnx(loaded(net), (SIDE, SIDE))
    norms = [step for step in trace.steps if step.op == "norm"]
    assert [step.axes for step in norms] == [(1,)]
    assert find_head(trace).kind == "gap-norm-linear"


def test_a_gate_is_no_activation_and_no_norm():
    found = ops(loaded(NETS["squeezed"]()))
    assert found.count("multiply") == 1
    assert "norm" not in found


def test_a_group_norm_before_the_pooling_is_one_norm_of_the_plane():
    net = Headed(trunk(), nn.Sequential(nn.GroupNorm(4, 24), nn.ReLU(), gap(nn.Linear(24, 7))))
    trace = trace_onnx(loaded(net.eval()), (SIDE, SIDE))
    norm = next(step for step in trace.steps if step.op == "norm")
    assert norm.axes == (1, 2, 3)
    assert trace.shapes[norm.inputs[0]] == trace.shapes[norm.outputs[0]] == (2, 24, 4, 4)
    assert find_head(trace).layout == Layout(1, (2, 3), (4, 4))


def test_files_with_channels_last_and_a_softmax_are_understood():
    proto = keras()
    trace = trace_onnx(proto, (32, 48))
    assert trace.shapes[trace.picture] == (2, 32, 48, 3)
    name, stripped = strip_probabilities(proto)
    assert (name, stripped) == ("scores", True)
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("scores", FLOAT, ["b", 5]))
    plan = find_head(trace_onnx(proto, (32, 48)))
    assert (plan.kind, plan.layout) == ("gap-linear", Layout(3, (1, 2), (16, 24)))
    picture = RNG.normal(0, 1, (3, 32, 48, 3)).astype(np.float32)
    features, scores = run(proto, [plan.features, "scores"], picture)
    own = {c.name: numpy_helper.to_array(c) for c in proto.graph.initializer}
    expected = features.mean((1, 2)) @ own["matrix"] + own["shift"]
    np.testing.assert_allclose(expected, scores, atol=1e-5)


def test_a_batch_that_the_file_fixes_is_the_batch_of_the_trace():
    trace = trace_onnx(keras(batch=1), (32, 32))
    assert trace.shapes[trace.picture][0] == trace.shapes[trace.logits][0] == 1


def test_weights_listed_as_inputs_are_no_pictures():
    proto = keras()
    for constant in proto.graph.initializer:
        shape = list(constant.dims)
        proto.graph.input.append(helper.make_tensor_value_info(constant.name, FLOAT, shape))
    assert trace_onnx(proto, (32, 32)).picture == "picture"


def two_outputs(first: str, second: str, same: bool = True) -> onnx.ModelProto:
    nodes = [
        node("Conv", "picture kernel", "conv", strides=[4, 4]),
        node("GlobalAveragePool", "conv", "pooled"),
        node("Flatten", "pooled", first),
        node("Relu", first if same else "conv", second),
    ]
    shape: list[int | str] = ["b", 5] if same else ["b", 5, "r", "c"]
    outputs = {first: ["b", 5], second: shape}
    return model(nodes, {"kernel": weights(5, 3, 4, 4)}, ["b", 3, "h", "w"], outputs)


def test_the_output_with_two_sides_holds_the_logits():
    proto = two_outputs("answer", "map", same=False)
    assert strip_probabilities(proto) == ("answer", False)
    assert trace_onnx(proto, (32, 32)).logits == "answer"


def test_of_several_outputs_the_one_called_logits_is_taken():
    assert strip_probabilities(two_outputs("embedding", "logits")) == ("logits", False)
    assert trace_onnx(two_outputs("logits", "embedding"), (32, 32)).logits == "logits"


def test_several_outputs_of_unknown_names_are_refused_by_name():
    with pytest.raises(ModelError, match=r"got one \[.*\], two \["):
        strip_probabilities(two_outputs("one", "two"))


@pytest.mark.parametrize("op", ["Sigmoid", "LogSoftmax"])
def test_a_final_sigmoid_or_log_softmax_is_stripped(op: str):
    proto = two_outputs("scores", "rest")
    proto.graph.node[-1].op_type = op
    del proto.graph.output[0]
    assert strip_probabilities(proto) == ("scores", True)


def test_what_depends_on_the_sides_alone_is_no_step():
    nodes = [
        node("Conv", "picture kernel", "conv", strides=[4, 4]),
        node("Shape", "conv", "sides"),
        node("Slice", "sides zero two one", "front"),
        node("Concat", "front rest", "shape", axis=0),
        node("Reshape", "conv shape", "flat"),
        node("ReduceMean", "flat", "logits", axes=[2], keepdims=0),
    ]
    constants = {
        "kernel": weights(5, 3, 4, 4),
        "zero": np.array([0]),
        "two": np.array([2]),
        "one": np.array([0]),
        "rest": np.array([-1]),
    }
    trace = trace_onnx(model(nodes, constants, ["b", 3, "h", "w"], {"logits": ["b", 5]}), (16, 24))
    assert [step.op for step in trace.steps] == ["conv", "reshape", "mean"]
    plan = find_head(trace)
    assert plan.layout == Layout(2 - 1, (2,), (4, 6))


def test_selections_know_their_positions_whatever_says_them():
    nodes = [
        node("Split", "picture sizes", "first second", axis=2),
        node("Gather", "second last", "row", axis=2),
        node("Slice", "first minus end axis", "rows"),
        node("Concat", "row rows", "both", axis=2),
        node("ReduceMean", "both", "logits", axes=[2, 3], keepdims=0),
    ]
    constants = {
        "sizes": np.array([6, 10]),
        "last": np.array([-1]),
        "minus": np.array([-4]),
        "end": np.array([2**62]),
        "axis": np.array([2]),
    }
    trace = trace_onnx(model(nodes, constants, ["b", 3, 16, 16], {"logits": ["b", 3]}), (16, 16))
    kept = {step.outputs[0]: (step.op, step.axes, step.kept) for step in trace.steps}
    assert kept["first"] == ("select", (2,), (0, 6))
    assert kept["second"] == ("select", (2,), (6, 16))
    assert kept["row"] == ("select", (2,), (9, 10))
    assert kept["rows"] == ("select", (2,), (2, 6))
    assert kept["both"] == ("concat", (2,), (0, 1))


def test_the_module_of_a_step_is_said_in_its_words():
    trace = trace_onnx(loaded(NETS["gap_linear"]()), (SIDE, SIDE))
    assert trace.steps[-1].words == "Gemm head.2"
    assert [s.words for s in trace.steps if s.op == "activation"][-1] == "Relu body.3.2"


def test_the_model_is_left_as_it_was():
    proto = keras()
    before = proto.SerializeToString()
    trace_onnx(proto, (32, 32))
    strip_probabilities(proto)
    assert proto.SerializeToString() == before


@pytest.mark.parametrize(
    ("proto", "size_hw", "words"),
    [
        (lambda: loaded(NETS["gap_linear"]()), (48, 48), "network takes .*64, 64"),
        (lambda: two_outputs("one", "two"), (2, 2), "does not run on a picture"),
    ],
)
def test_pictures_that_the_network_does_not_take_are_refused(proto, size_hw, words: str):
    with pytest.raises(ModelError, match=words):
        trace_onnx(proto(), size_hw)


def test_no_classifier_is_refused():
    nodes = [node("Conv", "picture kernel", "map", strides=[4, 4])]
    constants = {"kernel": weights(5, 3, 4, 4)}
    proto = model(nodes, constants, ["b", 3, "h", "w"], {"map": ["b", 5, "r", "c"]})
    with pytest.raises(ModelError, match="one score a class"):
        trace_onnx(proto, (16, 16))


def test_a_graph_with_two_inputs_is_refused():
    proto = keras()
    proto.graph.input.append(helper.make_tensor_value_info("other", FLOAT, [1]))
    with pytest.raises(ModelError, match="got picture, other"):
        trace_onnx(proto, (16, 16))
