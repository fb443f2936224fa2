"""Many pictures: in parallel, in order, written as they come, taken up again after a kill."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from gapcam.formats import FORMATS, Record, failure_record, read_records, to_record
from gapcam.journal import FOLDER, Journal
from gapcam.labels import ClassName
from gapcam.localizer import Localizer
from gapcam.outputs import replacing
from gapcam.parallel import in_chunks
from gapcam.paths import Expansion
from gapcam.sheet import contact_sheet_from_tiles, tile_image
from gapcam.types import (
    PICTURE_SUFFIXES,
    Failure,
    GapcamError,
    IntArray,
    Localization,
)

Result: TypeAlias = Localization | Failure

SHEET_TILES = 60
JPEG_QUALITY = 92
OVERLAYS = "overlays"
OVERLAY_END = "_cam.jpg"
SHEET = "contact_sheet.jpg"
LONGEST_NAME = 255
LONGEST_JPEG_SIDE = 65_500


WORDS_OF_RECIPE = frozenset({"source", "chosen_on", "chosen_score", "cost"})
"""What a recipe says of itself and does not change its results."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a folder run does.

    Attributes:
        out_dir: Where everything goes.
        classes: The classes asked for, or None for the best.
        top: How many of the best classes, when none are asked for; None: the recipe's number.
        format: An annotation format besides the JSONL (a key of `gapcam.formats.FORMATS`), or None.
        overlays: Write an overlay a picture and a contact sheet.
        resume: Take up an earlier run in the same folder.
    """

    out_dir: Path
    classes: tuple[ClassName, ...] | None = None
    top: int | None = None
    format: str | None = None
    overlays: bool = True
    resume: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a run: pictures localized now, failed, done by an earlier run; files written."""

    localized: int
    failed: int
    earlier: int
    written: tuple[Path, ...]


def localize_many(
    localizer: Localizer, paths: Iterable[str], wanted: IntArray | int, workers: int | None = None
) -> Generator[Result, None, None]:
    """Localize many files, in order; memory does not grow.

    Each worker reads a chunk of pictures, runs it and cuts its boxes. That keeps every core busy
    with work of its own when the localizer was loaded with `threads=1`: with more, the workers'
    forward passes and reads take the cores from one another.

    Args:
        localizer: What localizes.
        paths: Picture files, read lazily.
        wanted: As `Localizer.wanted` gives it.
        workers: Threads; one a core when None.

    Yields:
        One result a path; a picture that cannot be read is a `Failure` in its place.
    """
    yield from in_chunks(lambda chunk: localizer.localize_readable(chunk, wanted), paths, workers)


def without_results(inputs: Expansion, out_dir: Path) -> Expansion:
    """The inputs less the pictures that an earlier run wrote into `out_dir`, counted as ignored."""
    sheet = _absolute(out_dir / SHEET)
    overlays = _absolute(out_dir / OVERLAYS) + os.sep

    def is_result(path: str) -> bool:
        whole = _absolute(path)
        return whole == sheet or (whole.startswith(overlays) and whole.endswith(OVERLAY_END))

    paths = tuple(path for path in inputs.paths if not is_result(path))
    ignored = inputs.ignored + len(inputs.paths) - len(paths)
    return replace(inputs, paths=paths, ignored=ignored)


def localize_into(
    localizer: Localizer,
    inputs: Expansion,
    options: RunOptions,
    on_result: Callable[[Result], None] = lambda _: None,
    workers: int | None = None,
) -> Summary:
    """Localize files into a folder: JSONL, annotations, overlays and a contact sheet.

    Args:
        localizer: What localizes.
        inputs: The pictures.
        options: What to write and where.
        on_result: Called with each result once it is written.
        workers: Threads; one a core when None. See `localize_many`.

    Raises:
        ArgumentError: An unknown class, `top` out of range, or a run there that does not fit.
        OutputError: Something cannot be written; what was written stays and can be resumed.
    """
    wanted = localizer.wanted(options.classes, options.top)
    settings = _settings(localizer, wanted, options)
    counts = {Localization: 0, Failure: 0}
    with Journal(options.out_dir, settings, resume=options.resume) as journal:
        done = {_absolute(path) for path in journal.done}
        todo = tuple(path for path in inputs.paths if _absolute(path) not in done)
        with closing(_results(localizer, inputs, todo, wanted, options, workers)) as results:
            for result in results:
                journal.append(record_of(result))
                counts[type(result)] += 1
                on_result(result)
        journal.finish()
    written = _finish(localizer, inputs, wanted, options, journal.results)
    earlier = len(inputs.paths) - len(todo)
    return Summary(counts[Localization], counts[Failure], earlier, written)


def _absolute(path: str | Path) -> str:
    return os.path.normpath(Path(path).absolute())


def record_of(result: Result) -> Record:
    """The JSON-ready record of a result."""
    return failure_record(result) if isinstance(result, Failure) else to_record(result)


def _settings(localizer: Localizer, wanted: IntArray | int, options: RunOptions) -> dict[str, Any]:
    return {
        "model": localizer.card.name,
        "model_sha256": localizer.engine.fingerprint,
        "recipe": {k: v for k, v in asdict(localizer.recipe).items() if k not in WORDS_OF_RECIPE},
        "classes": None if isinstance(wanted, int) else wanted.tolist(),
        "top": wanted if isinstance(wanted, int) else None,
        "overlays": options.overlays,
        FOLDER: str(Path.cwd()),
    }


def _results(
    localizer: Localizer,
    inputs: Expansion,
    paths: Iterable[str],
    wanted: IntArray | int,
    options: RunOptions,
    workers: int | None,
) -> Generator[Result, None, None]:
    """The results of a run, their overlays already written."""

    def work(chunk: Sequence[str]) -> list[Result]:
        results = localizer.localize_readable(chunk, wanted)
        if not options.overlays:
            return results
        return [_with_overlay(result, inputs, options.out_dir) for result in results]

    yield from inputs.failures
    yield from in_chunks(work, paths, workers)


def _with_overlay(result: Result, inputs: Expansion, out_dir: Path) -> Result:
    """Write the overlay of a result; a picture that can no longer be read becomes a failure."""
    if isinstance(result, Failure):
        return result
    path = overlay_path(inputs, result.name, out_dir)
    try:
        picture = result.draw()
    except GapcamError as error:
        return Failure(result.name, error)
    _save_jpeg(picture, path)
    return result


def _save_jpeg(picture: Image.Image, path: Path) -> None:
    if max(picture.size) > LONGEST_JPEG_SIDE:
        picture.thumbnail((LONGEST_JPEG_SIDE, LONGEST_JPEG_SIDE))
    with replacing(path, binary=True) as out:
        picture.save(out, "JPEG", quality=JPEG_QUALITY)


def overlay_path(inputs: Expansion, path: str, out_dir: Path) -> Path:
    """Where the overlay of a picture goes: `cat.jpg` to `overlays/cat_cam.jpg`.

    Other suffixes stay in the name (`cat.png` to `cat_png_cam.jpg`), and so does that of
    `cat_png.jpg`, so that no two meet. Names too long for a file are cut and get a hash, and so
    do those without the suffix of a picture.
    """
    relative = inputs.relative(path)
    digest = hashlib.sha256(os.fsencode(relative.name)).hexdigest()[:12]
    stem, suffix = relative.stem, relative.suffix
    like_another = f".{stem.rpartition('_')[2].lower()}" in PICTURE_SUFFIXES
    kept = "" if suffix == ".jpg" and not like_another else suffix.replace(".", "_")
    if suffix.lower() not in PICTURE_SUFFIXES:
        kept = f"_{digest}"
    name = f"{stem}{kept}{OVERLAY_END}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        start = os.fsencode(stem)[: LONGEST_NAME // 2].decode("utf-8", "ignore")
        name = f"{start}_{digest}{OVERLAY_END}"
    return out_dir / OVERLAYS / relative.with_name(name)


def _finish(
    localizer: Localizer,
    inputs: Expansion,
    wanted: IntArray | int,
    options: RunOptions,
    results: Path,
) -> tuple[Path, ...]:
    """Write what is made from all results: annotations and the contact sheet."""
    written = [results]
    if options.format is not None:
        FORMATS[options.format](
            read_records(results),
            labels=localizer.card.labels,
            out_dir=options.out_dir,
            root=inputs.root,
        )
        written.append(options.out_dir)
    if options.overlays:
        written.append(options.out_dir / OVERLAYS)
        if len(inputs.paths) > 1:
            written.append(_write_sheet(localizer, inputs, wanted, options.out_dir))
    return tuple(written)


def _write_sheet(
    localizer: Localizer, inputs: Expansion, wanted: IntArray | int, out_dir: Path
) -> Path:
    """The first pictures as one grid. They are localized again, so that a resumed run has all."""
    first = localize_many(localizer, inputs.paths[:SHEET_TILES], wanted)
    sheet = contact_sheet_from_tiles([tile_image(r) for r in first], total=len(inputs.paths))
    path = out_dir / SHEET
    _save_jpeg(sheet, path)
    return path
