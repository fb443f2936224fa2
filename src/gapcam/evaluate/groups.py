"""The groups of pairs whose scores stand apart: by size of the object, by number of objects."""

from __future__ import annotations

import numpy as np

from gapcam.evaluate.table import Table
from gapcam.types import BoolArray

BINS = {
    "by_size": (
        ("below 10 % of the picture", 0.0, 0.1),
        ("10 to 25 %", 0.1, 0.25),
        ("25 to 50 %", 0.25, 0.5),
        ("50 % and more", 0.5, np.inf),
    ),
    "by_count": (("1 object", 1, 2), ("2 objects", 2, 3), ("3 or more", 3, np.inf)),
}
"""Name, lowest value, and the first value beyond it."""


def groups_of(table: Table) -> dict[str, BoolArray]:
    """Which pairs with true boxes are in which bin: `by_size.0` and so on, `[n]` each.

    The size is that of the largest true box, as a share of the picture.
    """
    values = {"by_size": table.area, "by_count": table.objects}
    return {
        f"{name}.{i}": table.boxed & (values[name] >= low) & (values[name] < high)
        for name, bins in BINS.items()
        for i, (_, low, high) in enumerate(bins)
    }
