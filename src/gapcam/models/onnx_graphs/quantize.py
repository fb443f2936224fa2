"""The int8 variant of a model file: the network in 8 bits, everything after it in float.

Quantized is what comes before the features, by ONNX Runtime's static quantization (QDQ nodes;
Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, arXiv 1712.05877). Preprocessing, head and maps read the features that the
8-bit network gives, in float, so the maps add up to the scores as exactly as before. Imports onnx.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, shape_inference
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from gapcam.models.model_file import INPUT, OUTPUTS
from gapcam.types import ArgumentError, ByteArray, FloatArray, ModelError

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that hold the weights: 8 bits make them smaller and faster."""

BETWEEN = ("Add", "Clip", "Concat", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Relu")
"""Operators that ONNX Runtime keeps in 8 bits between those. Norms, softmax and the smooth
activations of transformers stay in float, where 8 bits cost most and gain least."""

_FLOAT_PREFIXES = ("prepare_", "localize_")
_EIGHT_BITS: dict[str, Any] = {"reduce_range": False, "symmetric": True}
TINY = np.float32(1e-8)
_QUANTIZED_ALREADY = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


@dataclass(frozen=True, slots=True)
class QuantizeChoices:
    """What static quantization leaves open; the defaults are measured (`benchmarks/int8.py`).

    Attributes:
        method: How the range of an activation is read off the pictures: all of it (`minmax`), the
            one that loses least information (`entropy`), or without the largest values
            (`percentile`).
        percentile: The share of values that `percentile` keeps, percent.
        per_channel: A scale for each output channel of a weight, instead of one.
        weights: CPUs with AVX2 or AVX-512 and no VNNI add neighbouring products of uint8 and int8
            in 16 bits, which saturate. `eight-bits` lets them; `seven-bits` cannot saturate (ONNX
            Runtime's `reduce_range`); `pairs` (ours) scales each output channel so that no
            two neighbouring weights can, which leaves nearly 8 bits. It needs `per_channel`.
        signed_activations: int8 instead of uint8 activations.
        symmetric: Whether the zero of activations is the middle of their range.
        float_first: How many of the first layers with weights stay in float.
        float_last: How many of the last.
        float_depthwise: Whether convolutions with a filter for each channel stay in float.
    """

    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    percentile: float = 99.999
    per_channel: bool = True
    weights: Literal["eight-bits", "seven-bits", "pairs"] = "pairs"
    signed_activations: bool = False
    symmetric: bool = False
    float_first: int = 0
    float_last: int = 0
    float_depthwise: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ArgumentError: Weights by pairs with one scale for all channels.
        """
        if self.weights == "pairs" and not self.per_channel:
            raise ArgumentError("weights: 'pairs' gives each channel a scale: set per_channel")


CHOSEN = QuantizeChoices()
"""Chosen on training pictures that do not calibrate, against the float EfficientNet-Lite0, on a CPU
with AVX2 and no VNNI. Weights by `pairs` change the logits 0.6 times as much as 7 bits and 0.3
times as much as 8 bits that saturate; one scale a weight ruins the network; the methods differ by
less than chance, so the simplest; signed activations are slower; a first layer in float gains
little, depthwise layers in float lose."""


def quantize_static_file(
    source: Path, out: Path, batches: Iterable[ByteArray], choices: QuantizeChoices = CHOSEN
) -> None:
    """Write the int8 variant of a model file.

    Its metadata, inputs, outputs, free axes and operator set are the source's.

    Args:
        source: A gapcam model file.
        out: Where the variant goes; written whole or not at all.
        batches: Calibration pictures, `uint8` RGB `[B, H, W, 3]`, of a size that the network
            takes; read once, a batch at a time.
        choices: What is quantized and how.

    Raises:
        ModelError: The file holds no network that can be quantized, or one in 8 or 16 bits; or
            there is no batch.
    """
    model = onnx.load(source)
    part = _network_part(model, str(source))
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".quantizing-") as folder, _quiet():
        ready, made = Path(folder) / "ready.onnx", Path(folder) / "made.onnx"
        quant_pre_process(part, ready, skip_symbolic_shape=True)
        prepared = onnx.load(ready)
        _quantize(prepared, ready, made, _Batches(batches), choices)
        whole = _put_back(model, part, onnx.load(made))
        onnx.checker.check_model(whole, full_check=True)
        kept = Path(folder) / out.name
        onnx.save(whole, kept)
        kept.replace(out)


def is_quantized(source: Path) -> bool:
    """Whether a model file's network is in 8 bits already."""
    model = onnx.load(source, load_external_data=False)
    return any(node.op_type in _QUANTIZED_ALREADY for node in model.graph.node)


def _quantize(
    prepared: onnx.ModelProto, source: Path, out: Path, data: _Batches, choices: QuantizeChoices
) -> None:
    quantize_static(
        source,
        out,
        data,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=[*sorted(WEIGHTED), *BETWEEN],
        per_channel=choices.per_channel,
        reduce_range=choices.weights != "eight-bits",
        activation_type=QuantType.QInt8 if choices.signed_activations else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_stay_float(prepared, choices),
        calibrate_method=_METHODS[choices.method],
        extra_options={
            "ActivationSymmetric": choices.symmetric,
            "CalibPercentile": choices.percentile,
            "CalibStridedMinMax": 1,  # a batch at a time, by any method: else all are held at once
            "MatMulConstBOnly": True,
            "TensorQuantOverrides": _pair_ranges(prepared) if choices.weights == "pairs" else {},
        },
    )


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Batches as ONNX Runtime asks for them: a step, and in it batches until None."""

    def __init__(self, batches: Iterable[ByteArray]) -> None:
        self._batches = list(batches)
        self._next, self._end = 0, len(self._batches)
        if not self._batches:
            raise ModelError("int8: expected at least one batch of calibration pictures, got none")

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """What the next step reads."""
        self._next, self._end = start_index, end_index

    def get_next(self) -> dict[str, ByteArray] | None:
        """The next batch of the step, or None."""
        if self._next >= self._end:
            return None
        self._next += 1
        return {INPUT: self._batches[self._next - 1]}


def _network_part(model: onnx.ModelProto, origin: str) -> onnx.ModelProto:
    """From the input to the features, as a model of its own.

    Its outputs are all that the rest of the file reads of it.

    Raises:
        ModelError: Nothing in it can be quantized.
    """
    graph = model.graph
    inside = _before_features(graph)
    nodes = [node for i, node in enumerate(graph.node) if i in inside]
    rest = [node for i, node in enumerate(graph.node) if i not in inside]
    needed = {name for node in rest for name in _reads(node)} | {o.name for o in graph.output}
    made = {name for node in nodes for name in node.output}
    read = {name for node in nodes for name in _reads(node)}
    constants = [c for c in graph.initializer if c.name in read]
    _check_quantizable(nodes, constants, origin)
    inferred = shape_inference.infer_shapes(model).graph
    types = {v.name: v for v in (*inferred.value_info, *inferred.output)}
    part = onnx.helper.make_graph(
        nodes,
        graph.name,
        [i for i in graph.input if i.name == INPUT],
        [types[name] for node in nodes for name in node.output if name in needed & made],
        constants,
    )
    cut = onnx.helper.make_model(part, opset_imports=list(model.opset_import))
    cut.ir_version = model.ir_version
    return cut


def _before_features(graph: onnx.GraphProto) -> set[int]:
    """Which nodes, by place, lead to the features; those that only turn their axes do not count."""
    wanted, found = {"features"}, set()
    for i in range(len(graph.node) - 1, -1, -1):
        node = graph.node[i]
        if wanted.intersection(node.output):
            wanted.update(_reads(node))
            if node.name not in OUTPUTS and not node.name.startswith("localize_"):
                found.add(i)
    return found


def _reads(node: onnx.NodeProto) -> list[str]:
    """What a node reads, through its branches and loops too."""
    inside = [n for a in node.attribute if a.HasField("g") for n in a.g.node]
    return [*node.input, *(name for n in inside for name in _reads(n))]


def _check_quantizable(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], origin: str
) -> None:
    if any(node.op_type in _QUANTIZED_ALREADY for node in nodes):
        raise ModelError(f"{origin}: the network is quantized already. Start from the float model.")
    if any(c.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for c in constants):
        raise ModelError(
            f"{origin}: the network is in 16 bits; int8 needs one in float32. Export it again "
            "from the float32 network."
        )
    names = {c.name for c in constants if c.data_type == TensorProto.FLOAT}
    if not any(node.op_type in WEIGHTED and names.intersection(node.input) for node in nodes):
        raise ModelError(
            f"{origin}: nothing to quantize: expected {', '.join(sorted(WEIGHTED))} with "
            "constant weights before the features. Keep the float model."
        )


def _stay_float(prepared: onnx.ModelProto, choices: QuantizeChoices) -> list[str]:
    """Names of the nodes that are not quantized."""
    nodes = prepared.graph.node
    constants = {c.name: c for c in prepared.graph.initializer}
    weighted = [n for n in nodes if n.op_type in WEIGHTED and constants.keys() & set(n.input)]
    apart = weighted[: choices.float_first]
    apart += weighted[len(weighted) - choices.float_last :]
    if choices.float_depthwise:
        apart += [n for n in weighted if _is_depthwise(n, constants)]
    before = [n.name for n in nodes if n.name.startswith(_FLOAT_PREFIXES)]
    return [*before, *(n.name for n in apart)]


def _pair_ranges(prepared: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """The range of every output channel of the weights, in the quantizer's words.

    ONNX Runtime's kernels take the sum over k in pairs: 255 (|q_2j| + |q_2j+1|) must stay below
    2^15, so the range of a channel is max_j (|w_2j| + |w_2j+1|). Depthwise kernels sum in 32 bits.
    """
    constants = {c.name: c for c in prepared.graph.initializer}
    ranges = {}
    for node in prepared.graph.node:
        if node.op_type not in WEIGHTED or node.input[1] not in constants:
            continue
        table = _channels_by_sum(node, np.abs(numpy_helper.to_array(constants[node.input[1]])))
        if table is None:
            continue  # stays in 7 bits
        rows, axis = table
        if not _is_depthwise(node, constants):
            rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
            rows = rows.reshape(len(rows), -1, 2).sum(2)
        largest = np.maximum(rows.max(1), TINY)
        entries = [{**_EIGHT_BITS, "rmin": -most, "rmax": most} for most in largest]
        entries[0]["axis"] = axis
        ranges[node.input[1]] = entries
    return ranges


def _channels_by_sum(node: onnx.NodeProto, weight: FloatArray) -> tuple[FloatArray, int] | None:
    """A weight as `[outputs, k]`, k as the kernels order it, and its axis of outputs."""
    if node.op_type == "Conv":
        return np.moveaxis(weight, 1, -1).reshape(len(weight), -1), 0  # channels are innermost
    if weight.ndim != 2 or node.op_type == "ConvTranspose":
        return None
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return (weight, 0) if transposed else (weight.T, 1)


def _is_depthwise(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    weight = constants.get(node.input[1])
    return node.op_type == "Conv" and groups > 1 and weight is not None and weight.dims[1] == 1


def _put_back(
    model: onnx.ModelProto, part: onnx.ModelProto, quantized: onnx.ModelProto
) -> onnx.ModelProto:
    """The model file with its network part replaced."""
    replaced = {tuple(node.output) for node in part.graph.node}
    rest = [node for node in model.graph.node if tuple(node.output) not in replaced]
    constants = {c.name: c for c in quantized.graph.initializer}
    read = {name for node in rest for name in _reads(node)} | {i.name for i in model.graph.input}
    constants.update({c.name: c for c in model.graph.initializer if c.name in read})
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    del whole.graph.node[:], whole.graph.initializer[:], whole.graph.value_info[:]
    whole.graph.node.extend([*quantized.graph.node, *rest])
    whole.graph.initializer.extend(constants.values())
    return whole


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's quantizer prints, and writes to the root logger and sets it up."""

    def theirs_not(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in record.pathname

    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)  # with none, the first warning would set up the root logger for good
    root.addFilter(theirs_not)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeFilter(theirs_not)
        root.removeHandler(handler)
