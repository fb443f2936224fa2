"""The int8 variant of a model file: made, proved, and compared with the float one.

The network is quantized on pictures that the user gives; what that costs is measured on others of
them, and what it gains in one run with the float model.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gapcam.engines import Engine
from gapcam.engines.onnx import OnnxEngine
from gapcam.localizer import Localizer
from gapcam.maps import class_scores
from gapcam.metrics.boxes import paired_iou
from gapcam.types import (
    ArgumentError,
    Box,
    ByteArray,
    Failure,
    Localization,
    ModelError,
    Picture,
    PictureError,
)

LEAST = 8
"""Fewer pictures than this do not show a network's range of activations."""

MOST_CALIBRATING = 64
MOST_COMPARED = 256
RECOMMENDED = MOST_CALIBRATING + 64
"""Enough to calibrate with as many as help and to compare on as many others."""

BATCH = 8
SPEED_BATCHES = (1, 16)
SPEED_ROUNDS = (3, 25)
SPEED_SECONDS = 2.0
MOST_NAMED = 5
PROVED = 3

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Int8Report:
    """What the int8 variant costs and gains, beside the float model.

    Attributes:
        pictures: How many pictures were compared.
        top1_agreement: Share of them whose best class is the same, 0..1.
        mean_box_iou: Mean IoU of the two models' boxes of the float model's best class, 0..1;
            1 where neither finds a box.
        worst_box_iou: The least of them.
        mean_score_change: Mean |change| of that class's softmax score, 0..1.
        speed_ratios: Float time over int8 time of a forward pass with features, by batch.
        size_ratio: Bytes of the int8 file over those of the float file.
        calibrated_on: How many pictures it was calibrated on; 0 when not known.
        disjoint: Whether those are others than the compared.
    """

    pictures: int
    top1_agreement: float
    mean_box_iou: float
    worst_box_iou: float
    mean_score_change: float
    speed_ratios: tuple[tuple[int, float], ...]
    size_ratio: float
    calibrated_on: int = 0
    disjoint: bool = True

    def __str__(self) -> str:
        speeds = ", ".join(f"x {ratio:.2f} at batch {batch}" for batch, ratio in self.speed_ratios)
        return (
            f"Compared on {self.pictures} pictures{self._calibration()}: same best class in "
            f"{self.top1_agreement:.1%}, score changed by {self.mean_score_change:.3f} (mean).\n"
            f"Boxes of the float model's best class: IoU {self.mean_box_iou:.3f} on average, "
            f"{self.worst_box_iou:.3f} at worst.\n"
            f"Speed on this machine: {speeds} (float time / int8 time). "
            f"File: {self.size_ratio:.0%} of the float model's."
        )

    def _calibration(self) -> str:
        if not self.calibrated_on:
            return ""
        if self.disjoint:
            return f", calibrated on {self.calibrated_on} others"
        return (
            f", THE SAME as it was calibrated on, which flatters it (give {2 * LEAST} or more, "
            f"best {RECOMMENDED}, and others are kept for the comparison)"
        )


def export_int8(
    full: Localizer,
    paths: Sequence[Path],
    out: Path,
    tell: Tell | None = None,
    *,
    threads: int = 0,
) -> Int8Report:
    """Quantize a model file's network, prove the maps of the result, and compare the two.

    With 16 pictures or more, half of them (at most 64, spread evenly over the list) calibrate and
    the others (at most 256) are compared; with fewer, all do both, and the report says so.

    Args:
        full: The float model, on a model file.
        paths: Pictures like those that the model will see; 8 at least, 128 recommended.
        out: Where the int8 model file goes; written whole or not at all.
        tell: Called with a word of progress.
        threads: How many `full` was loaded with, for a fair comparison; 0 means one a core.

    Raises:
        ArgumentError: Too few pictures, or the model is not a gapcam model file.
        PictureError: Pictures that cannot be read; they are named.
        ModelError: Nothing can be quantized, or the result's maps do not add up.
    """
    from gapcam.models.onnx_graphs.quantize import quantize_static_file  # imports onnx

    engine = full.engine
    if not isinstance(engine, OnnxEngine):
        raise ArgumentError(
            f"int8: {full.card.name} runs on the {engine.name} engine; int8 needs a model file. "
            "Export it without int8 first."
        )
    calibrating, compared = split(paths)
    _tell(tell, f"Reading {len({*calibrating, *compared})} pictures ...")
    pictures = _read_all(full, [*calibrating, *compared])
    _tell(tell, f"Calibrating on {len(calibrating)} pictures ...")
    batches = calibration_batches(pictures[: len(calibrating)])
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".int8-") as folder:
        made = Path(folder) / out.name
        quantize_static_file(engine.path, made, batches)
        small = Localizer(OnnxEngine(made, threads), full.card, full.recipe)
        _prove(full, small, compared)
        report = _compare(full, small, pictures[len(calibrating) :], compared, tell)
        del small  # which holds the file open
        made.replace(out)
    return _with_calibration(report, calibrating, compared)


def split(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The pictures to calibrate on and those to compare on.

    Raises:
        ArgumentError: Too few.
    """
    count = len(paths)
    if count < LEAST:
        raise ArgumentError(
            f"int8: expected at least {LEAST} pictures to calibrate on, got {count}. "
            f"{RECOMMENDED} are recommended: {MOST_CALIBRATING} calibrate, the others are compared."
        )
    if count < 2 * LEAST:
        return list(paths), list(paths)
    chosen = _spread(range(count), min(count // 2, MOST_CALIBRATING))
    others = _spread([i for i in range(count) if i not in set(chosen)], MOST_COMPARED)
    return [paths[i] for i in chosen], [paths[i] for i in others]


def calibration_batches(pictures: Sequence[Picture]) -> Iterator[ByteArray]:
    """`uint8 [B, H, W, 3]`: what the recipe shows the network, of its second pass too."""
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        yield np.stack([picture.pixels for picture in batch])
        finer = [p.evidence_pixels for p in batch if p.evidence_pixels is not None]
        if finer:
            yield np.stack(finer)


def compare(
    full: Localizer, small: Localizer, paths: Sequence[Path], tell: Tell | None = None
) -> Int8Report:
    """Both models on the same pictures: classes, boxes, scores, time, size.

    Args:
        full: The float model, on a model file.
        small: Its int8 variant, likewise; same recipe and threads.
        paths: Pictures, best others than it was calibrated on.
        tell: Called with a word of progress.

    Raises:
        ArgumentError: No picture, or a model that is no model file.
        PictureError: Pictures that cannot be read; they are named.
    """
    if not paths:
        raise ArgumentError("int8: expected pictures to compare on, got none")
    return _compare(full, small, _read_all(full, paths), paths, tell)


def _compare(
    full: Localizer,
    small: Localizer,
    pictures: Sequence[Picture],
    paths: Sequence[Path],
    tell: Tell | None,
) -> Int8Report:
    _tell(tell, f"Comparing on {len(pictures)} pictures ...")
    agreed, ious, changes = [], [], []
    rule = full.card.scores
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        pixels = np.stack([picture.pixels for picture in batch])
        before, after = full.engine.run(pixels).logits, small.engine.run(pixels).logits
        best = before.argmax(1)[:, np.newaxis]
        agreed += (after.argmax(1) == best[:, 0]).tolist()
        change = np.take_along_axis(
            np.abs(class_scores(after, rule) - class_scores(before, rule)), best, axis=1
        )
        changes += change[:, 0].tolist()
        names = paths[start : start + BATCH]
        pairs = zip(
            full.localize(batch, names, best), small.localize(batch, names, best), strict=True
        )
        ious += [_agreement(_box(a), _box(b)) for a, b in pairs]
    _tell(tell, "Timing both in turn ...")
    return Int8Report(
        pictures=len(pictures),
        top1_agreement=float(np.mean(agreed)),
        mean_box_iou=float(np.mean(ious)),
        worst_box_iou=float(np.min(ious)),
        mean_score_change=float(np.mean(changes)),
        speed_ratios=tuple(
            (batch, speed_ratio(full.engine, small.engine, _tiled(pictures, batch)))
            for batch in SPEED_BATCHES
        ),
        size_ratio=_size(small) / _size(full),
    )


def speed_ratio(full: Engine, small: Engine, pixels: ByteArray) -> float:
    """Time of a forward pass of one over the other's: medians of runs in turn, after one each.

    Args:
        full: The engine whose time is divided.
        small: The engine whose time divides.
        pixels: `uint8` RGB `[B, H, W, 3]`.
    """
    least, most = SPEED_ROUNDS
    times: list[tuple[float, float]] = []
    end = np.inf
    while len(times) <= least or (len(times) <= most and time.perf_counter() < end):
        times.append((_seconds(full, pixels), _seconds(small, pixels)))
        end = min(end, time.perf_counter() + SPEED_SECONDS)  # the first round warms up
    before, after = np.median(times[1:], axis=0)
    return float(before / after)


def _seconds(engine: Engine, pixels: ByteArray) -> float:
    start = time.perf_counter()
    engine.run(pixels)
    return time.perf_counter() - start


def _tiled(pictures: Sequence[Picture], batch: int) -> ByteArray:
    return np.stack([pictures[i % len(pictures)].pixels for i in range(batch)])


def _spread(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of the items, evenly spread."""
    if len(items) <= count:
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def _read_all(localizer: Localizer, paths: Sequence[Path]) -> list[Picture]:
    """Every picture; all that cannot be read are named at once."""
    read = {path: localizer.read_or_fail(path) for path in dict.fromkeys(paths)}
    failed = [item for item in read.values() if isinstance(item, Failure)]
    if failed:
        names = "; ".join(str(failure.error) for failure in failed[:MOST_NAMED])
        more = f"; and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
        raise PictureError(
            f"int8: {len(failed)} of {len(read)} pictures cannot be read: {names}{more}. "
            "Leave them out."
        )
    good = {path: item for path, item in read.items() if isinstance(item, Picture)}
    return [good[path] for path in paths]


def _prove(full: Localizer, small: Localizer, paths: Sequence[Path]) -> None:
    """The int8 model's maps add up to its own scores wherever the float model's do."""
    few = list(paths[:PROVED])
    before, after = full.check(few), small.check(few)
    if before.exact and not after.exact:
        raise ModelError(f"int8: the float model's maps are exact, and not these: {after}")


def _box(found: Localization) -> Box | None:
    return found.detections[0].box_xyxy


def _agreement(a: Box | None, b: Box | None) -> float:
    if a is None or b is None:
        return float(a is b)
    return float(paired_iou(np.array(a), np.array(b)))


def _size(localizer: Localizer) -> int:
    engine = localizer.engine
    if not isinstance(engine, OnnxEngine):
        raise ArgumentError(f"int8: {localizer.card.name}: expected a model file")
    return engine.path.stat().st_size


def _with_calibration(
    report: Int8Report, calibrating: Sequence[Path], compared: Sequence[Path]
) -> Int8Report:
    disjoint = not set(calibrating) & set(compared)
    return replace(report, calibrated_on=len(calibrating), disjoint=disjoint)


def _tell(tell: Tell | None, words: str) -> None:
    if tell is not None:
        tell(words)
