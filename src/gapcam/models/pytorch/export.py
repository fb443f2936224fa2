"""A traced PyTorch network to ONNX. Imports PyTorch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import nn
from torch.export import ExportedProgram

from gapcam.models.file.assemble import OPSET
from gapcam.models.pytorch.modules import float_copy
from gapcam.models.pytorch.trace import trace_module
from gapcam.types import ModelError, SizeHW

PICTURE = "picture"
LOGITS = "logits"


def export_module(
    module: nn.Module, size_hw: SizeHW, program: ExportedProgram | None = None
) -> onnx.ModelProto:
    """The network as ONNX: `picture` float `[B, 3, H, W]` to `logits` `[B, C]`.

    The batch, height and width are free; what the graph gives at other sizes than `size_hw` has to
    be tried (`gapcam.models.heads.sizes`). The module is not changed.

    Args:
        module: Any classifier that `gapcam.models.pytorch.modules.float_copy` takes.
        size_hw: The picture size that it is traced with, pixels.
        program: What `trace_module` gave for it, if that was done.

    Raises:
        ModelError: PyTorch cannot trace the network or cannot write it as ONNX; its own words are
            in the message.
    """
    name = type(module).__name__
    if program is None:
        program, _ = trace_module(module, size_hw)
    try:
        return _export(program)
    except Exception as error:  # the exporter raises almost anything
        spelled = _with_attention_spelled_out(module)
        if spelled is None:
            raise _refusal(name, error) from error
    try:
        return _export(trace_module(spelled, size_hw)[0])
    except Exception as error:
        raise _refusal(name, error) from error


def _export(program: ExportedProgram) -> onnx.ModelProto:
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=[PICTURE],
            output_names=[LOGITS],
            verbose=False,
        )
    if made is None:
        raise ModelError("the exporter gave no graph")
    proto = made.model_proto
    sides = proto.graph.input[0].type.tensor_type.shape.dim
    sides[2].dim_param, sides[3].dim_param = "height", "width"
    del proto.graph.value_info[:]  # shapes of the traced size
    return proto


def _with_attention_spelled_out(module: nn.Module) -> nn.Module | None:
    """A copy of a Transformers network that computes attention step by step; None: it is none."""
    network, found = float_copy(module), False
    for part in network.modules():
        config: Any = getattr(part, "config", None)
        if hasattr(config, "_attn_implementation"):
            config._attn_implementation, found = "eager", True
    return network if found else None


def _refusal(name: str, error: BaseException) -> ModelError:
    while error.__cause__ is not None:  # the error that began it all
        error = error.__cause__
    lines = str(error).strip().splitlines() or ["no message"]
    return ModelError(
        f"{name}: PyTorch cannot write it as ONNX ({type(error).__name__}: {lines[0][:200]}). "
        "Run it on the torch engine: engine='torch'."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns and logs about things that its caller cannot change."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
