"""Data sets in: which layout it is, its reader, and the checks that all layouts share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from gapcam.data import boxes_csv, coco, cub, ilsvrc, mask_folders, voc, wsol, yolo
from gapcam.data.examples import Dataset
from gapcam.data.fields import is_dir, is_file
from gapcam.data.gather import gather
from gapcam.data.rows import Layout, Source
from gapcam.types import ArgumentError, DataError

_MODULES = (boxes_csv, coco, voc, ilsvrc, cub, wsol, mask_folders, yolo)
LAYOUTS: Mapping[str, Layout] = MappingProxyType({m.LAYOUT.name: m.LAYOUT for m in _MODULES})
"""What can be read, by name; each reader's module says what its files mean."""


def read_dataset(
    images: Path | None,
    boxes: Path | None = None,
    masks: Path | None = None,
    layout: str | None = None,
    *,
    split: str | None = None,
) -> Dataset:
    """Read a data set as it is distributed.

    Every row is held against its picture. One that does not fit is a problem and its picture is
    left out whole, because scoring it without that row would be another truth. Nothing is clipped:
    a box may stick out of its picture by at most one pixel on each side, stays as it is written,
    and is counted in the notes. Of a row that is there twice, one counts and the other is a
    problem.

    Args:
        images: The folder of the pictures. None takes the one that the layout has beside its
            annotations. With neither `boxes` nor `masks`, the data set's own folder.
        boxes: The file or folder of the annotations.
        masks: The folder of the masks. Alone it means the layout `masks`; with the layout `wsol`
            it is where the masks are, when they are not in `images`.
        layout: One of `LAYOUTS`; None recognizes it.
        split: The part to read, for layouts that have parts; None takes the part that results are
            published on, or everything.

    Returns:
        The data set: examples in the order of their names, with boxes in the pixels of the picture
        as it is shown; problems in the order of the files; notes on what was left out by rule.

    Raises:
        DataError: What was named is not there, is not a data set, could be two, or says nothing.
        ArgumentError: An unknown layout or split, or arguments that do not go together.
    """
    path = boxes or (None if masks is not None else images)
    folder = None if path is images else images
    if path is None and masks is not None and layout in (None, "masks"):
        chosen, path, folder = LAYOUTS["masks"], images, images
    else:
        chosen = _layout(path, layout)
    if path is None:
        raise ArgumentError("images: expected the folder of the pictures, got none; name it")
    _check_arguments(chosen, folder, boxes, masks, split)
    found = chosen.read(Source(path, folder, masks, split))
    if not is_dir(found.images):
        raise DataError(f"{found.images}: expected the folder of the pictures; check the path")
    if not found.entries:
        why = "".join(f" ({note})" for note in found.notes)
        raise DataError(f"{path}: expected at least one box or mask, there is none{why}")
    return gather(_name(path), chosen.name, found)


def _layout(path: Path | None, name: str | None) -> Layout:
    if name is not None and name not in LAYOUTS:
        raise ArgumentError(f"layout: expected one of {', '.join(LAYOUTS)}, got {name!r}")
    if path is None:
        raise ArgumentError("boxes: expected the annotations' file or folder, got none; name it")
    if not (is_file(path) or is_dir(path)):
        raise DataError(f"{path}: expected a file or folder, there is none; check the path")
    if name is not None:
        return LAYOUTS[name]
    fitting = [layout for layout in LAYOUTS.values() if layout.fits(path)]
    if len(fitting) > 1:
        names = " and ".join(layout.name for layout in fitting)
        raise DataError(f"{path}: expected one layout, it could be {names}; name the layout")
    if not fitting:
        wanted = "; ".join(f"{layout.wants} ({layout.name})" for layout in LAYOUTS.values())
        raise DataError(f"{path}: expected a data set, none was recognized; looked for: {wanted}")
    return fitting[0]


def _check_arguments(
    layout: Layout, images: Path | None, boxes: Path | None, masks: Path | None, split: str | None
) -> None:
    for name, folder in (("images", images), ("masks", masks)):
        if folder is not None and not is_dir(folder):
            raise DataError(f"{folder}: expected the folder of the {name}; check the path")
    if masks is not None and not layout.reads_masks:
        raise ArgumentError(f"masks: the layout {layout.name!r} has none; leave masks or boxes out")
    if layout is LAYOUTS["masks"] and boxes is not None:
        raise ArgumentError("boxes: the layout 'masks' has none; leave boxes out")
    if split is not None and split not in layout.splits:
        choices = ", ".join(layout.splits) or "none, for this layout has no splits"
        raise ArgumentError(
            f"split: expected {choices}, got {split!r} for the layout {layout.name!r}"
        )


def _name(path: Path) -> str:
    """What to call the data set: its folder, and its file where it is one."""
    whole = path.absolute()
    return f"{whole.parent.name}/{whole.name}" if is_file(path) else whole.name
