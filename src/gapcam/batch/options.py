"""What a run is asked to do, and what it says when it is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from gapcam.batch.plan import Reader
from gapcam.known_labels import KnownLabels
from gapcam.labels import ClassName
from gapcam.types import Failure, IntArray, Localization

Result: TypeAlias = Localization | Failure
Wanted: TypeAlias = IntArray | int | KnownLabels
ShardKind: TypeAlias = Literal["jsonl", "parquet"]

STAGES = ("read", "forward", "boxes", "draw", "write")
"""What a run spends its time on: reading and decoding, the network, cutting, overlays, writing."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run over many pictures does.

    Attributes:
        out_dir: Where everything goes.
        classes: The classes asked for, or None for the best.
        top: How many of the best classes, when none are asked for; None: the recipe's number.
        format: An annotation format besides the records (a key of `gapcam.formats.FORMATS`), or
            None.
        overlays: Write an overlay a picture and a contact sheet.
        resume: Take up an earlier run in the same folder.
        shards: Keep the shards as files of their own, of this kind; None joins them into one JSONL.
        shard_size: Pictures a shard; None: 512, fewer where there are few pictures.
        retry_errors: Take up a finished run and try again what failed, nothing else.
        labels: What each picture shows: `folders` or a CSV file (`gapcam.known_labels`); None:
            not known.
        min_score: Boxes with a lower score are left out of the annotations.
        review: How many of the least certain boxes to list and show; None: no list.
        reject: Lists of boxes that a reviewer rejected.
    """

    out_dir: Path
    classes: tuple[ClassName, ...] | None = None
    top: int | None = None
    format: str | None = None
    overlays: bool = True
    resume: bool = False
    shards: ShardKind | None = None
    shard_size: int | None = None
    retry_errors: bool = False
    labels: str | None = None
    min_score: float = 0.0
    review: int | None = None
    reject: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What a worker must know to do any shard; small and picklable.

    Attributes:
        folder: Where the shards go.
        out_dir: Where overlays go, below it.
        reader: Opens items.
        wanted: As `Localizer.wanted` gives it, or what is known of each picture.
        batch: How many pictures every forward pass has.
        kind: What a shard is written as.
        overlays: Write an overlay a picture.
        about: What each shard says of the run: model, hash, recipe, classes.
        base: The working folder, which relative paths go from; workers elsewhere go there first.
        masks: Write the masks of boxes into the records.
    """

    folder: Path
    out_dir: Path
    reader: Reader
    wanted: Wanted
    batch: int
    kind: ShardKind
    overlays: bool
    about: Mapping[str, Any]
    base: str
    masks: bool = False


@dataclass(frozen=True, slots=True)
class ShardDone:
    """What came of a shard: counts of what was done now, and where the time went.

    Attributes:
        index: Its number.
        localized: Pictures localized now.
        failed: Pictures that failed now.
        seconds: Of each of `STAGES`, in the worker.
        classes: How many pictures have each label as their best class with a box.
    """

    index: int
    localized: int
    failed: int
    seconds: Mapping[str, float]
    classes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told what happens; called from one thread at a time.

    Attributes:
        on_result: With each result, whose shard may not be written yet.
        on_earlier: With the number of pictures of a shard that an earlier run has done.
    """

    on_result: Callable[[Result], None] = lambda _: None
    on_earlier: Callable[[int], None] = lambda _: None


@dataclass(slots=True)
class Tally:
    """What a run adds up as its shards come."""

    localized: int = 0
    failed: int = 0
    earlier: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    classes: Counter[str] = field(default_factory=Counter)

    def add(self, done: ShardDone) -> None:
        """Count a shard."""
        self.localized += done.localized
        self.failed += done.failed
        for stage, seconds in done.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0) + seconds
        self.classes.update(done.classes)


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a run.

    Attributes:
        localized: Pictures localized now.
        failed: Pictures that failed now.
        earlier: Pictures done by an earlier run.
        written: The files and folders of results.
        wall_seconds: From the first shard to the last.
        seconds: Of each stage, added up over the workers.
        classes: How many of the pictures localized now have each label as their best class with
            a box, most frequent first.
        workers: How many worked at once.
        notes: What the user should know, in words.
    """

    localized: int
    failed: int
    earlier: int
    written: tuple[Path, ...]
    wall_seconds: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    workers: int = 1
    notes: tuple[str, ...] = ()

    @property
    def bottleneck(self) -> str | None:
        """The stage that took most time; None when nothing was done."""
        worked = self.localized + self.failed > 0 and sum(self.seconds.values()) > 0
        return max(STAGES, key=lambda stage: self.seconds.get(stage, 0.0)) if worked else None
