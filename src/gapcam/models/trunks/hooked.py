"""A network run up to its features: the forward pass stops at a module's output."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from gapcam.models.pytorch.modules import detached_copy
from gapcam.models.pytorch.planes import to_planes
from gapcam.models.trace import Layout
from gapcam.types import ModelError, SizeHW

HALF = frozenset({torch.float16, torch.bfloat16})

Keys: TypeAlias = tuple[Any, ...]
See: TypeAlias = Callable[[str, int, Keys, Tensor], None]


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise operator of PyTorch's, and its constants."""

    operator: Any
    constants: tuple[Any, ...]
    named: Mapping[str, Any]

    def __call__(self, x: Tensor) -> Tensor:
        """The same shape, each value mapped."""
        mapped: Tensor = self.operator(x, *self.constants, **self.named)
        return mapped


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a network a tensor is.

    Attributes:
        path: The module's name, as `named_modules` gives it.
        call: Which of its calls in one pass, from 1 on.
        keys: Which part of its output, where that is a tuple or a mapping; `()` for a tensor.
        after: What follows it, elementwise.
    """

    path: str
    call: int = 1
    keys: Keys = ()
    after: tuple[Activation, ...] = ()


class HookedTrunk(nn.Module):
    """Pictures `[B, 3, H, W]` to features `[B, K, h, w]`: a network without what comes after.

    The forward pass is the network's own Python code, in training mode too, and ends where the
    features are there.

    Args:
        network: Held as it is; from `own_copy`.
        place: Of the features.
        layout: How they lie.
        size_hw: The picture's size when `layout` was found, pixels.
    """

    def __init__(self, network: nn.Module, place: Place, layout: Layout, size_hw: SizeHW) -> None:
        super().__init__()
        self.network = network
        self.place = place
        self.layout = layout
        self.size_hw = size_hw
        self.training = False  # as the network is

    def forward(self, x: Tensor) -> Tensor:
        """The features; half precision, as autocast gives it, becomes float32.

        Raises:
            ModelError: The network does not come by the features at this size.
        """
        hook = _Stopper(self.place)
        handle = self.network.get_submodule(self.place.path).register_forward_hook(hook)
        try:
            with _module_stack_kept():
                self.network(x)
        except _ReachedError as reached:
            features = reached.features
        else:
            raise ModelError(
                f"the network did not run its layer {self.place.path!r} on a picture "
                f"{x.shape[2]} x {x.shape[3]}"
            )
        finally:
            handle.remove()
        for activation in self.place.after:
            features = activation(features)
        planes = to_planes(features, self.layout, self.size_hw, (x.shape[2], x.shape[3]))
        return planes.float() if planes.dtype in HALF else planes

    def extra_repr(self) -> str:
        """What `print` shows beside the network."""
        return f"features=output of {self.place.path}"


class _ReachedError(BaseException):
    """The features are there. No `Exception`: the network's own code may catch those."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


class _Stopper:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._left = place.call

    def __call__(self, _module: nn.Module, _arguments: Any, output: Any) -> None:
        self._left -= 1
        if not self._left:
            raise _ReachedError(_part(output, self._place.keys))


@contextmanager
def _module_stack_kept() -> Iterator[None]:
    """Let `torch.export` trace a pass that stops in the middle.

    Its tracer keeps a stack of the modules that run and takes one off when it returns, which those
    that the stop leaves never do.
    """
    stack = getattr(getattr(get_proxy_mode(), "tracer", None), "module_stack", None)
    depth = 0 if stack is None else len(stack)
    try:
        yield
    finally:
        while stack is not None and len(stack) > depth:
            stack.popitem()


def _part(output: Any, keys: Keys) -> Tensor:
    for key in keys:
        output = output[key]
    found: Tensor = output
    return found


def own_copy(module: nn.Module) -> nn.Module:
    """A copy that shares nothing: float32, on the CPU, in evaluation mode, all of it trainable.

    Raises:
        ModelError: As `gapcam.models.pytorch.modules.float_copy`.
    """
    network = copy.deepcopy(detached_copy(module).get_submodule("network"))
    for part in network.modules():
        tensors: dict[str, Tensor | None] = dict(part._parameters)
        for name, value in tensors.items():
            if value is not None and not isinstance(value, nn.Parameter):  # of inference mode
                part._parameters[name] = nn.Parameter(value, requires_grad=False)
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return network


def visit(network: nn.Module, picture: Tensor, see: See) -> None:
    """Run a network and show every tensor that a module gives, as it comes.

    Args:
        network: Any module; without gradients.
        picture: `[B, 3, H, W]`.
        see: Called with the module's name, the number of its call, the tensor's keys in its output
            and the tensor, which later steps may change in place.
    """
    calls: dict[str, int] = {}

    def watch(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> None:
            calls[path] = calls.get(path, 0) + 1
            for keys, tensor in tensors_in(output):
                see(path, calls[path], keys, tensor)

        return hook

    parts = [(path, part) for path, part in network.named_modules() if path]
    handles = [part.register_forward_hook(watch(path)) for path, part in parts]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network(picture)
    finally:
        for handle in handles:
            handle.remove()


def tensors_in(output: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Tensor]]:
    """The tensors that a module gives, each with the keys that lead to it."""
    if isinstance(output, Tensor):
        yield keys, output
    elif isinstance(output, Mapping):
        for key, item in output.items():
            yield from tensors_in(item, (*keys, key))
    elif isinstance(output, tuple | list):
        for index, item in enumerate(output):
            yield from tensors_in(item, (*keys, index))
