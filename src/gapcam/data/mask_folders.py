"""The layout `masks`: a folder of pictures a class, and a mask for each picture.

`<images>/<class>/<name>.jpg` has its mask in `<masks>/<class>/<name>.png`, or in
`<name>_mask.png` as in MVTec AD; any picture suffix will do. Foreground is a grey value above 127,
and a mask has the size of its picture. A class without a single mask (pictures without a defect)
has nothing to locate: it is left out, with a note.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gapcam.data.fields import is_picture, plural, walk
from gapcam.data.rows import Annotations, Flaw, Layout, Row, Source
from gapcam.types import ArgumentError

_MASK = "_mask"


def _read(source: Source) -> Annotations:
    images, masks = source.path, source.masks
    if masks is None:
        raise ArgumentError("masks: expected the folder of the masks, got none; name it")
    pictures, strays = _by_stem(images)
    drawn, stray_masks = _by_stem(masks)
    entries: list[Row | Flaw] = [*strays, *stray_masks]
    classes = {stem.partition("/")[0] for stem in drawn}
    bare: dict[str, int] = {}
    for stem, files in pictures.items():
        name = stem.partition("/")[0]
        if name not in classes:
            bare[name] = bare.get(name, 0) + len(files)
        else:
            entries.append(_entry(stem, files, drawn, masks))
    entries += _without_picture(pictures, drawn)
    notes = [
        f"class {name!r} has no masks: {plural(count, 'picture')} left out"
        for name, count in bare.items()
    ]
    return Annotations(images, entries, tuple(notes))


def _by_stem(root: Path) -> tuple[dict[str, list[str]], list[Flaw]]:
    """Picture files by their path without suffix; files that are in no class folder."""
    files: dict[str, list[str]] = {}
    strays = []
    for below, names in walk(root):
        for name in filter(is_picture, names):
            path = below / name
            if below.parts:
                files.setdefault(path.with_suffix("").as_posix(), []).append(path.as_posix())
            else:
                what = f"expected a file in a class folder below {root}, it is in none"
                strays.append(Flaw(name, what))
    return files, strays


def _entry(stem: str, files: list[str], drawn: dict[str, list[str]], masks: Path) -> Row | Flaw:
    picture, name = files[0], stem.partition("/")[0]
    if len(files) > 1:
        return Flaw(files[1], f"expected one picture of that name, {picture} is another", picture)
    found = drawn.get(stem) or drawn.get(stem + _MASK) or []
    if len(found) != 1:
        got = "there is none" if not found else f"there are {' and '.join(found)}"
        return Flaw(picture, f"expected one mask {stem}.png below {masks}, {got}", picture)
    return Row(found[0], picture, (name,), mask=masks / found[0])


def _without_picture(pictures: dict[str, list[str]], drawn: dict[str, list[str]]) -> Iterator[Flaw]:
    for stem, files in drawn.items():
        if stem not in pictures and stem.removesuffix(_MASK) not in pictures:
            yield Flaw(files[0], f"expected a picture {stem} with this mask, there is none")


LAYOUT = Layout(
    "masks",
    "class folders of pictures, with the folder of their masks named too",
    lambda _: False,
    _read,
    reads_masks=True,
)
