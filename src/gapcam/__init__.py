"""gapcam: an image classifier trained on class labels only becomes a localizer.

A network that ends in global average pooling and one linear layer scores class c by

    S_c = mean_xy M_c(x, y) + b_c,        M_c(x, y) = sum_k w_ck f_k(x, y)

so the class map M_c *is* the score, spread over the picture (Zhou et al., "Learning Deep Features
for Discriminative Localization", CVPR 2016). One forward pass gives label, score, map, box, mask.

Names are imported when first used, so `import gapcam` is light.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gapcam.exporting import export
    from gapcam.loading import load
    from gapcam.localizer import Localizer
    from gapcam.proof import Proof
    from gapcam.recipes import RECIPES
    from gapcam.samples import sample_pictures
    from gapcam.sheet import contact_sheet
    from gapcam.trainer import train
    from gapcam.types import Detection, GapcamError, Localization, Preprocessing, Recipe

_HOME = {
    "Detection": "types",
    "GapcamError": "types",
    "Localization": "types",
    "Localizer": "localizer",
    "Proof": "proof",
    "RECIPES": "recipes",
    "Recipe": "types",
    "Preprocessing": "types",
    "contact_sheet": "sheet",
    "export": "exporting",
    "load": "loading",
    "sample_pictures": "samples",
    "train": "trainer",
}

__all__ = [  # noqa: RUF022
    "load",
    "train",
    "export",
    "Localizer",
    "Localization",
    "Detection",
    "Proof",
    "Preprocessing",
    "Recipe",
    "RECIPES",
    "contact_sheet",
    "sample_pictures",
    "GapcamError",
]
__version__ = version("gapcam")


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'gapcam' has no attribute {name!r}")
    return getattr(import_module(f"gapcam.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
