"""Writes what the zoo's tests measured: a table for people, the same numbers for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from zoo_models import CLASSES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architectures.md"
NUMBERS = ROOT / "benchmarks" / "results" / "architectures.json"
LIBRARIES = ("gapcam", "torch", "torchvision", "timm", "transformers", "onnxruntime")

Row = dict[str, object]

TEXT = f"""# Architectures

What `gapcam.load` finds in other people's classifiers, with no layer named. `make test-zoo` runs
every row and writes this page; the numbers are in `benchmarks/results/architectures.json`.

- **Weights are random**, made to behave like trained ones: biases, layer scales and branches that
  start at zero are not zero, and batch norms have taken statistics on pictures. Every network has
  {CLASSES} classes. With trained weights the kind of head and whether its maps are exact stay the
  same; the gap of a head that is not exact is another one for every set of weights, and
  `gapcam.load(...).check()` measures it.
- **Gap**: the largest |mean(map) + bias − logit| over four photographs and all classes, as a share
  of the logits' range. Exact means at most 1e-4: rounding only.
- **Parity**: the largest difference between the engine and PyTorch, over batches of one and three
  photographs; logits over the logits' range, maps over the maps' range.
- **Input**: the size it was run on; *any* where the model file takes other sizes too.
- **Refines**: whether there are finer features (at half the map's stride) to sharpen maps with.
- Transformers networks are built from their configurations, some smaller than the default.

"""
HEADINGS = (
    "Architecture",
    "Head",
    "Maps exact?",
    "Gap",
    "Engine",
    "Parity of logits",
    "Parity of maps",
    "Input",
    "Map",
    "Refines",
)


def write_table(rows: Sequence[Row]) -> None:
    """Both files, each written under another name and renamed."""
    versions = {name: version(name) for name in LIBRARIES}
    _write(NUMBERS, json.dumps({"versions": versions, "rows": list(rows)}, indent=1) + "\n")
    _write(PAGE, page(rows, versions))


def page(rows: Sequence[Row], versions: dict[str, str]) -> str:
    """The page's text."""
    parts = [TEXT, "With " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".\n"]
    for library in dict.fromkeys(row["library"] for row in rows):
        parts += [f"\n## {library}\n\n", _line(HEADINGS), _line(["---"] * len(HEADINGS))]
        parts += [_line(_cells(row)) for row in rows if row["library"] == library]
    return "".join(parts)


def _cells(row: Row) -> list[str]:
    return [
        str(row["architecture"]),
        str(row["head"]),
        "yes" if row["exact"] else "no",
        _share(row["gap"]),
        str(row["engine"]),
        _share(row["parity_logits"]),
        _share(row["parity_maps"]),
        _size(row["input_hw"]) + (", any" if row["input_free"] else ""),
        _size(row["grid_hw"]),
        "yes" if row["fine_features"] else "no",
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def _share(value: object) -> str:
    number = float(str(value))
    return f"{number:.0e}" if number < 1e-3 else f"{number:.2g}"


def _size(value: object) -> str:
    assert isinstance(value, list)
    height, width = value
    return f"{height} × {width}"


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)
