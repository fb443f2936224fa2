"""XML annotation files, one a picture (Everingham et al., IJCV 2010): for `voc` and `ilsvrc`.

Objects marked `difficult` are left out and counted. Files that gapcam wrote are in pixels of the
picture as it is shown, the others in pixels of the stored file.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gapcam.data.examples import ClassNames
from gapcam.data.fields import (
    MAX_XML_BYTES,
    brief,
    class_name,
    corners,
    is_dir,
    plural,
    read_bytes,
    size_of,
    walk,
)
from gapcam.data.rows import Annotations, Flaw, Frame, Row
from gapcam.types import Box, DataError

_PEEK = 50  # files that are looked into for a class name


@dataclass(frozen=True, slots=True)
class Dialect:
    """In what the layouts differ.

    Attributes:
        first_pixel: What the first pixel's `xmin` is: 1 or 0. `xmax` ends the box as it is.
        picture: The picture's path below the folder of the pictures, from the XML file's path
            without suffix and the `filename` in it.
        class_names: All names of a class, from the one in the file; may raise DataError.
    """

    first_pixel: int
    picture: Callable[[str, str], str]
    class_names: Callable[[str], ClassNames]


def find_base(path: Path) -> Path:
    """The folder of XML files in or below a named folder: `Annotations`, or the folder itself.

    Raises:
        DataError: There are several.
    """
    if is_dir(path / "Annotations"):
        return path / "Annotations"
    nested = sorted(path.glob("*/Annotations"))
    if len(nested) > 1:
        names = ", ".join(str(folder.parent) for folder in nested)
        raise DataError(f"{path}: expected one data set, found {names}; name one of them")
    return nested[0] if nested else path


def mirrored(base: Path, sibling: str) -> Path | None:
    """The folder that is to `<root>/<sibling>` what `base` is to `<root>/Annotations`."""
    whole = base.absolute()
    for folder in (whole, *whole.parents):
        if folder.name == "Annotations":
            twin = folder.parent / sibling / whole.relative_to(folder)
            return twin if is_dir(twin) else None
    return None


def xml_names(base: Path) -> Iterator[str]:
    """Paths of all XML files below a folder, without suffix, in the order of their names."""
    for below, files in walk(base):
        for name in files:
            if name.lower().endswith(".xml"):
                yield (below / name).as_posix()[:-4]


def first_class(base: Path) -> str | None:
    """The first class that XML files name; empty when there are files and none names one."""
    found = None
    for _, name in zip(range(_PEEK), xml_names(base), strict=False):
        found = ""
        try:
            classes = parse(base / f"{name}.xml").iterfind("object/name")
        except DataError:
            continue
        for element in classes:
            return element.text or ""
    return found


def parse(path: Path) -> ET.Element:
    """The root of an XML file. One with a document type is refused: entities in it may grow.

    Raises:
        DataError: The file cannot be read, is too large, is not XML or not an annotation.
    """
    data = read_bytes(path, MAX_XML_BYTES)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"\0" in data:
        raise DataError(
            "expected XML in UTF-8 without document type or entities; save the file without them"
        )
    try:
        root = ET.fromstring(data)  # noqa: S314 - bounded, and no entities to expand
    except (ET.ParseError, ValueError, LookupError) as error:
        raise DataError(f"expected XML, it is broken ({error}); get the file again") from error
    if root.tag != "annotation":
        raise DataError(f"expected an annotation, got <{root.tag[:40]}>; is this another format?")
    return root


def read_files(
    base: Path, names: Iterable[str], images: Path, dialect: Dialect, notes: Iterable[str] = ()
) -> Annotations:
    """Read XML files.

    Args:
        base: The folder they are in.
        names: Their paths below it, without suffix.
        images: The folder of the pictures.
        dialect: How they are meant.
        notes: What to add to the notes.
    """
    entries: list[Row | Flaw] = []
    taken: dict[str, str] = {}
    difficult = bare = 0
    for name in names:
        where = f"{base.name}/{name}.xml"
        try:
            root = parse(base / f"{name}.xml")
        except DataError as error:
            entries.append(Flaw(where, str(error)))
            continue
        picture = dialect.picture(name, (root.findtext("filename") or "").strip())
        other = taken.setdefault(picture, where)
        if other != where:
            what = f"expected a picture of its own, {other} has {brief(picture)} too"
            entries.append(Flaw(where, what, picture))
            continue
        objects = [item for item in root.iterfind("object") if not _is_difficult(item)]
        difficult += len(root.findall("object")) - len(objects)
        bare += not objects
        entries += _entries(where, picture, root, objects, dialect)
    said = [
        *notes,
        *([f"{plural(difficult, 'object')} marked difficult left out"] if difficult else []),
        *([f"{plural(bare, 'picture')} without an object left out"] if bare else []),
    ]
    return Annotations(images, entries, tuple(said))


def _entries(
    where: str, picture: str, root: ET.Element, objects: Iterable[ET.Element], dialect: Dialect
) -> Iterator[Row | Flaw]:
    try:
        size = _size(root)
    except DataError as error:
        yield Flaw(where, str(error), picture)
        return
    frame: Frame = "shown" if root.findtext("source/database") == "gapcam" else "stored"
    for place, item in enumerate(objects, start=1):
        spot = f"{where}, object {place}"
        try:
            names = dialect.class_names(class_name((item.findtext("name") or "").strip(), "name"))
            box = _box(item, dialect.first_pixel)
            yield Row(spot, picture, names, box, size_wh=size, size_where=where, frame=frame)
        except DataError as error:
            yield Flaw(spot, str(error), picture)


def _size(root: ET.Element) -> tuple[int, int] | None:
    size = root.find("size")
    return None if size is None else size_of(size.findtext("width"), size.findtext("height"))


def _box(item: ET.Element, first_pixel: int) -> Box:
    names = ("xmin", "ymin", "xmax", "ymax")
    values = [item.findtext(f"bndbox/{name}") for name in names]
    x0, y0, x1, y1 = corners(values, " ".join(names))
    return (x0 - first_pixel, y0 - first_pixel, x1, y1)


def _is_difficult(item: ET.Element) -> bool:
    return (item.findtext("difficult") or "").strip() == "1"
