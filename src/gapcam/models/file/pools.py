"""Scores of a head that replaces a network's own, as ONNX nodes: the formulas of `PooledLinear`."""

from __future__ import annotations

import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from gapcam.models.file.layouts import to_channels_first
from gapcam.models.file.network import Network, kept_for, stride_hw
from gapcam.models.file.nodes import Nodes
from gapcam.models.model_file import INPUT
from gapcam.types import FloatArray


def append_pooled_logits(n: Nodes, network: Network) -> None:
    """`logits` from `features` `[B, K, h, w]`, `head_weights` and `head_bias`, at any grid size.

    The formulas are those of `gapcam.models.pooling.PooledLinear`.
    """
    if network.kind == "lse-linear":
        _log_sum_exp(n, _value_of(network))
        return
    if network.kind == "tap-linear":
        pooled = _thresholded(n, _value_of(network))
    else:
        reduce = {"gap-linear": "ReduceMean", "gmp-linear": "ReduceMax"}[network.kind]
        pooled = n.add(reduce, ["features", n.integers(2, 3)], keepdims=0)
    n.add("Gemm", [pooled, "head_weights", "head_bias"], "logits", transB=1)


def _thresholded(n: Nodes, share: float) -> str:
    positions = n.integers(2, 3)
    highest = n.add("ReduceMax", ["features", positions], keepdims=1)
    threshold = n.add("Mul", [highest, n.number(share)])
    above = n.add("Greater", ["features", threshold])
    kept = n.add("Cast", [above], to=TensorProto.FLOAT)
    total = n.add("ReduceSum", [n.add("Mul", ["features", kept]), positions], keepdims=0)
    count = n.add("ReduceSum", [kept, positions], keepdims=0)
    return n.add("Div", [total, n.add("Max", [count, n.number(1)])])


def _log_sum_exp(n: Nodes, sharpness: float) -> None:
    """With the largest value of each map taken out, so that no exponential overflows."""
    last = n.integers(2)
    flat = n.add("Reshape", ["features", n.integers(0, 0, -1)])
    maps = n.add("MatMul", ["head_weights", flat])
    highest = n.add("ReduceMax", [maps, last], keepdims=1)
    sharp = n.add("Mul", [n.add("Sub", [maps, highest]), n.number(sharpness)])
    mean = n.add("ReduceMean", [n.add("Exp", [sharp]), last], keepdims=0)
    above = n.add("Div", [n.add("Log", [mean]), n.number(sharpness)])
    pooled = n.add("Add", [above, n.add("Squeeze", [highest, last])])
    n.add("Add", [pooled, "head_bias"], "logits")


def _value_of(network: Network) -> float:
    assert network.pool_value is not None  # noqa: S101 (its maker gives kinds with a value one)
    return network.pool_value


def run_pooled(network: Network, pictures: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What a head in place of the network's own reads and gives.

    Args:
        network: With `weights`.
        pictures: `[B, 3, H, W]` as the network takes them.

    Returns:
        Features `[B, K, h, w]` and logits `[B, C]`.
    """
    assert network.weights is not None  # noqa: S101 (for the type checker)
    n = Nodes("pooled")
    strides = stride_hw(network, network.layout)
    to_channels_first(n, network.features, network.layout, strides, "features")
    append_pooled_logits(n, network)
    model = kept_for(network.proto, [network.features])
    model.graph.node.extend(n.nodes)
    model.graph.initializer.extend(n.constants)
    for name, value in (("head_weights", network.weights), ("head_bias", network.bias)):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    del model.graph.output[:]
    for name in ("features", "logits"):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    channels_last = pictures.transpose(0, 2, 3, 1)
    feed = {network.picture: pictures if network.picture_layout == "nchw" else channels_last}
    if any(INPUT in node.input for node in n.nodes):  # tokens find their grid from its sides
        sides: list[str | int] = ["any_batch", "any_height", "any_width", 3]
        model.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, sides))
        feed[INPUT] = channels_last
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    data, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(data, options, providers=providers)
    features, logits = session.run(["features", "logits"], feed)
    return features, logits
