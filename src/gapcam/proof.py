"""What `Localizer.check` finds: how closely class maps add up to the scores."""

from __future__ import annotations

from dataclasses import dataclass

EXACT_TOLERANCE = 1e-4
"""Maps count as exact when the gap stays below this share of the logits' range."""


@dataclass(frozen=True, slots=True)
class Proof:
    """How closely the maps add up to the scores: `mean(map) + bias = logit`.

    Attributes:
        model: The model's name.
        pictures: How many pictures were looked at.
        classes: How many classes each.
        largest_gap: The largest |mean(map) + bias - logit| of them all, logit units.
        logit_range: Highest less lowest logit.
    """

    model: str
    pictures: int
    classes: int
    largest_gap: float
    logit_range: float

    @property
    def exact(self) -> bool:
        """Whether the gap is rounding only: at most 1e-4 of the logits' range."""
        return self.largest_gap <= EXACT_TOLERANCE * self.logit_range

    def __str__(self) -> str:
        verdict = "exact" if self.exact else "NOT exact"
        return (
            f"{self.model}: class maps are {verdict}. Largest |mean(map) + bias - logit| over "
            f"{self.pictures} pictures x {self.classes} classes: {self.largest_gap:.1e}, "
            f"{self.largest_gap / self.logit_range:.0e} of the logits' range "
            f"({self.logit_range:.1f})."
        )
