"""Class labels from folders: `DATA/<class>/...`, or `DATA/train/<class>/` with `DATA/val/<class>/`.

A picture at any depth counts to the top class folder. Files and folders that are hidden or that
file systems make (`__MACOSX`, `@eaDir`) are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gapcam.data.fields import class_name, is_dir, is_picture, unreadable, walk
from gapcam.training.label_rows import (
    PARTS,
    TRAIN,
    VALIDATION,
    LabelRow,
    LabelRows,
    canonical,
    check_alike,
    counted,
    few,
)
from gapcam.types import DataError

_NOBODYS = frozenset(("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN"))

# Folders that lie beside train/ in data sets as they are distributed, and are no classes.
_BESIDE = re.compile(
    r"^(train|test|val|dev|eval|hold|unlabel|image|extra|sample)|mask|truth|annot|label|box|meta|pred"
)
_LAYOUT = "class folders (DATA/cat/1.jpg, DATA/dog/2.jpg), or train/ and val/ with class folders"


@dataclass(frozen=True, slots=True)
class _Tree:
    """A folder of class folders.

    Attributes:
        folder: Which.
        pictures: Of every class folder, the paths below it.
        loose: Pictures that lie directly in it.
        others: How many files are not called like a picture.
    """

    folder: Path
    pictures: dict[str, list[Path]]
    loose: list[str]
    others: int


def read_folders(root: Path) -> LabelRows:
    """The pictures in class folders; labels are the folders' names.

    `train` (or `training`) is taken for a part when it holds folders of pictures, and `val`,
    `valid` or `validation` beside it for the other; what else lies there is left alone. With class
    folders beside it, `train` is a class itself if pictures lie directly in it.

    Raises:
        DataError: There are no class folders, their names cannot be told apart, or what `train`
            means is not clear.
    """
    parts = _parts(root)
    rows: list[LabelRow] = []
    notes: list[str] = []
    classes: set[str] = set()
    for part, name in ((None, ""),) if parts is None else parts.items():
        tree = _tree(root / name)
        notes += _notes(tree)
        for folder, pictures in tree.pictures.items():
            label = canonical(class_name(folder, f"{tree.folder}: class folder"))
            classes.add(label)
            for path in pictures:
                shown = (Path(name) / folder / path).as_posix()
                rows.append(LabelRow(shown, root / shown, (label,), part, shown))
    check_alike(classes, root)
    if parts is not None:
        notes += _left_alone(root, list(parts.values()))
    return LabelRows(root, rows, frozenset(classes), "folders", tuple(notes))


def _parts(root: Path) -> dict[int, str] | None:
    """The folder of each part; None where folders are classes."""
    inner = _subfolders(root)
    named = {
        part: [name for name in inner if PARTS.get(name.casefold()) == part]
        for part in (TRAIN, VALIDATION)
    }
    if not named[TRAIN]:
        if inner and all(name.casefold() in PARTS for name in inner):
            raise DataError(
                f"{root}: expected {_LAYOUT}, got {_slashed(inner)} and no train/; name the folder "
                "that holds the class folders"
            )
        return None
    if not _is_part(root, named[TRAIN][0], inner):
        return None
    for names in named.values():
        if len(names) > 1:
            raise DataError(
                f"{root}: expected one folder a part, got {_slashed(names)}; move one elsewhere"
            )
    return {part: names[0] for part, names in named.items() if names}


def _is_part(root: Path, train: str, inner: list[str]) -> bool:
    """Whether `train` is a part of the data, not a class such as `car` and `ship` beside it."""
    rivals = [
        name for name in inner if not _BESIDE.search(name.casefold()) and _holds(root / name)[0]
    ]
    loose, nested = _holds(root / train)
    if rivals and nested and not loose:
        raise DataError(
            f"{root}: expected {_LAYOUT}, got {train}/ with folders in it and pictures in "
            f"{_slashed(rivals)} beside it; name {root / train} to train on its folders, or move "
            f"the pictures in {train}/ out of their folders if it is a class"
        )
    return not rivals


def _subfolders(root: Path) -> list[str]:
    try:
        names = [path.name for path in root.iterdir() if is_dir(path)]
    except OSError as error:
        raise unreadable(root, error) from error
    return sorted(name for name in names if not name.startswith(".") and name not in _NOBODYS)


def _holds(folder: Path) -> tuple[bool, bool]:
    """Whether pictures lie directly in a folder, and whether some lie in folders below."""
    loose = nested = False
    for below, names in _walk(folder):
        if any(map(is_picture, names)):
            loose, nested = loose or not below.parts, nested or bool(below.parts)
        if nested:
            break
    return loose, nested


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    for below, names in walk(root):
        if not _NOBODYS & set(below.parts):
            yield below, names


def _tree(folder: Path) -> _Tree:
    pictures: dict[str, list[Path]] = {}
    loose: list[str] = []
    others = 0
    for below, names in _walk(folder):
        found = [name for name in names if is_picture(name)]
        if not below.parts:
            loose = found
            continue
        others += len(names) - len(found)
        inside = Path(*below.parts[1:])
        pictures.setdefault(below.parts[0], []).extend(inside / name for name in found)
    check_alike(pictures, folder)
    tree = _Tree(folder, {name: sorted(pictures[name]) for name in sorted(pictures)}, loose, others)
    if not any(pictures.values()):
        _refuse_bare(tree)
    return tree


def _refuse_bare(tree: _Tree) -> None:
    if tree.loose:
        count = counted(len(tree.loose), "picture")
        raise DataError(
            f"{tree.folder}: expected {_LAYOUT}, got {count} directly in it ({few(tree.loose)}); "
            "put the pictures of each class in a folder of its own, or name a CSV file with the "
            "columns image and label"
        )
    got = f"only folders without pictures ({few([*tree.pictures])})" if tree.pictures else "nothing"
    raise DataError(f"{tree.folder}: expected {_LAYOUT}, got {got}; check the path")


def _notes(tree: _Tree) -> list[str]:
    notes = []
    if tree.loose:
        count = counted(len(tree.loose), "picture")
        notes.append(
            f"{count} directly in {tree.folder} left alone: in no class folder ({few(tree.loose)})"
        )
    if tree.others:
        count = counted(tree.others, "file")
        notes.append(f"{count} in {tree.folder} left alone: not called like pictures")
    return notes


def _left_alone(root: Path, used: list[str]) -> list[str]:
    rest = [name for name in _subfolders(root) if name not in used]
    if not rest:
        return []
    are = "is" if len(rest) == 1 else "are"
    return [f"{_slashed(rest)} {are} left alone: training uses {_slashed(used)} only"]


def _slashed(names: list[str]) -> str:
    slashed = [f"{name}/" for name in names]
    return " and ".join(slashed) if len(slashed) < 3 else few(slashed)
