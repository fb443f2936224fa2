"""Which module of a network gives the features that the head finder has found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from gapcam.models.heads import find_head
from gapcam.models.pytorch.aten import ACTIVATIONS, IDENTITIES, RESHAPES, short_name
from gapcam.models.pytorch.hooks import HookedNetwork, layout_of
from gapcam.models.pytorch.network import TorchNetwork
from gapcam.models.pytorch.trace import UntraceableError, node_named, picture_of, trace_module
from gapcam.models.trace import HeadPlan, Layout, Trace
from gapcam.models.trunks.hooked import Activation, Keys, Place, visit
from gapcam.types import ModelError, SizeHW

SAME = 1e-5
"""Two ways to one tensor differ by less, as a share of its largest value."""
MOST_STEPS_BACK = 8
LAID_ELSEWHERE = RESHAPES | {"permute", "transpose", "slice", "narrow", "select"}
ADVICE = "Name a module whose output is the features: layer=NAME, --set layer=NAME"


@dataclass(frozen=True, slots=True)
class Found:
    """Features in a network.

    Attributes:
        place: Where.
        layout: How they lie.
        words: Where, for people.
    """

    place: Place
    layout: Layout
    words: str


@dataclass(frozen=True, slots=True)
class _Target:
    """A tensor of the program from which the features come by elementwise steps.

    Attributes:
        value: What it is for the noise picture.
        after: Those steps.
        relaid: Whether steps between only lay the values elsewhere.
    """

    value: Tensor
    after: tuple[Activation, ...]
    relaid: bool


def noise(size_hw: SizeHW, batch: int = 2) -> Tensor:
    """The same pictures every time: `[batch, 3, H, W]`."""
    return torch.randn(batch, 3, *size_hw, generator=torch.Generator().manual_seed(7))


def find_features(network: nn.Module, size_hw: SizeHW, layer: str | None) -> Found:
    """Find the features of a classifier.

    Args:
        network: In evaluation mode, with weights that tell its tensors apart (`stir`).
        size_hw: The picture's size, pixels.
        layer: Where to take them instead of where the head finder says.

    Raises:
        ModelError: The network does not run, has no features that a module gives, or no such layer.
    """
    picture = noise(size_hw)
    try:
        program, trace = trace_module(network, size_hw)
        plan = find_head(trace, layer)
    except UntraceableError:
        hooked = HookedNetwork(network, size_hw, layer)
        return _named(network, picture, hooked.layer)
    except ModelError:
        asked = None if layer is None else layer.removeprefix("network.")
        if asked not in dict(network.named_modules()):
            raise
        return _named(network, picture, asked or "")
    found = _matched(program, plan, network, picture)
    return found or _nearest(program, trace, network, picture, plan)


def stir(network: nn.Module) -> nn.Module:
    """Move all weights a little, zeros too, and give the network back.

    A branch whose last scale starts at zero adds nothing, so that a fresh network has many tensors
    that are equal by chance.
    """
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in network.parameters():
            if value.is_floating_point():
                spread = 0.1 if value.ndim < 2 else 0.02
                value.add_(torch.randn(value.shape, generator=rng), alpha=spread)
    return network


def _named(network: nn.Module, picture: Tensor, path: str) -> Found:
    """The last output of a module."""
    seen: list[tuple[int, Keys, Tensor]] = []

    def see(name: str, call: int, keys: Keys, tensor: Tensor) -> None:
        if name == path:
            seen[:] = [s for s in seen if s[0] == call]
            seen.append((call, keys, tensor.clone()))

    visit(network, picture, see)
    if not seen:
        raise ModelError(f"layer {path!r} does not run, or gives no tensor. Name another layer")
    call, keys, tensor = seen[0]
    layout = layout_of(tensor, _size(picture), path)
    return Found(Place(path, call, keys), layout, f"features: output of {path}")


def _matched(
    program: ExportedProgram, plan: HeadPlan, network: nn.Module, picture: Tensor
) -> Found | None:
    """The module whose output is the features, or from whose output elementwise steps lead there.

    The first that has it, since dropout may follow; one that runs once, since a module that is
    used again may run another number of times in training.
    """
    targets = list(_targets(program, plan, picture))
    matches: list[tuple[int, str, int, Keys, Layout]] = []
    calls: dict[str, int] = {}

    def see(path: str, call: int, keys: Keys, tensor: Tensor) -> None:
        calls[path] = call
        for index, target in enumerate(targets):
            if same(tensor, target.value):
                layout = plan.layout
                if target.relaid:
                    layout = layout_of(tensor, _size(picture), path)
                matches.append((index, path, call, keys, layout))
                break

    visit(network, picture, see)
    if not matches:
        return None
    index, path, call, keys, layout = min(matches, key=lambda m: (m[0], calls[m[1]] > 1))
    place = Place(path, call, keys, targets[index].after)
    return Found(place, layout, plan.words.partition("; then")[0])


def _targets(program: ExportedProgram, plan: HeadPlan, picture: Tensor) -> Iterator[_Target]:
    node, relaid = node_named(program, plan.features), False
    after: tuple[Activation, ...] = ()
    for _ in range(MOST_STEPS_BACK):
        here = replace(plan, features=node.name, fine=None, fine_layout=None)
        yield _Target(TorchNetwork(program, here).run(picture).features, after, relaid)
        name = short_name(node)
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before is picture_of(program):
            return
        if name in ACTIVATIONS and node.all_input_nodes == [before]:
            after = (Activation(node.target, tuple(node.args[1:]), dict(node.kwargs)), *after)
        elif name in LAID_ELSEWHERE:
            relaid = True
        elif name not in IDENTITIES:
            return
        node = before


def _nearest(
    program: ExportedProgram, trace: Trace, network: nn.Module, picture: Tensor, plan: HeadPlan
) -> Found:
    """The last module whose output all scores come from."""
    order: list[str] = []
    visit(network, picture, lambda path, *_: order.append(path))
    for path in dict.fromkeys(reversed(order)):
        try:
            found = _matched(program, find_head(trace, path), network, picture)
        except ModelError:
            continue
        if found is not None:
            wanted = plan.words.partition("; then")[0]
            return replace(
                found,
                words=f"{found.words}, the nearest that a module gives ({wanted}, is made "
                "between modules)",
            )
    raise ModelError(
        f"no module of the network gives its {plan.words.partition('; then')[0]}, or a tensor "
        f"before it that all scores come from. {ADVICE}"
    )


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree but for rounding."""
    if one.shape != other.shape or not one.is_floating_point():
        return False
    return bool((one - other).abs().max() <= SAME * other.abs().max())


def _size(picture: Tensor) -> SizeHW:
    return picture.shape[2], picture.shape[3]
