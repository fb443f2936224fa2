"""Thresholds and centred boxes with their provenance: who chose them, and on what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cut:
    """A threshold and where it comes from.

    Attributes:
        source: `recipe`, `selection`, `otsu` or `oracle`.
        words: The same for people.
        threshold: None where each map has its own.
        upper_bound: Whether it was chosen on pictures that it is scored on.
    """

    source: str
    words: str
    threshold: float | None
    upper_bound: bool = False


@dataclass(frozen=True, slots=True)
class Centred:
    """The centred box to compare with: its sides as shares of the picture's, and its origin."""

    share_wh: tuple[float, float]
    words: str
    upper_bound: bool
