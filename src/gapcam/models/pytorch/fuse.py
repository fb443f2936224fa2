"""Norms and activations that a program spells out in several operators, found and named.

A tensor times, over, plus or less an elementwise function of itself is an activation
(x sigmoid(x), the tanh form of GELU). A tensor, centred or not, times or over something made of
its own means, squares and roots is a norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import fx

from gapcam.models.pytorch.aten import Meaning, short_name
from gapcam.models.trace import Step

ELEMENTWISE = frozenset({"activation", "scale", "identity"})
STATISTICS = frozenset(
    {
        "_to_copy",
        "abs",
        "add",
        "clamp",
        "clamp_min",
        "clone",
        "div",
        "expand",
        "expand_as",
        "linalg_vector_norm",
        "maximum",
        "mean",
        "mul",
        "neg",
        "norm",
        "pow",
        "reciprocal",
        "rsqrt",
        "sqrt",
        "square",
        "std",
        "sub",
        "sum",
        "to",
        "var",
        "var_mean",
    }
)
REDUCTIONS = frozenset({"linalg_vector_norm", "mean", "norm", "std", "sum", "var", "var_mean"})


@dataclass(frozen=True, slots=True)
class Draft:
    """A step that still knows its nodes.

    Attributes:
        node: What it was made from.
        inputs: The nodes it reads that depend on the picture.
        result: The node that it gives: `node`, or the first of its parts.
        meaning: What it does.
        words: As in `Step`.
        statistic: With a norm of several operators: which input of `node` holds the statistic.
    """

    node: fx.Node
    inputs: tuple[fx.Node, ...]
    result: fx.Node
    meaning: Meaning
    words: str
    statistic: fx.Node | None = None

    @property
    def step(self) -> Step:
        """The step, with names for nodes."""
        inputs = tuple(node.name for node in self.inputs)
        m = self.meaning
        return Step(m.op, inputs, (self.result.name,), m.axes, m.kept, self.words)


def fuse(drafts: list[Draft]) -> list[Draft]:
    """The same steps; where several make a norm or an activation, its last one names it."""
    by_result: dict[fx.Node, Draft] = {}
    for draft in drafts:
        by_result[draft.result] = _fused(draft, by_result)
    return list(by_result.values())


def statistics_of(drafts: list[Draft]) -> dict[fx.Node, fx.Node]:
    """Of every norm that is spelled out: its last node, and the node of its statistic."""
    return {d.node: d.statistic for d in fuse(drafts) if d.statistic is not None}


def _fused(draft: Draft, before: Mapping[fx.Node, Draft]) -> Draft:
    if draft.meaning.op not in ("add", "multiply"):
        return draft
    left, right = draft.inputs
    root = _common_root(left, right, before)
    if root is not None:
        return replace(draft, inputs=(root,), meaning=Meaning("activation"))
    if draft.meaning.op == "multiply":
        for values, statistic in ((left, right), (right, left)):
            root = _norm_root(values, statistic, before)
            if root is not None:
                norm = Meaning("norm")
                return replace(draft, inputs=(root,), meaning=norm, statistic=statistic)
    return draft


def _common_root(left: fx.Node, right: fx.Node, before: Mapping[fx.Node, Draft]) -> fx.Node | None:
    """The nearest tensor that both are elementwise functions of."""
    ancestors = _chain(left, before)
    return next((node for node in _chain(right, before) if node in ancestors), None)


def _chain(node: fx.Node, before: Mapping[fx.Node, Draft]) -> list[fx.Node]:
    chain = [node]
    while node in before and before[node].meaning.op in ELEMENTWISE:
        if len(before[node].inputs) != 1:
            break
        (node,) = before[node].inputs
        chain.append(node)
    return chain


def _norm_root(
    values: fx.Node, statistic: fx.Node, before: Mapping[fx.Node, Draft]
) -> fx.Node | None:
    """The tensor that `values` is, centred or not, and that `statistic` is made of."""
    sources, reduced = _sources(statistic, before)
    if not reduced:
        return None
    for root in _centred_roots(values, before):
        if root in sources:
            return root
    return None


def _centred_roots(values: fx.Node, before: Mapping[fx.Node, Draft]) -> list[fx.Node]:
    """Tensors that `values` may be the centred form of, the first of them first; then itself."""
    roots = [values]
    for node in _chain(values, before):
        draft = before.get(node)
        if draft is None or short_name(draft.node) != "sub" or len(draft.inputs) != 2:
            continue
        root, mean = draft.inputs
        sources, reduced = _sources(mean, before)
        if reduced and root in sources:
            roots.insert(0, root)
    return roots


def _sources(node: fx.Node, before: Mapping[fx.Node, Draft]) -> tuple[set[fx.Node], bool]:
    """What a tensor is made of by statistics' operators alone, and whether one reduces axes."""
    found: set[fx.Node] = set()
    waiting, reduced = [node], False
    while waiting:
        here = waiting.pop()
        draft = before.get(here)
        if here in found:
            continue
        found.add(here)
        if draft is not None and short_name(draft.node) in STATISTICS:
            reduced = reduced or short_name(draft.node) in REDUCTIONS
            waiting.extend(draft.inputs)
    return found, reduced
