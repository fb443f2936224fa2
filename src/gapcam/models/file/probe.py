"""Runs a network's head alone on features of our choice: its weights and its bias, measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from gapcam.models.file.network import Network, StoredWeights
from gapcam.models.gradients import append_gradient
from gapcam.models.trace import LINEAR_KINDS
from gapcam.types import FloatArray, ModelError

FED = "fed_features"
CLASSES = "asked"
CHUNK_VALUES = 2**24
"""Gradients held at once: 64 MiB."""

ROUNDING = 1e-4


def probe_head(network: Network) -> Network:
    """The network with `bias`, and `weights` where its head is linear on pooled features.

    The bias is the score of all-zero features. The weights are the gradient of each score, summed
    over positions; features at random must then give the head's own scores.

    Raises:
        ModelError: The head does not run, or is not linear where its steps say so.
    """
    session = _session(network)
    shape = list(network.shapes[network.features])
    shape[0] = network.fixed_batch or 1
    bias = _run(session, network, np.zeros(shape, np.float32))[0][0]
    noise = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    if network.kind == "gap-norm-linear" and not np.isfinite(bias).all():
        bias = _bias_left_over(session, network, noise)
    probed = dataclasses.replace(network, bias=bias)
    if network.kind not in LINEAR_KINDS:
        return probed
    weights = _weights(session, network, noise)
    _check(session, network, noise, weights, bias)
    stored = _stored(network, weights)
    return dataclasses.replace(probed, weights=weights, stored_weights=stored)


def _session(network: Network) -> onnxruntime.InferenceSession:
    """The head as a graph of its own: `fed_features` and `asked` to logits and gradient."""
    assert network.logits is not None  # noqa: S101 (for the type checker)
    nodes = []
    for node in network.proto.graph.node:
        made = onnx.NodeProto()
        made.CopyFrom(node)
        for i, name in enumerate(made.input):
            if name == network.features:
                made.input[i] = FED
        nodes.append(made)
    shapes = {**network.shapes, FED: network.shapes[network.features]}
    gradient = append_gradient(
        nodes,
        {c.name: numpy_helper.to_array(c) for c in network.proto.graph.initializer},
        features=FED,
        logits=network.logits,
        classes=CLASSES,
        class_count=len(network.bias),
        shapes=shapes,
        opset=network.opset,
        prefix="gradient",
    )
    sides: list[int | str] = [f"side{i}" for i in range(len(shapes[FED]))]
    graph = helper.make_graph(
        [*nodes, *gradient.nodes],
        "head",
        [
            *network.proto.graph.input,
            helper.make_tensor_value_info(FED, TensorProto.FLOAT, sides),
            helper.make_tensor_value_info(CLASSES, TensorProto.INT64, ["b", "n"]),
        ],
        [onnx.ValueInfoProto(name=network.logits), onnx.ValueInfoProto(name=gradient.name)],
        [*network.proto.graph.initializer, *gradient.constants],
    )
    model = helper.make_model(graph, opset_imports=list(network.proto.opset_import))
    model.ir_version = network.proto.ir_version
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    data, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(data, options, providers=providers)


def _run(
    session: onnxruntime.InferenceSession,
    network: Network,
    features: FloatArray,
    classes: range | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Logits `[B, C]`, or with `classes` the gradient `[n, B, ...]` too."""
    batch = len(features)
    sides = list(network.preprocessing.size_hw)
    nchw = network.picture_layout == "nchw"
    picture = np.zeros([batch, 3, *sides] if nchw else [batch, *sides, 3], np.float32)
    given = {
        network.picture: picture,
        FED: features,
        CLASSES: np.tile(np.array(classes or [0], np.int64), (batch, 1)),
    }
    wanted = [o.name for o in session.get_outputs()][: 1 if classes is None else 2]
    names = {i.name for i in session.get_inputs()}
    out = session.run(wanted, {k: v for k, v in given.items() if k in names})
    return out[0], out[-1]


def _bias_left_over(
    session: onnxruntime.InferenceSession, network: Network, noise: FloatArray
) -> FloatArray:
    """What the map does not explain of a score: a cosine head has no length to divide zero by."""
    logits = _run(session, network, noise)[0][0]
    shares = [
        (_run(session, network, noise, range(c, c + 1))[1][0] * noise).sum()
        for c in range(len(logits))
    ]
    left: FloatArray = (logits - np.array(shares)).astype(np.float32)
    return left


def _weights(
    session: onnxruntime.InferenceSession, network: Network, noise: FloatArray
) -> FloatArray:
    """`[C, K]`: the gradient of every score, summed over positions."""
    count = len(network.bias)
    step = max(1, CHUNK_VALUES // noise.size)
    axes = tuple(axis + 1 for axis in network.layout.position_axes)
    rows = []
    for start in range(0, count, step):
        classes = range(start, min(start + step, count))
        gradient = _run(session, network, noise, classes)[1]
        rows.append(gradient.sum(axes)[:, 0])
    weights: FloatArray = np.concatenate(rows)
    return weights


def _check(
    session: onnxruntime.InferenceSession,
    network: Network,
    noise: FloatArray,
    weights: FloatArray,
    bias: FloatArray,
) -> None:
    logits = _run(session, network, noise)[0]
    pool = np.max if network.kind == "gmp-linear" else np.mean
    pooled = pool(noise, axis=network.layout.position_axes)
    gap = np.abs(pooled @ weights.T + bias - logits).max()
    if not gap <= ROUNDING * max(np.ptp(logits), np.abs(logits).max()):
        raise ModelError(
            f"the head looks linear ({network.words}) and is not: random features give scores "
            f"{gap:.1e} away from weights times features. Please report this network."
        )


def _stored(network: Network, weights: FloatArray) -> StoredWeights | None:
    """The network's own constant with these weights, so that the file holds them once."""
    tolerance = ROUNDING * float(np.abs(weights).max())
    for constant in network.proto.graph.initializer:
        for transposed in (False, True):
            if tuple(constant.dims) != (weights.T if transposed else weights).shape:
                continue
            value = numpy_helper.to_array(constant)
            if np.abs((value.T if transposed else value) - weights).max() <= tolerance:
                return StoredWeights(constant.name, transposed)
    return None
