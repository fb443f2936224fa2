"""Runs that are taken up with other pictures, failures that are tried again, bytes that stay."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

import gapcam
from batch_runs import copies, files, lines, records, run, small_picture, spoil
from gapcam.batch import (
    ERRORS,
    RESULTS,
    SETTINGS,
    SHARDS,
    UNFINISHED,
    RunOptions,
    localize_into,
    localize_many,
    record_of,
)
from gapcam.paths import expand_paths
from gapcam.types import ArgumentError, OutputError
from picture_files import encode, smooth_pixels


def everything(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(out).items() if name != SETTINGS}


# --- the same bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "workers", "size"),
    [
        ("small", 1, 64),
        ("quick", 2, None),
        ("small", 5, 1),
        ("quick", 5, 5),
        ("small", 1, 3),
    ],
)
def test_results_do_not_depend_on_workers_or_on_the_size_of_shards(
    request: pytest.FixtureRequest, tmp_path: Path, model: str, workers: int, size: int | None
):
    localizer = request.getfixturevalue(model)
    folder = copies(tmp_path / "in", 21)
    spoil(folder / "0003.jpg")
    spoil(folder / "0020.jpg", b"")
    names = [str(path) for path in sorted(folder.iterdir())]
    wanted = localizer.wanted()
    alone = [record_of(next(localize_many(localizer, [name], wanted, 1))) for name in names]
    run(localizer, folder, tmp_path / "out", workers=workers, shard_size=size)
    assert records(tmp_path / "out") == json.loads(json.dumps(alone))
    assert lines(tmp_path / "out" / ERRORS) == [alone[3], alone[20]]


def test_kept_shards_hold_the_lines_of_the_one_file_and_are_the_same_for_any_workers(
    small: gapcam.Localizer, tmp_path: Path
):
    folder = copies(tmp_path / "in", 11)
    spoil(folder / "0000.jpg")
    run(small, folder, tmp_path / "one")
    for workers in (1, 5):
        out = tmp_path / f"many{workers}"
        run(small, folder, out, workers=workers, shards="jsonl", shard_size=4)
        assert files(out).keys() == {
            *(f"{SHARDS}/part-{i:06}.jsonl" for i in range(3)),
            *(SETTINGS, ERRORS),
        }
    assert files(tmp_path / "many1") == files(tmp_path / "many5")
    kept = [record for i in range(3) for record in lines(out / SHARDS / f"part-{i:06}.jsonl")]
    for record in kept[::4]:
        del record["run"]
    assert kept == records(tmp_path / "one")


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, "jsonl", "parquet"])
def test_retried_failures_leave_the_bytes_of_a_run_without_them(
    small: gapcam.Localizer, tmp_path: Path, kind: str | None
):
    folder = copies(tmp_path / "in", 13)
    options = {"shards": kind, "shard_size": 3}
    run(small, folder, tmp_path / "whole", **options)
    bad = [folder / f"{i:04}.jpg" for i in (0, 4, 5, 12)]
    good = {path: path.read_bytes() for path in bad}
    for path in bad:
        spoil(path)
    out = tmp_path / "out"
    _, first = run(small, folder, out, **options)
    assert (first.localized, first.failed) == (9, 4)
    for mended in ([bad[1]], [], bad):
        for path in mended:
            spoil(path, good[path])
        still_bad = [path for path in bad if path.read_bytes() == b"no picture"]
        before = [error["path"] for error in lines(out / ERRORS)]
        seen, again = run(small, folder, out, retry_errors=True, **options)
        assert sorted(seen) == before
        assert (again.failed, again.earlier) == (len(still_bad), 13 - len(before))
        errors = lines(out / ERRORS) if still_bad else []
        assert [error["path"] for error in errors] == list(map(str, still_bad))
        assert all(error["error"]["kind"] == "picture" for error in errors)
    assert everything(out) == everything(tmp_path / "whole")


def test_retrying_needs_a_finished_run_over_the_same_pictures(
    small: gapcam.Localizer, tmp_path: Path
):
    folder, out = copies(tmp_path / "in", 4), tmp_path / "out"
    with pytest.raises(ArgumentError, match="--retry-errors needs a finished run, there is none"):
        run(small, folder, out, retry_errors=True)
    spoil(folder / "0002.jpg")
    run(small, folder, out, shard_size=2)
    before = everything(out)
    small_picture(folder / "0002a.jpg")
    with pytest.raises(ArgumentError, match=r"not those of that run, from number 3 on; --retry"):
        run(small, folder, out, retry_errors=True)
    assert {k: v for k, v in everything(out).items() if UNFINISHED not in k} == before
    _, resumed = run(small, folder, out, resume=True)
    assert (resumed.localized, resumed.failed, resumed.earlier) == (1, 1, 3)


# --- other pictures ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "seed"), [(None, 0), (None, 1), (None, 2), (None, 3), ("parquet", 0)]
)
def test_a_resume_with_other_pictures_does_only_what_is_new_and_keeps_each_once(
    small: gapcam.Localizer, tmp_path: Path, kind: str | None, seed: int
):
    chance = random.Random(seed)
    source = copies(tmp_path / "all", 24)
    names = sorted(path.name for path in source.iterdir())
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    given: set[str] = set()
    known: set[str] = set()
    was_killed = False
    for round_ in range(5):
        wanted = set(chance.sample(names, chance.randint(3, 20)))
        for name in wanted - given:
            os.link(source / name, folder / name)
        for name in given - wanted:
            (folder / name).unlink()
        given = wanted
        options = {"shards": kind, "shard_size": 3, "resume": True}
        seen, summary = run(small, folder, out, **options)
        done = {Path(name).name for name in seen}
        assert len(seen) == len(done)
        assert given - known <= done <= given
        assert summary.earlier == len(given - done)
        if not was_killed:  # else it may also do again what had been in a shard that is missing
            assert done == given - known
        known |= given
        was_killed = kind is None and round_ < 4 and chance.random() < 0.5
        if was_killed:
            unfinish(out, chance, known)
    found = names_of(out, kind)
    assert len(found) == len(set(found)) == len(known)
    assert found[: len(given)] == sorted(given)
    run(small, folder, tmp_path / "anew", shards=kind, shard_size=3)
    assert names_of(tmp_path / "anew", kind) == sorted(given)


def unfinish(out: Path, chance: random.Random, known: set[str]) -> None:
    """Make of a finished run one that was killed: its shards, some of them missing."""
    work = out / UNFINISHED
    shutil.rmtree(work, ignore_errors=True)
    whole = records(out)
    options = json.loads((out / SETTINGS).read_text())
    assert options["shard_size"] == 3
    (out / RESULTS).unlink()
    work.mkdir()
    from gapcam.batch.plan import identity, inputs_hash
    from gapcam.batch.shards import ShardFacts, shard_path, write_shard

    for index, start in enumerate(range(0, len(whole), 3)):
        some = whole[start : start + 3]
        paths = [record["path"] for record in some]
        if chance.random() < 0.4:
            known -= {Path(path).name for path in paths}
            continue
        hashed = inputs_hash([identity(path, "/") for path in paths])
        facts = ShardFacts(index, start, len(some), 0, hashed, relative=False)
        write_shard(shard_path(work, index, "jsonl"), "jsonl", facts, some, {})


def names_of(out: Path, kind: str | None) -> list[str]:
    from gapcam.batch.finish import records_of
    from gapcam.batch.manifest import RunFolder

    run_folder = RunFolder(out, kind or "jsonl", kind is not None)
    return [Path(record["path"]).name for record in records_of(run_folder)]


def test_pictures_that_are_added_at_the_end_leave_the_other_shards_alone(
    small: gapcam.Localizer, tmp_path: Path
):
    folder, out = copies(tmp_path / "in", 9), tmp_path / "out"
    run(small, folder, out, shards="jsonl", shard_size=4)
    before = files(out)
    small_picture(folder / "9.jpg")
    seen, _ = run(small, folder, out, shards="jsonl", resume=True)
    assert seen == [str(folder / "9.jpg")]
    after = files(out)
    same = {name for name in before if before[name] == after[name]}
    assert same == {SETTINGS, f"{SHARDS}/part-000000.jsonl", f"{SHARDS}/part-000001.jsonl"}


def test_pictures_that_are_gone_keep_their_records_after_the_others(
    small: gapcam.Localizer, tmp_path: Path
):
    folder, out = copies(tmp_path / "in", 6), tmp_path / "out"
    run(small, folder, out)
    whole = records(out)
    (folder / "0001.jpg").unlink()
    seen, summary = run(small, folder, out, resume=True)
    assert (seen, summary.earlier) == ([], 5)
    assert records(out) == [whole[0], *whole[2:], whole[1]]
    again = everything(out)
    run(small, folder, out, resume=True)
    assert everything(out) == again


def test_other_pictures_than_the_first_with_the_same_folder_name_are_not_taken_for_it(
    small: gapcam.Localizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for place in ("a", "b"):
        copies(tmp_path / place / "in", 3)
    monkeypatch.chdir(tmp_path / "a")
    run(small, "in", tmp_path / "out")
    monkeypatch.chdir(tmp_path / "b")
    with pytest.raises(ArgumentError, match=f"started in {tmp_path}/a, .* resume it from there"):
        run(small, "in", tmp_path / "out", resume=True)


# --- what is in the folder -----------------------------------------------------------------------


def test_a_finished_run_is_replaced_by_a_new_one_of_another_kind_only_at_its_end(
    small: gapcam.Localizer, tmp_path: Path
):
    folder, out = copies(tmp_path / "in", 3), tmp_path / "out"
    there = {None: RESULTS, "jsonl": SHARDS, "parquet": SHARDS}
    for kind in (None, "parquet", "jsonl", None, "jsonl"):
        run(small, folder, out, shards=kind)
        assert {path.name for path in out.iterdir()} == {there[kind], SETTINGS}


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"x"', "\udcff"])
def test_spoilt_settings_are_refused_by_name(small: gapcam.Localizer, tmp_path: Path, text: str):
    folder, out = copies(tmp_path / "in", 1), tmp_path / "out"
    run(small, folder, out)
    (out / SETTINGS).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArgumentError, match=r"run\.json: "):
        run(small, folder, out, resume=True)


@pytest.mark.parametrize("spoilt", ['{"path": 3}', "no json", '{"path":"a","error":{}}'])
def test_a_spoilt_shard_is_refused_by_name_with_what_to_do(
    small: gapcam.Localizer, tmp_path: Path, spoilt: str
):
    folder, out = copies(tmp_path / "in", 4), tmp_path / "out"
    run(small, folder, out, shards="jsonl", shard_size=2)
    shard = out / SHARDS / "part-000001.jsonl"
    shard.write_text(spoilt + "\n")
    with pytest.raises(ArgumentError, match=r"part-000001\.jsonl(, line 1)?: expected "):
        run(small, folder, out, shards="jsonl", resume=True)


def test_a_shard_with_a_line_too_few_is_refused(small: gapcam.Localizer, tmp_path: Path):
    folder, out = copies(tmp_path / "in", 4), tmp_path / "out"
    spoil(folder / "0003.jpg")
    run(small, folder, out, shards="jsonl", shard_size=4)
    shard = out / SHARDS / "part-000000.jsonl"
    shard.write_bytes(b"".join(shard.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(ArgumentError, match=r"expected 4 records; delete the file.* It has 3"):
        run(small, folder, out, shards="jsonl", resume=True)


def test_a_run_that_cannot_write_its_settings_does_not_pass_for_the_one_before(
    small: gapcam.Localizer, tmp_path: Path
):
    folder, out = copies(tmp_path / "in", 2), tmp_path / "out"
    run(small, folder, out)
    (out / SETTINGS).unlink()
    (out / SETTINGS / "x").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"run\.json: cannot be written"):
        run(small, folder, out, top=2)
    shutil.rmtree(out / SETTINGS)
    _, resumed = run(small, folder, out, top=2, resume=True)
    assert (resumed.localized, resumed.earlier) == (2, 0)


@pytest.mark.parametrize("size", [0, -1, 100_001])
def test_a_shard_size_out_of_range_is_refused(small: gapcam.Localizer, tmp_path: Path, size: int):
    with pytest.raises(ArgumentError, match=f"shard size: expected 1 to 100,000, got {size}"):
        run(small, copies(tmp_path / "in", 1), tmp_path / "out", shard_size=size)
    assert not (tmp_path / "out").exists()


# --- broken files --------------------------------------------------------------------------------


def test_broken_files_of_every_kind_are_reported_and_none_is_fatal(
    small: gapcam.Localizer, tmp_path: Path
):
    from PIL import Image

    folder, chance = copies(tmp_path / "in", 40), random.Random(3)
    image = Image.fromarray(smooth_pixels(60, 80))
    whole = {kind: encode(image, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")}
    maybe, surely = set(), set()
    for i, (kind, data) in enumerate(whole.items()):
        for j in range(4):
            path = folder / f"{kind}-{j}.jpg"
            cut = data[: chance.randrange(1, len(data) // 2)]
            path.write_bytes(cut)
            surely.add(path)
            flipped = bytearray(data)
            for at in chance.sample(range(len(data)), 12):
                flipped[at] ^= 1 << chance.randrange(8)
            path = folder / f"{kind}-{j}-bits.png"
            path.write_bytes(flipped)
            maybe.add(path)  # what survives is a picture with other pixels
        surely.add(spoil_new(folder / f"{i}-empty.jpg", b""))
        surely.add(spoil_new(folder / f"{i}-zeros.jpg", b"\0" * 999))
        surely.add(spoil_new(folder / f"{i}-text.jpg", b"<html></html>"))
    inputs = expand_paths([str(folder)])
    summary = localize_into(small, inputs, RunOptions(tmp_path / "out", overlays=False))
    errors = {Path(record["path"]): record["error"] for record in lines(tmp_path / "out" / ERRORS)}
    assert surely <= errors.keys() <= surely | maybe
    assert summary.failed == len(errors)
    assert summary.localized == len(inputs.paths) - len(errors)
    assert [record["path"] for record in records(tmp_path / "out")] == list(inputs.paths)
    for path, error in errors.items():
        assert error["kind"] == "picture"
        assert error["message"].startswith(str(path))


def spoil_new(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
