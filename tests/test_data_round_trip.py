"""What the writers of `gapcam.formats` write, read back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_sets import write_picture
from gapcam.data import Dataset, read_dataset
from gapcam.formats import FORMATS

LABELS = ('tabby, "tiger" cat', "crane: yes", "café #1", "it's")
WIDTH, HEIGHT = 40, 30  # as shown

PLACES = {
    "csv": ("boxes.csv", lambda x: x),
    "coco": ("annotations.json", lambda x: x),
    "yolo": ("", lambda x: x),
    "voc": ("", lambda x: (math.floor(x[0]), math.floor(x[1]), math.ceil(x[2]), math.ceil(x[3]))),
}


@st.composite
def boxes(draw: Any) -> tuple[float, ...]:
    """A box of at least two hundredths of a pixel, as records have them."""
    x = sorted(draw(st.lists(st.integers(0, WIDTH * 50), min_size=2, max_size=2, unique=True)))
    y = sorted(draw(st.lists(st.integers(0, HEIGHT * 50), min_size=2, max_size=2, unique=True)))
    return (x[0] / 50, y[0] / 50, x[1] / 50, y[1] / 50)


found = st.lists(
    st.tuples(st.integers(0, len(LABELS) - 1), boxes()),
    min_size=1,
    max_size=4,
    unique_by=lambda one: (one[0], math.floor(one[1][0]), math.floor(one[1][1])),
)


def write(root: Path, layout: str, pictures: dict[str, Any]) -> Dataset:
    images, out = root / "images", root / layout
    records = [
        {
            "path": str(images / name),
            "width": WIDTH,
            "height": HEIGHT,
            "model": "m",
            "recipe": "r",
            "detections": [
                {"label": LABELS[at], "class_id": at, "score": 0.5, "box": list(box), "peak": None}
                for at, box in rows
            ],
        }
        for name, rows in pictures.items()
    ]
    FORMATS[layout](records, labels=LABELS, out_dir=out, root=images)
    return read_dataset(images, out / PLACES[layout][0])


@pytest.mark.parametrize("layout", PLACES)
@settings(max_examples=25, deadline=None)
@given(first=found, second=found)
def test_boxes_come_back(tmp_path_factory: Any, layout: str, first: Any, second: Any):
    root = tmp_path_factory.mktemp("set")
    pictures = {"a/cat.jpg": first, "b, c.png": second}
    # Turned by EXIF, also upside down, where no size tells: the writers count shown pixels.
    write_picture(root / "images" / "a" / "cat.jpg", (HEIGHT, WIDTH), 6)
    write_picture(root / "images" / "b, c.png", (WIDTH, HEIGHT), 3)
    dataset = write(root, layout, pictures)
    assert (dataset.layout, dataset.problems) == (layout, ())
    assert [example.name for example in dataset.examples] == list(pictures)
    rounded = PLACES[layout][1]
    for example, rows in zip(dataset.examples, pictures.values(), strict=True):
        assert example.size_wh == (WIDTH, HEIGHT)
        back = {
            (LABELS.index(target.class_names[0]), *box)
            for target in example.targets
            for box in target.boxes
        }
        expected = [(at, *rounded(box)) for at, box in rows]
        for one, other in zip(sorted(back), sorted(expected), strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_csv_and_coco_keep_hundredths_exactly(tmp_path: Path):
    write_picture(tmp_path / "images" / "a.jpg")
    box = (1.01, 2.02, 30.33, 29.99)
    for layout in ("csv", "voc"):
        (example,) = write(tmp_path, layout, {"a.jpg": [(2, box)]}).examples
        (target,) = example.targets
        assert target.boxes == ((box if layout == "csv" else (1, 2, 31, 30)),)
    assert write(tmp_path, "csv", {"a.jpg": [(2, box)]}).examples[0].targets[0].class_names == (
        "café #1",
        2,
    )
