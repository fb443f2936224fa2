"""What each picture of a folder run shows, where that is known: from its folder or from a table.

A picture is then localized for its own classes only, whatever the model thinks is in it.
`read_labels` goes once over the names of the inputs, so that every label that is no class of the
model is named before the first picture is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from gapcam.known_labels.inputs import Inputs, Item, Reader, identity, items_of
from gapcam.known_labels.table import best_base, merged, numbers_of, read_table
from gapcam.labels import class_id
from gapcam.training.label_rows import PARTS, canonical, counted, few
from gapcam.types import (
    ArgumentError,
    DataError,
    GapcamError,
    IntArray,
    Localization,
    ModelCard,
)

FOLDERS = "folders"
"""The spec for labels that are the names of folders."""

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True, slots=True, eq=False)
class KnownLabels:
    """The classes of each picture; picklable, 12 bytes a picture of a table, none for folders.

    Attributes:
        spec: `folders`, or the path of the table.
        sets: The different sets of class ids that pictures have.
        folders: With folders: which set each class folder stands for.
        numbers: With a table: hashes of its pictures' names, sorted, `[R]`.
        places: With a table: which set each has, `[R]`.
        classes: The ids of all classes that a picture may have a box of, sorted.
        count: How many classes the model has.
        notes: What the user should know, in words.
    """

    spec: str
    sets: tuple[tuple[int, ...], ...]
    folders: Mapping[str, int]
    numbers: npt.NDArray[np.uint64]
    places: npt.NDArray[np.int32]
    classes: tuple[int, ...]
    count: int
    notes: tuple[str, ...] = ()

    @property
    def widest(self) -> int:
        """The largest number of classes of a picture, at least 1."""
        return max(1, *map(len, self.sets), 1)

    @property
    def fingerprint(self) -> str:
        """A hash of all that the labels say: 32 hex digits."""
        digest = hashlib.sha256(repr((self.sets, sorted(self.folders.items()))).encode())
        digest.update(self.numbers.tobytes() + self.places.tobytes())
        return digest.hexdigest()[:32]

    def wanted(self, item: Item, reader: Reader) -> tuple[int, ...]:
        """The class ids of a picture; none when it is known to show none of the classes.

        Raises:
            DataError: Nothing is known of it.
        """
        place = self._place(item, reader)
        if place is None:
            raise DataError(f"{item.name}: {_why_unknown(self.spec)}")
        return self.sets[place]

    def rows(self, wanted: Sequence[tuple[int, ...]]) -> IntArray:
        """Class ids `[B, widest]` for `Localizer.see` and `localize`.

        Rows are filled up with classes that were not asked for, which `only` takes out again; all
        have one length, so that a result does not depend on its neighbours.
        """
        return np.array([self._filled(ids) for ids in wanted], np.int64).reshape(-1, self.widest)

    def _filled(self, ids: tuple[int, ...]) -> list[int]:
        others = (i for i in range(self.count) if i not in ids)
        return [*ids, *islice(others, self.widest - len(ids))]

    def _place(self, item: Item, reader: Reader) -> int | None:
        if self.spec == FOLDERS:
            folder, _ = _folder_of(item, reader, self.folders)
            return self.folders.get(folder)
        for number in numbers_of(item, reader):
            at = int(np.searchsorted(self.numbers, np.uint64(number)))
            if at < len(self.numbers) and int(self.numbers[at]) == number:
                return int(self.places[at])
        return None


def read_labels(spec: str, inputs: Inputs, card: ModelCard) -> KnownLabels:
    """What is known of the pictures of a run.

    Args:
        spec: `folders`: a picture shows what its class folder is called, the first one below the
            root of all inputs. Folders of parts (`train`, `val`, `test`) and archives above it are
            passed over; a picture right in the root shows what the root is called. Else a CSV
            file as `gapcam train` reads it: `image,label`, `image,labels` or a column a class;
            paths go from the root of all inputs or from the file's folder, wherever more are found.
        inputs: The pictures; gone over once, without reading any.
        card: The model; labels are its classes by name, synonym, WordNet id or number.

    Raises:
        ArgumentError: Labels are no classes of the model (all are named), or no picture has one.
        DataError: The table cannot be read, or has not the columns.
    """
    if spec == FOLDERS:
        return _from_folders(inputs, card)
    return _from_table(Path(spec), inputs, card)


def only(found: Localization, wanted: Iterable[int]) -> Localization:
    """A result with the detections of some classes."""
    kept = frozenset(wanted)
    return replace(found, detections=tuple(d for d in found.detections if d.class_id in kept))


def _from_folders(inputs: Inputs, card: ModelCard) -> KnownLabels:
    counts: dict[str, int] = {}
    loose: dict[str, int] = {}
    known = _Known(card)
    for item in items_of(inputs):
        folder, is_loose = _folder_of(item, inputs.reader, known)
        into = loose if is_loose else counts
        into[folder] = into.get(folder, 0) + 1
    ids = _class_ids(counts, FOLDERS, card)
    for folder in [name for name in loose if name in known]:
        ids |= _class_ids([folder], FOLDERS, card)
    without = sum(count for folder, count in loose.items() if folder not in ids)
    _check_some(FOLDERS, sum(counts.values()) + sum(loose.values()), without, loose)
    chosen = sorted(set(ids.values()))
    return KnownLabels(
        spec=FOLDERS,
        sets=tuple((i,) for i in chosen),
        folders={folder: chosen.index(i) for folder, i in ids.items()},
        numbers=np.zeros(0, np.uint64),
        places=np.zeros(0, np.int32),
        classes=_with_boxes(chosen, card),
        count=len(card.labels),
        notes=_notes(FOLDERS, without),
    )


class _Known:
    """The names that a model knows, as a container."""

    def __init__(self, card: ModelCard) -> None:
        self._card = card
        self._answers: dict[str, bool] = {}

    def __contains__(self, name: str) -> bool:
        if name not in self._answers:
            self._answers[name] = isinstance(_id_or_error(name, self._card), int)
        return self._answers[name]


def _folder_of(item: Item, reader: Reader, known: Any) -> tuple[str, bool]:
    """The class folder of a picture, and whether it is the root itself."""
    folders = list(reader.relative(item.name).parts[:-1])
    packed = [i for i, name in enumerate(folders) if name.lower().endswith(_ARCHIVES)]
    folders = folders[packed[-1] + 1 :] if packed else folders
    if len(folders) > 1 and folders[0].casefold() in PARTS and folders[0] not in known:
        del folders[0]
    if folders:
        return canonical(folders[0]), False
    return canonical(PurePosixPath(identity(item.name)).parent.name), True


def _from_table(path: Path, inputs: Inputs, card: ModelCard) -> KnownLabels:
    table = read_table(path)
    ids = _class_ids(dict.fromkeys(name for names in table.sets for name in names), path, card)
    sets = [tuple(dict.fromkeys(ids[name] for name in names)) for names in table.sets]
    best, pictures = best_base(table, inputs)
    without = pictures - best.found
    _check_some(str(path), pictures, without, {})
    numbers, places = merged(best.numbers, best.places, sets)
    unused = len(numbers) - best.rows_found
    return KnownLabels(
        spec=str(path),
        sets=tuple(sets),
        folders={},
        numbers=numbers,
        places=places,
        classes=_with_boxes(sorted({i for one in sets for i in one}), card),
        count=len(card.labels),
        notes=_notes(str(path), without, unused),
    )


def _class_ids(names: Iterable[str], spec: object, card: ModelCard) -> dict[str, int]:
    """The class of each label; all that have none are named at once."""
    answers = {name: _id_or_error(name, card) for name in sorted(names)}
    wrong = [str(answer) for answer in answers.values() if not isinstance(answer, int)]
    if wrong:
        are = "is" if len(wrong) == 1 else "are"
        listed = "; ".join(words.replace(f" to {card.name};", ",") for words in wrong)
        raise ArgumentError(
            f"--labels {spec}: expected classes of {card.name}, {len(wrong):,} of "
            f"{counted(len(answers), 'label')} {are} none: {listed}"
        )
    return {name: answer for name, answer in answers.items() if isinstance(answer, int)}


def _id_or_error(name: str, card: ModelCard) -> int | GapcamError:
    try:
        return class_id(card, name)
    except ArgumentError as error:
        if name.isdecimal() and name.isascii() and int(name) < len(card.labels):
            return int(name)
        return error


def _check_some(spec: str, pictures: int, without: int, loose: Mapping[str, int]) -> None:
    if pictures and without == pictures:
        got = f", they lie right in {few(sorted(loose))}" if loose else ""
        raise ArgumentError(
            f"--labels {spec}: none of {counted(pictures, 'picture')} has a label{got}; "
            f"{_advice(spec)}"
        )


def _why_unknown(spec: str) -> str:
    if spec == FOLDERS:
        return "expected a picture in a class folder, it is in none; move it into one"
    return f"expected a row in {spec}, there is none; add one, or leave the picture out"


def _advice(spec: str) -> str:
    if spec == FOLDERS:
        return "name the folder that holds the class folders, or a CSV file"
    return "its paths go from the folder of the pictures, or from its own"


def _with_boxes(ids: Iterable[int], card: ModelCard) -> tuple[int, ...]:
    return tuple(i for i in ids if i not in card.placeless)


def _notes(spec: str, without: int, unused: int = 0) -> tuple[str, ...]:
    notes = []
    if without:
        has = "has" if without == 1 else "have"
        notes.append(f"{counted(without, 'picture')} {has} no label in {spec}: counted as failed")
    if unused:
        name = "names" if unused == 1 else "name"
        notes.append(f"{counted(unused, 'picture')} that {spec} {name} not among the inputs")
    return tuple(notes)
