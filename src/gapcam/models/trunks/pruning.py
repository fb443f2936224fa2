"""Takes off a trunk what its features do not depend on: the old head and auxiliary ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gapcam.models.trunks.finding import same
from gapcam.types import ModelError


def prune(trunk: nn.Module, picture: Tensor) -> tuple[str, ...]:
    """Put `Identity` where no parameter is used; freeze single ones that are not.

    A parameter is used if it gets a gradient, in training or in evaluation mode: others would make
    data-parallel training wait for a gradient that never comes. Every change is tried and taken
    back where it changes the features.

    Args:
        trunk: From a network of its own; changed in place, in evaluation mode.
        picture: `[2, 3, H, W]`, tried on it.

    Returns:
        The names of the modules that went.

    Raises:
        ModelError: It does not run in training mode, or no parameter gets a gradient.
    """
    used = _used(trunk, picture)
    with torch.no_grad():
        expected = trunk(picture)
    gone = list(_unused_modules(trunk, "", used))
    if not _replace(trunk, gone, picture, expected):
        gone = [path for path in gone if _replace(trunk, [path], picture, expected)]
    for name, value in trunk.named_parameters(remove_duplicate=False):
        value.requires_grad_(name in used)
    return tuple(path.removeprefix("network.") for path in gone)


def _used(trunk: nn.Module, picture: Tensor) -> frozenset[str]:
    """Names of the parameters that get a gradient."""
    scratch = copy.deepcopy(trunk)
    named = dict(scratch.named_parameters(remove_duplicate=False))
    tensors = list({id(v): v for v in named.values() if v.is_floating_point()}.values())
    used: set[int] = set()
    for training in (True, False):
        features = _run(scratch.train(training), picture)
        if not (features.requires_grad and tensors):
            raise ModelError(
                "the network's features depend on no weights that can be trained: its forward pass "
                "records no gradients. Take torch.no_grad, inference_mode or detach out of it"
            )
        slopes = torch.autograd.grad(features.sum(), tensors, allow_unused=True)
        for tensor, slope in zip(tensors, slopes, strict=True):
            if slope is not None:  # None where it is not used
                used.add(id(tensor))
    return frozenset(name for name, value in named.items() if id(value) in used)


def _run(trunk: nn.Module, picture: Tensor) -> Tensor:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            features: Tensor = trunk(picture)
    except ModelError:
        raise
    except Exception as error:  # the network's own code runs here
        mode = "training" if trunk.training else "evaluation"
        raise ModelError(
            f"the network does not run in {mode} mode ({type(error).__name__}: {error})"
        ) from error
    return features


def _unused_modules(part: nn.Module, prefix: str, used: frozenset[str]) -> Iterator[str]:
    """The largest parts without a used parameter; not lists of parts, which code walks over."""
    for name, child in part.named_children():
        path = f"{prefix}{name}"
        names = [n for n, _ in child.named_parameters(f"{path}", remove_duplicate=False)]
        whole = not isinstance(child, nn.ModuleList | nn.ModuleDict)
        if names and whole and used.isdisjoint(names):
            yield path
        elif names:
            yield from _unused_modules(child, f"{path}.", used)


def _replace(trunk: nn.Module, paths: list[str], picture: Tensor, expected: Tensor) -> bool:
    """Take modules out; whether the features stay. If not, all are put back."""
    before = {path: trunk.get_submodule(path) for path in paths}
    for path in paths:
        _put(trunk, path, nn.Identity().eval())
    if _unchanged(trunk, picture, expected):
        return True
    for path, part in before.items():
        _put(trunk, path, part)
    return False


def _put(trunk: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    trunk.get_submodule(parent)._modules[name] = part


def _unchanged(trunk: nn.Module, picture: Tensor, expected: Tensor) -> bool:
    scratch = copy.deepcopy(trunk)
    try:
        with torch.no_grad():
            features = _run(scratch, picture)
            trained = _run(scratch.train(), picture)
    except ModelError:
        return False
    return same(features, expected) and trained.shape == expected.shape
