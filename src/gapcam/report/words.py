"""How numbers are written on the page, and the few marks that stand beside them."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

NBSP = "\N{NO-BREAK SPACE}"
NONE = "\N{EN DASH}"

BOUND_WORDS = (
    "Upper bound: a free choice was made on the very pictures that are scored, so new pictures "
    "will do worse."
)

BADGE = Markup('<a class="badge" href="#note-upper-bound" title="{}">upper bound</a>').format(
    BOUND_WORDS
)
"""Stands beside every number whose free choice was made on the scored pictures."""


def percent(value: float | None) -> str:
    """A fraction as percent with one decimal: 0.702 is `70.2 %`; None is an en dash."""
    return NONE if value is None else f"{bare_percent(value)}{NBSP}%"


def bare_percent(value: float | None) -> str:
    """The same without the sign, for tables whose headings have it."""
    return NONE if value is None else f"{100 * value + 0.0:.1f}"


def span(interval: Sequence[float] | None) -> str:
    """An interval of fractions: `66.5 to 73.8`; nothing without one."""
    if interval is None:
        return ""
    return NBSP.join((bare_percent(interval[0]), "to", bare_percent(interval[1])))


def count(number: int) -> str:
    """A whole number with thousands apart: `12,345`."""
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """`1 picture`, `1,200 pictures`."""
    return f"{count(number)}{NBSP}{noun}" + ("" if number == 1 else "s")


def cut(threshold: float | None) -> str:
    """A threshold as a fraction of the normalized map."""
    return NONE if threshold is None else f"{threshold:g}"
