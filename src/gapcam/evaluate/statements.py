"""A recipe in the words of a protocol's statements."""

from __future__ import annotations

from collections.abc import Mapping

from gapcam.types import Recipe

_LARGEST = "one box: the component with the most samples (of two as large the hotter)"
COMPONENTS: Mapping[str, str] = {
    "largest": f"8-connected; {_LARGEST}; multi: every component",
    "all": f"8-connected; {_LARGEST}; multi: every component",
    "instances": "8-connected, split where a peak stands out (gapcam.instances); one box: the part "
    "with the most samples; multi: every part",
    "released": "the released code's rule at three thresholds that keep their ratio "
    "(gapcam.dt_box); one box: the largest; multi: every box",
}


EXACT = "exact bounds of the interpolated heat above the threshold, half-open"
BOUNDS: Mapping[str, str] = {
    "released": "rectangles of whole pixels of the map at 500 x 500, half-open"
}
HOTTER = "heat > threshold"
CUTS: Mapping[str, str] = {
    "released": "levels > threshold, 5 and 5.5 times it, in 8 bits, each slightly eroded"
}


def sizes(recipe: Recipe) -> str:
    """The input sizes that a recipe takes, in words."""
    sizes = [hw for hw in (recipe.input_size_hw, recipe.evidence_size_hw) if hw]
    return " and ".join(f"{width} x {height}" for height, width in sizes)


def refined(recipe: Recipe) -> str:
    """How a recipe refines its maps, in words that follow "the map"; none where it does not."""
    if recipe.refine == "none":
        return ""
    passes = " and averaged over both sizes" if recipe.evidence_size_hw else ""
    return f", refined ({recipe.refine}){passes}"
