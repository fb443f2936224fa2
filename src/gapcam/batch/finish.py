"""The end of a run: shards become results, failures get a file, annotations and sheet are made."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from gapcam.batch.manifest import RunFolder
from gapcam.batch.options import Result, RunOptions, RunSpec
from gapcam.batch.overlays import OVERLAYS, SHEET, save_jpeg
from gapcam.batch.plan import Inputs
from gapcam.batch.shards import read_facts, read_shard, shard_files, shard_lines, shard_path
from gapcam.batch.work import localize_entries
from gapcam.formats import FORMATS, LEFT_OUT, Keep, Record, read_records, record_line
from gapcam.known_labels import KnownLabels
from gapcam.localizer import Localizer
from gapcam.outputs import output_errors, replacing
from gapcam.sheet import contact_sheet_from_tiles, tile_image
from gapcam.types import Failure

SHEET_TILES = 60


def publish(run: RunFolder) -> tuple[Path, ...]:
    """Make results of the shards of a run whose pictures are all done; returns what was written.

    The shards are joined into one file, or stay and get their name; failures go to `errors.jsonl`.
    Every step can be done again, and the working folder goes last, so a kill loses nothing.

    Raises:
        OutputError: Something cannot be written.
    """
    failed = _write_errors(run)
    if run.keep_shards:
        run.publish_shards()
    else:
        with replacing(run.results, binary=True) as out:
            for index in shard_files(run.work, run.kind):
                out.writelines(shard_lines(shard_path(run.work, index, run.kind)))
        run.end()
    return (run.results, run.errors) if failed else (run.results,)


def records_of(run: RunFolder) -> Iterator[Record]:
    """The records of a finished run, in the order of its inputs.

    Raises:
        ArgumentError: A file is spoilt.
    """
    if not run.keep_shards:
        yield from read_records(run.results)
        return
    for index in shard_files(run.results, run.kind):
        yield from read_shard(shard_path(run.results, index, run.kind), run.kind)


def write_annotations(
    localizer: Localizer, run: RunFolder, inputs: Inputs, name: str, keep: Keep | None
) -> tuple[str, ...]:
    """Write the results in an annotation format; returns what the user should know of it.

    Raises:
        OutputError: They cannot be written.
    """
    labels, root = localizer.card.labels, inputs.root
    done = FORMATS[name](records_of(run), labels=labels, out_dir=run.folder, root=root, keep=keep)
    if keep is None:
        return done.notes
    said = f"{name}: {done.pictures:,} pictures, {done.boxes:,} boxes"
    out = {"below the score": done.below, "rejected": done.rejected}
    said += "".join(f", {count:,} {words}" for words, count in out.items() if count)
    if done.left_out:
        said += f"; {done.left_out:,} pictures without a box left out, see {run.folder / LEFT_OUT}"
    return (said, *done.notes)


def kept(localizer: Localizer, spec: RunSpec, options: RunOptions) -> Keep | None:
    """What goes into the annotations; None: everything.

    Raises:
        ArgumentError: A list of rejected boxes cannot be read.
    """
    known = spec.wanted if isinstance(spec.wanted, KnownLabels) else None
    if known is None and not options.min_score and not options.reject:
        return None
    from gapcam.review import read_rejected

    return Keep(
        min_score=options.min_score,
        classes=None if known is None else known.classes,
        placeless=localizer.card.placeless,
        rejected=read_rejected(options.reject),
    )


def write_review_of(
    run: RunFolder, spec: RunSpec, inputs: Inputs, count: int, keep: Keep | None
) -> tuple[tuple[Path, ...], str]:
    """Write the review list and its pages; returns them, and what they hold in words.

    Raises:
        OutputError: They cannot be written.
    """
    from gapcam.review import most_doubtful, write_doubtful

    doubtful, boxes = most_doubtful(records_of(run), count, keep or Keep())
    elsewhere = {box.path for box in doubtful if not Path(box.path).is_file()}
    items = {item.name: item for item in inputs if item.name in elsewhere} if elsewhere else {}

    def open_picture(name: str) -> str | bytes:
        return spec.reader.read(items[name]) if name in items else name

    made = write_doubtful(doubtful, boxes, run.folder, open_picture)
    return made.written, f"{made.listed:,} of {made.boxes:,} boxes to review"


def write_sheet(localizer: Localizer, spec: RunSpec, inputs: Inputs, total: int) -> Path:
    """The first pictures as one grid. They are localized again, so that a resumed run has all.

    Raises:
        OutputError: It cannot be written.
    """
    tiles = [tile_image(result) for result in _first(localizer, spec, inputs)]
    path = spec.out_dir / SHEET
    save_jpeg(contact_sheet_from_tiles(tiles, total=total), path)
    return path


def extras(
    localizer: Localizer,
    run: RunFolder,
    spec: RunSpec,
    inputs: Inputs,
    options: RunOptions,
    total: int,
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Write what is made from all results: annotations, review, contact sheet; words on them."""
    written: list[Path] = []
    notes: list[str] = []
    keep = kept(localizer, spec, options)
    if options.format is not None:
        notes += write_annotations(localizer, run, inputs, options.format, keep)
        written.append(run.folder)
    if options.review is not None:
        pages, words = write_review_of(run, spec, inputs, options.review, keep)
        written += pages[:2]
        notes.append(words)
    if options.overlays:
        written.append(run.folder / OVERLAYS)
        if total > 1:
            written.append(write_sheet(localizer, spec, inputs, total))
    return tuple(written), tuple(notes)


def _write_errors(run: RunFolder) -> int:
    """`errors.jsonl`, in the order of the inputs; returns how many pictures failed."""
    indices = shard_files(run.work, run.kind)
    paths = [shard_path(run.work, index, run.kind) for index in indices]
    spoilt = [path for path in paths if (facts := read_facts(path, run.kind)) and facts.failed]
    if not spoilt:
        with output_errors(run.errors):
            run.errors.unlink(missing_ok=True)
        return 0
    count = 0
    with replacing(run.errors) as out:
        for path in spoilt:
            for record in read_shard(path, run.kind):
                if "error" in record:
                    count += 1
                    out.write(record_line(record))
    return count


def _first(localizer: Localizer, spec: RunSpec, inputs: Inputs) -> Iterator[Result]:
    entries = islice((item for item in inputs if not isinstance(item, Failure)), SHEET_TILES)
    while chunk := list(islice(entries, spec.batch)):
        yield from localize_entries(localizer, spec.reader, chunk, spec.wanted, spec.batch)
