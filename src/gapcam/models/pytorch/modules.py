"""A copy of someone's PyTorch module that can be traced and run; the module itself is left alone.

The copy has a structure of its own (modes, hooks, attributes) and shares the weights, so that it
costs no memory and nothing that is done to it shows in the original.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gapcam.types import ModelError

LOGITS_KEYS = ("logits", "out")


class LogitsOnly(nn.Module):
    """A network whose forward pass takes pictures and gives logits, whatever else it gives.

    Args:
        network: The network, in evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = False  # not eval(), which would call the network's own train()

    def forward(self, x: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]` to logits `[B, C]`, in the network's own precision."""
        return logits_of(self.network(x.to(floating_type(self.network))))


def evaluation_copy(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode that gives logits `[B, C]` for pictures `[B, 3, H, W]`.

    Parameters and buffers are the module's own tensors; everything else is copied. Wrappers of
    `torch.compile`, `DataParallel` and `DistributedDataParallel` are taken off. Forward hooks stay,
    since they can be part of what the network computes (weight norm, pruning); backward hooks go.

    Raises:
        ModelError: It is no module, a scripted one, or one that `copy.deepcopy` cannot copy.
    """
    return LogitsOnly(_copy(module, lambda tensor: tensor))


def float_copy(module: nn.Module) -> nn.Module:
    """An evaluation copy in float32 on the CPU; tensors that are so already are shared.

    Raises:
        ModelError: As `evaluation_copy`.
    """
    return LogitsOnly(_copy(module, _to_float))


def detached_copy(module: nn.Module) -> nn.Module:
    """A float copy with weights that record no gradients and buffers of its own to write to.

    Raises:
        ModelError: As `evaluation_copy`.
    """
    return LogitsOnly(_copy(module, _to_detached))


def copy_on(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a detached copy on a device; it shares what is there already."""
    return _copy(module, lambda tensor: _placed(tensor, device))


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside wrappers that only say how to run it.

    Raises:
        ModelError: It is no module, or a scripted one.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(f"expected a PyTorch module, got {type(module).__name__}")
    inner = _inner(module)
    while inner is not None:
        module, inner = inner, _inner(inner)
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            "a TorchScript module cannot be taken apart; give the PyTorch module it was made from, "
            "or an ONNX file"
        )
    return module


def floating_type(module: nn.Module) -> torch.dtype:
    """The type of the module's floating-point weights: of the first; float32 if it has none."""
    for tensor in module.parameters():
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


def logits_of(output: Any) -> Tensor:
    """The logits `[B, C]` in what a classifier returns.

    A tensor; `.logits` or a mapping with "logits" or "out"; a tuple or list whose first tensor is
    the logits.

    Raises:
        ModelError: There are none.
    """
    found = _candidate(output)
    if isinstance(found, Tensor) and found.ndim == 2:
        return found
    raise ModelError(
        f"expected logits [B, C] from the network's forward pass, got {_described(output)}. "
        "Give a classifier, or wrap yours in a module that returns the logits alone"
    )


def _candidate(output: Any) -> Any:
    if isinstance(output, Mapping):
        return next((output[key] for key in LOGITS_KEYS if key in output), None)
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits
    if isinstance(output, tuple | list):
        return next((item for item in output if isinstance(item, Tensor)), None)
    return output


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {list(output.shape)}"
    if isinstance(output, Mapping):
        return f"a mapping with {', '.join(map(str, output)) or 'nothing'}"
    if isinstance(output, tuple | list):
        return f"{type(output).__name__} of {', '.join(map(_described, output)) or 'nothing'}"
    return type(output).__name__


def _copy(module: nn.Module, convert: Callable[[Tensor], Tensor]) -> nn.Module:
    """The module's own structure over its converted tensors, in evaluation mode."""
    source = unwrapped(module)
    if any(is_lazy(tensor) for tensor in _tensors(source)):
        raise ModelError(
            f"{type(source).__name__}: has lazy layers whose weights are not made yet. Run it once "
            "on a picture, then load it"
        )
    memo: dict[int, Any] = {}
    keep: list[Any] = []  # an id in the memo must not be used again
    for tensor in _tensors(source):
        if id(tensor) not in memo:
            keep.append(tensor)
            memo[id(tensor)] = convert(tensor)
    try:
        made = copy.deepcopy(source, memo)
    except Exception as error:  # attributes of any class are copied, each with its own errors
        raise ModelError(
            f"{type(source).__name__}: copy.deepcopy cannot copy it "
            f"({type(error).__name__}: {error}). Take the attribute that holds such an object off "
            "the module before it is loaded"
        ) from error
    return _prepared(made)


def _prepared(made: nn.Module) -> nn.Module:
    for part in list(made.modules()):
        part.training = False
        part._backward_hooks.clear()
        part._backward_pre_hooks.clear()
        part._compiled_call_impl = None
        for name, child in part._modules.items():
            while child is not None and (inner := _inner(child)) is not None:
                part._modules[name] = child = inner
    return made


def _inner(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner: nn.Module = module.module
        return inner
    # OptimizedModule lives in torch._dynamo, which takes seconds to import
    if type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules:
        return module._modules["_orig_mod"]
    return None


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Every tensor that the module's parts hold, registered or not."""
    seen: set[int] = set()
    for part in module.modules():
        yield from _tensors_in(vars(part), seen)


def _tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if not isinstance(value, dict | list | tuple | set) or id(value) in seen:
        return
    seen.add(id(value))
    for item in value.values() if isinstance(value, dict) else value:
        yield from _tensors_in(item, seen)


def _placed(tensor: Tensor, device: torch.device) -> Tensor:
    placed = tensor.to(device)
    if placed is tensor or not isinstance(tensor, nn.Parameter):
        return placed
    return nn.Parameter(placed, requires_grad=False)


def _to_detached(tensor: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        own = _to_float(tensor).detach()
        if isinstance(tensor, nn.Parameter) and not tensor.is_inference():
            return nn.Parameter(own, requires_grad=False)
        return own.clone()


def _to_float(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    if tensor.dtype == dtype and tensor.device.type == "cpu":
        return tensor
    moved = tensor.detach().to("cpu", dtype)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(moved, tensor.requires_grad)
    return moved
