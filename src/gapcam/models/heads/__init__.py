"""Where a network's features end and what its head is, from its steps alone. Pure. Ours.

A tensor that every path from the picture to the logits passes is a *cut*. The features are the last
cut that still has positions and of which the steps after it read more than one: what comes before
the pooling, the flattening, or the attention that feeds a class token.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from math import prod

from gapcam.models.heads.axes import layouts_of
from gapcam.models.heads.reading import Reading, patches_read, reading_of, steps_after
from gapcam.models.trace import HeadKind, HeadPlan, Layout, Step, Trace
from gapcam.types import ModelError, SizeHW

AFFINE = frozenset(
    {
        *("linear", "pointwise_conv", "conv", "batch_norm", "scale", "add", "mean", "sum"),
        *("reshape", "transpose", "select", "concat", "identity"),
    }
)
"""Steps that keep what no longer has positions affine."""
STILL = frozenset({"identity", "reshape", "transpose", "select"})
"""Steps that only lay values elsewhere."""
WEIGHING = frozenset({"linear", "pointwise_conv"})
POINTWISE = frozenset({"batch_norm", "norm", "activation", "scale", "identity"})
ATTENTION = frozenset({"attention", "matmul", "softmax"})
LEARNED = frozenset({"conv", "pointwise_conv", "linear", "matmul", "attention", "other"})
WAY_OUT = (
    "Name where to take the features (layer=NAME, --set layer=NAME), ask for another method "
    "(method='gradcam'), or retrain it with a GAP head (gapcam train)"
)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A tensor that every path passes, and how it lies; None: it has no positions."""

    name: str
    layout: Layout | None


def find_head(trace: Trace, layer: str | None = None) -> HeadPlan:
    """The features, the head and the finer features of a network.

    Args:
        trace: The network's steps.
        layer: A tensor, or a module whose last output it is, to take the features from instead.

    Raises:
        ModelError: There is no tensor with positions that all scores come from; or no such layer.
    """
    cuts = _cuts(trace)
    found, reading = _features(trace, cuts) if layer is None else _named(trace, cuts, layer)
    layout = _spatial(found)
    fine = _fine(trace, cuts, found.name, layout)
    return HeadPlan(
        kind=_kind(reading, layout),
        features=found.name,
        layout=layout,
        head=steps_after(trace, found.name),
        fine=fine.name if fine else None,
        fine_layout=fine.layout if fine else None,
        words=_words(trace, found.name, layout),
    )


def _spatial(cut: _Cut) -> Layout:
    if cut.layout is None:
        raise ModelError(f"tensor {cut.name!r} has no positions")
    return cut.layout


def _cuts(trace: Trace) -> list[_Cut]:
    """Tensors that every path from the picture to the logits passes, in order.

    In any order in which the steps can run, a tensor is a cut exactly when nothing else is still
    to be read once it is there. What comes before the first weights is left out.
    """
    left = dict.fromkeys([trace.picture, trace.logits], 0) | {trace.logits: 1}
    for step in trace.steps:
        for name in set(step.inputs):
            left[name] = left.get(name, 0) + 1
    layouts = layouts_of(trace)
    live, cuts, learned = {trace.picture}, [], False
    for step in trace.steps:
        for name in set(step.inputs):
            left[name] -= 1
            if not left[name]:
                live.discard(name)
        live.update(name for name in step.outputs if left.get(name))
        learned = learned or step.op in LEARNED
        if len(live) == 1 and learned and live.issubset(step.outputs):
            (name,) = live
            cuts.append(_Cut(name, _with_places(trace, name, layouts.get(name))))
    return cuts


def _with_places(trace: Trace, name: str, layout: Layout | None) -> Layout | None:
    batch = trace.shapes[trace.picture][0]
    if layout is None or prod(layout.grid_hw) < 2 or trace.shapes[name][0] != batch:
        return None
    if len(trace.shapes[name]) != 2 + len(layout.position_axes):  # an axis of one, put in between
        return None
    return layout


def _features(trace: Trace, cuts: list[_Cut]) -> tuple[_Cut, Reading]:
    for cut in reversed(cuts):
        if cut.layout is None:
            continue
        reading = reading_of(trace, cut.name, cut.layout)
        if patches_read(reading, cut.layout) > 1:
            return _before_classifier(trace, cuts, cut, reading)
    raise ModelError(f"{_reason(trace, cuts)}. {WAY_OUT}")


def _reason(trace: Trace, cuts: list[_Cut]) -> str:
    planes = [c for c in cuts if len(trace.shapes[c.name]) == 4]
    if planes and all(prod(trace.shapes[c.name][2:]) == 1 for c in planes):
        return (
            "the network leaves one position at this input size, expected a grid of at least two. "
            "Use larger pictures"
        )
    return (
        "the network has no tensor with positions that all its scores come from: it mixes them "
        "from the first step on, or joins ways that part at the picture"
    )


def _before_classifier(
    trace: Trace, cuts: list[_Cut], cut: _Cut, reading: Reading
) -> tuple[_Cut, Reading]:
    """What a linear step reads that stands right before the pooling or the attention.

    S = mean(W f + b) is the same as W mean(f) + b, and K features refine better than C scores or
    than attention's keys and values.
    """
    kind = _kind(reading, _spatial(cut))
    weighed = any(step.op in WEIGHING for step in reading.after)
    if kind not in ("gap-linear", "class-token", "other") or (kind == "gap-linear" and weighed):
        return cut, reading
    makers = {name: step for step in trace.steps for name in step.outputs}
    known = {c.name: c for c in cuts}
    step = makers[cut.name]
    while step.op in STILL and step.inputs[0] in makers:
        step = makers[step.inputs[0]]
    earlier = known.get(step.inputs[0]) if step.op in WEIGHING else None
    if earlier is None or earlier.layout is None:
        return cut, reading
    return earlier, reading_of(trace, earlier.name, earlier.layout)


def _named(trace: Trace, cuts: list[_Cut], layer: str) -> tuple[_Cut, Reading]:
    words = {name: step.words for step in trace.steps for name in step.outputs}
    own = {name for name in words if name == layer} or {
        name for name, said in words.items() if _belongs(said, layer)
    }
    if not own:
        modules = {path for said in words.values() for path in _paths(said.partition(" ")[2])}
        close = difflib.get_close_matches(layer, sorted({*modules, *words}), 4, 0.4)
        hint = f"; close: {', '.join(close)}" if close else ""
        raise ModelError(f"layer {layer!r}: no module or tensor of the network is called so{hint}")
    for cut in reversed(cuts):
        if cut.name in own and cut.layout is not None:
            reading = reading_of(trace, cut.name, cut.layout)
            if patches_read(reading, cut.layout) > 1:
                return cut, reading
    usable = [c.name for c in cuts if c.layout is not None][-6:]
    raise ModelError(
        f"layer {layer!r}: expected a tensor with positions that every path from the picture to "
        "the scores passes, and of which more than one position is read; it gives none. "
        f"The last that would do: {', '.join(usable) or 'none'}"
    )


def _paths(module: str) -> list[str]:
    """A module and those that it is part of: `a`, `a.b` and `a.b.c` of `a.b.c`."""
    parts = module.split(".") if module else []
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _belongs(words: str, layer: str) -> bool:
    module = words.partition(" ")[2]
    return any(
        module == asked or module.startswith(f"{asked}.")
        for asked in (layer, layer.removeprefix("network."))
    )


def _kind(reading: Reading, layout: Layout) -> HeadKind:
    ends: set[str] = {end for end, _ in reading.ends}
    after: set[str] = {str(step.op) for step in reading.after} - {"max"}
    if "attention" in ends or after & ATTENTION:
        return "class-token" if _reads_token(reading, layout) else "other"
    if {step.op for step in reading.before} - STILL - WEIGHING:
        return "other"
    if not after <= AFFINE | {"norm", "activation"}:
        return "other"
    if ends == {"mean"} and _covers_tokens(reading, layout):
        return "token-mix"
    return _affine_kind(ends, after)


def _affine_kind(ends: set[str], after: set[str]) -> HeadKind:
    """The kind of a head without attention, by how positions end and what comes then."""
    hidden, normed = "activation" in after, "norm" in after
    if ends == {"mean"}:
        return "gap-hidden" if hidden else "gap-norm-linear" if normed else "gap-linear"
    if ends == {"flatten"} and not normed:
        return "flatten-hidden" if hidden else "flatten-linear"
    if ends == {"mean", "token"}:
        return "token-mix"
    return "gmp-linear" if ends == {"max"} and not hidden and not normed else "other"


def _covers_tokens(reading: Reading, layout: Layout) -> bool:
    """Whether a mean is over class or register tokens too."""
    return any(held.ranges[0][0] < layout.first_patch for _, held in reading.ends)


def _reads_token(reading: Reading, layout: Layout) -> bool:
    """Whether one token that is no patch is picked out of what attention gives."""
    steps = [*reading.before, *reading.after]
    extra = layout.first_patch > 0 or any(step.op == "concat" for step in steps)
    return extra and any(s.op == "select" and s.kept[1] - s.kept[0] <= 2 for s in steps)


def _fine(trace: Trace, cuts: list[_Cut], features: str, layout: Layout) -> _Cut | None:
    """The last output of a block at twice the grid, with the steps that only rescale it.

    Without residual blocks there, the last tensor at twice the grid.
    """
    makers = {name: step for step in trace.steps for name in step.outputs}
    names = [c.name for c in cuts]
    finer = [
        c
        for c in cuts[: names.index(features)]
        if c.layout is not None and _doubles(c.layout.grid_hw, layout.grid_hw)
    ]
    blocks = [i for i, c in enumerate(finer) if makers[c.name].op == "add"]
    if not blocks:
        return finer[-1] if finer else None
    last = blocks[-1]
    for cut in finer[last + 1 :]:
        step, before = makers[cut.name], finer[last].name
        same = trace.shapes[cut.name] == trace.shapes[before]
        if step.op not in POINTWISE or not same or step.inputs != (before,):
            break
        last += 1
    return finer[last]


def _doubles(fine_hw: SizeHW, grid_hw: SizeHW) -> bool:
    return all(abs(a - 2 * b) <= 1 and a > b for a, b in zip(fine_hw, grid_hw, strict=True))


def _words(trace: Trace, features: str, layout: Layout) -> str:
    """`output of relu layer4.2 (2048 channels, 7 x 7); then mean, linear`."""
    makers = {name: step for step in trace.steps for name in step.outputs}
    channels = trace.shapes[features][layout.channel_axis]
    rows, columns = layout.grid_hw
    tokens = f" after {layout.first_patch} tokens" if layout.first_patch else ""
    names = [_shown(s) for s in steps_after(trace, features) if s.op not in STILL]
    steps = ", ".join(names if len(names) <= 6 else [*names[:2], "...", *names[-2:]])
    return (
        f"features: output of {makers[features].words or features} "
        f"({channels} channels, {rows} x {columns}{tokens}); then {steps}"
    )


def _shown(step: Step) -> str:
    return step.op.replace("_", " ")
