"""Small ONNX models, how to run them, and `torch.autograd` in float64 beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from gapcam.models.gradients import append_gradient

CLASSES = 5
RNG = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass
class Case:
    """One operation: as ONNX text, and as a torch function of x and the constants."""

    text: str
    torch: Callable[..., torch.Tensor]
    shape: tuple[int, ...] = (3, 4)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    opset: int = 18
    positive: bool = False


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], names=None) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(names, feeds)


def model_of(nodes, constants, outputs, inputs, opset) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "head", inputs, outputs, constants)
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def probed(nodes, constants, x: np.ndarray, opset: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors in a run."""
    names = [name for node in nodes for name in node.output]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * x.ndim)]
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    values = run(model_of(nodes, constants, outputs, inputs, opset), {"x": x}, names)
    return {"x": x.shape, **{n: v.shape for n, v in zip(names, values, strict=True)}}


def differentiated(case: Case, weights: np.ndarray, *, frozen: bool) -> onnx.ModelProto:
    """`x`, `classes` to `logits`, `gradient`: the operation, flattened, and a linear layer."""
    lines = [line.strip() for line in case.text.split(";")]
    nodes = [onnx.parser.parse_node(line) for line in lines]
    nodes += [
        helper.make_node("Flatten", ["y"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "W"], ["logits"], transB=1),
    ]
    arrays = {**case.constants, "W": weights}
    constants = [numpy_helper.from_array(value, name) for name, value in arrays.items()]
    start = np.abs(normal(2, *case.shape)) + 0.5
    shapes = probed(nodes, constants, start, case.opset)
    gradient = append_gradient(
        nodes,
        arrays,
        "x",
        "logits",
        "classes",
        CLASSES,
        shapes,
        case.opset,
        "grad",
        frozen_norms=frozen,
    )
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", *case.shape]),
        helper.make_tensor_value_info("classes", TensorProto.INT64, ["b", "n"]),
    ]
    outputs = [helper.make_empty_tensor_value_info(n) for n in ("logits", gradient.name)]
    everything = [*constants, *gradient.constants]
    return model_of([*nodes, *gradient.nodes], everything, outputs, inputs, case.opset)


def expected(case: Case, x: np.ndarray, classes: np.ndarray, weights: np.ndarray):
    given = torch.from_numpy(x).double().requires_grad_()
    constants = {
        k: torch.from_numpy(np.array(v)).double() if v.dtype == np.float32 else v
        for k, v in case.constants.items()
    }
    logits = case.torch(given, **constants).flatten(1) @ torch.from_numpy(weights).double().T
    chosen = logits.gather(1, torch.from_numpy(classes))
    gradients = [
        torch.autograd.grad(chosen[:, i].sum(), given, retain_graph=True)[0]
        for i in range(classes.shape[1])
    ]
    return logits.detach().numpy(), torch.stack(gradients).numpy()


def width(case: Case) -> int:
    constants = {
        k: torch.from_numpy(np.array(v)).double() if v.dtype == np.float32 else v
        for k, v in case.constants.items()
    }
    return case.torch(torch.ones(2, *case.shape).double(), **constants).flatten(1).shape[1]


def check(case: Case, *, frozen: bool = False) -> None:
    weights = normal(CLASSES, width(case))
    model = differentiated(case, weights, frozen=frozen)
    for batch, n in ((1, 1), (1, 4), (3, 1), (3, 4)):
        x = normal(batch, *case.shape)
        x = np.abs(x) + np.float32(0.1) if case.positive else x
        classes = RNG.integers(0, CLASSES, (batch, n))
        logits, gradient = run(model, {"x": x, "classes": classes})
        true_logits, true_gradient = expected(case, x, classes, weights)
        np.testing.assert_allclose(logits, true_logits, rtol=1e-4, atol=1e-4)
        assert gradient.shape == (n, batch, *case.shape)
        scale = np.abs(true_gradient).max()
        np.testing.assert_allclose(gradient, true_gradient, rtol=1e-3, atol=1e-4 * scale)
