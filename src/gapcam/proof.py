"""What `Localizer.check` finds: how closely class maps add up to the scores."""

from __future__ import annotations

from dataclasses import dataclass

EXACT_TOLERANCE = 1e-4
"""Maps count as exact when the gap stays below this share of the logits' range."""

EXACT_KINDS = frozenset({"gap-linear", "gap-norm-linear", "flatten-linear"})
"""Heads whose maps add up to the scores."""

_WORDS = {
    "flatten-hidden": "first-order, NOT exact (gapcam train gives it a GAP head, whose maps are)",
    "gmp-linear": "the paper's for maximum pooling, NOT exact",
    "lse-linear": "the paper's for log-sum-exp pooling, NOT exact (each score lies between its "
    "map's mean and maximum, plus the bias)",
    "tap-linear": "the paper's for thresholded average pooling, NOT exact (each score is of the "
    "positions that exceed a share of their channel's maximum)",
    "gradcam": "Grad-CAM's, which do not add up to scores: NOT exact",
    "layercam": "LayerCAM's, which do not add up to scores: NOT exact",
}


@dataclass(frozen=True, slots=True)
class Proof:
    """How closely the maps add up to the scores: `mean(map) + bias = logit`.

    Attributes:
        model: The model's name.
        pictures: How many pictures were looked at.
        classes: How many classes each.
        largest_gap: The largest |mean(map) + bias - logit| of them all, logit units.
        logit_range: Highest less lowest logit; the largest |logit| where all are one.
        head: What the head is (`gapcam.models.trace.HeadKind`), or the method's name.
        features_at: Where the features are taken and what follows them, in words.
        engine: What ran the network: `onnx` or `torch`.
    """

    model: str
    pictures: int
    classes: int
    largest_gap: float
    logit_range: float
    head: str = ""
    features_at: str = ""
    engine: str = ""

    @property
    def exact(self) -> bool:
        """Whether the gap is rounding only: at most 1e-4 of the logits' range."""
        return self.largest_gap <= EXACT_TOLERANCE * self.logit_range

    @property
    def as_expected(self) -> bool:
        """Whether the maps are exact, or of a head whose maps need not be."""
        return self.exact or self.head not in EXACT_KINDS

    @property
    def _inexact(self) -> str:
        if self.head in EXACT_KINDS:
            return "NOT exact, though the head's steps say that they are"
        return _WORDS.get(self.head, "first-order, NOT exact")

    def __str__(self) -> str:
        verdict = "exact" if self.exact else self._inexact
        where = f" Head: {self.head}, {self.features_at}." if self.features_at else ""
        engine = f" Engine: {self.engine}." if self.engine else ""
        return (
            f"{self.model}: class maps are {verdict}. Largest |mean(map) + bias - logit| over "
            f"{self.pictures} pictures x {self.classes} classes: {self.largest_gap:.1e}, "
            f"{self.largest_gap / self.logit_range:.0e} of the logits' range "
            f"({self.logit_range:.1f}).{where}{engine}"
        )
