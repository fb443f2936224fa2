"""Shard files by themselves: what they hold, what they say of the run, what other tools read."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gapcam
from batch_runs import Record, copies, lines, records, run, small_picture, spoil
from gapcam.batch import ERRORS, SHARDS
from gapcam.batch.plan import FEWEST_SHARDS, SHARD_SIZE, inputs_hash, shard_size, shards
from gapcam.batch.shards import ShardFacts, read_facts, read_shard, shard_lines, write_shard
from gapcam.formats import record_line
from gapcam.types import ArgumentError

ABOUT = {"gapcam": "0", "model": "m", "model_sha256": "a" * 64, "recipe": {"name": "r"}}

names = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=20)
bytes_names = st.binary(min_size=1, max_size=9).map(os.fsdecode).filter(lambda s: "\0" not in s)
numbers = st.floats(0, 1e5).map(lambda value: round(value, 2))
detections = st.fixed_dictionaries(
    {
        "label": st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        "class_id": st.integers(0, 30_000),
        "score": st.floats(0, 1).map(lambda value: round(value, 6)),
        "box": st.none() | st.lists(numbers, min_size=4, max_size=4),
        "peak": st.none() | st.lists(numbers, min_size=2, max_size=2),
    }
)
notes = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=2)
good = st.fixed_dictionaries(
    {
        "path": names | bytes_names,
        "width": st.integers(1, 10**6),
        "height": st.integers(1, 10**6),
        "model": st.just("m"),
        "recipe": st.just("r"),
        "detections": st.lists(detections, max_size=3),
    },
    optional={"notes": notes},
)
kinds = st.sampled_from(["picture", "model"])
message = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
error = st.fixed_dictionaries({"kind": kinds, "message": message})
bad = st.fixed_dictionaries({"path": names | bytes_names, "error": error})
many = st.lists(good | bad, min_size=1, max_size=5)


def facts_of(some: list[Record]) -> ShardFacts:
    failed = sum("error" in record for record in some)
    return ShardFacts(7, 70, len(some), failed, "abc", relative=True)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_what_is_written_is_read_back_the_same(tmp_path_factory: pytest.TempPathFactory, kind: Any):
    folder = tmp_path_factory.mktemp("shards")

    @settings(deadline=None, max_examples=60)
    @given(many)
    def check(some: list[Record]) -> None:
        path = folder / f"part.{kind}"
        write_shard(path, kind, facts_of(some), some, ABOUT)
        assert read_shard(path, kind) == some
        assert read_facts(path, kind) == facts_of(some)
        if kind == "jsonl":
            assert list(shard_lines(path)) == [record_line(r).encode() for r in some]

    check()


def test_a_shard_file_alone_says_model_and_whole_recipe(small: gapcam.Localizer, tmp_path: Path):
    folder = copies(tmp_path / "in", 3)
    (tmp_path / "in" / "0000.jpg").unlink()
    for kind in ("jsonl", "parquet"):
        run(small, folder, tmp_path / kind, shards=kind, shard_size=2)
    said = [lines(tmp_path / "jsonl" / SHARDS / "part-000000.jsonl")[0]["run"]]
    file = tmp_path / "parquet" / SHARDS / "part-000000.parquet"
    said.append(json.loads(pq.read_schema(file).metadata[b"gapcam"]))
    for one in said:
        assert one["model"] == "small"
        assert one["model_sha256"] == small.engine.fingerprint
        assert one["recipe"]["threshold"] == small.recipe.threshold
        assert one["recipe"]["version"] == small.recipe.version
        assert (one["classes"], one["top"]) == (None, 5)
        assert (one["shard"], one["first"], one["pictures"], one["failed"]) == (0, 0, 2, 0)
        assert one["gapcam"] == gapcam.__version__
    only_first = [
        record.keys() for record in lines(tmp_path / "jsonl" / SHARDS / "part-000000.jsonl")
    ]
    assert ["run" in keys for keys in only_first] == [True, False]


def test_parquet_is_a_plain_table_of_detections(small: gapcam.Localizer, tmp_path: Path):
    folder = copies(tmp_path / "in", 7)
    spoil(folder / "0005.jpg")
    odd = os.fsdecode(b"\xff.jpg")
    small_picture(folder / odd)
    run(small, folder, tmp_path / "one")
    _, summary = run(small, folder, tmp_path / "table", shards="parquet", shard_size=3)
    assert summary.written == (tmp_path / "table" / SHARDS, tmp_path / "table" / ERRORS)
    table = pandas.read_parquet(tmp_path / "table" / SHARDS)
    expected = records(tmp_path / "one")
    assert list(table.groupby("picture").size()) == [
        len(r.get("detections", [0])) for r in expected
    ]
    assert set(table.model_sha256) == {small.engine.fingerprint}
    for place, record in enumerate(expected):
        rows = table[table.picture == place]
        if "error" in record:
            assert list(rows.error) == [record["error"]["message"]]
            assert list(rows.error_kind) == ["picture"]
            assert rows.label.isna().all()
            continue
        assert rows.error.isna().all()
        assert set(rows.width) == {record["width"]}
        assert list(rows["rank"]) == list(range(5))
        for row, found in zip(rows.itertuples(), record["detections"], strict=True):
            assert (row.label, row.class_id, row.score) == tuple(found.values())[:3]
            box = [row.x0, row.y0, row.x1, row.y1]
            assert box == found["box"] or (found["box"] is None and all(map(math.isnan, box)))
    (odd_row,) = {*table[table.path_bytes.notna()].path_bytes}
    assert os.fsdecode(odd_row) == str(folder / odd)


def test_annotations_are_made_from_any_kind_of_shards(small: gapcam.Localizer, tmp_path: Path):
    folder = copies(tmp_path / "in", 5)
    spoil(folder / "0001.jpg")
    texts = set()
    for kind in (None, "jsonl", "parquet"):
        run(small, folder, tmp_path / str(kind), shards=kind, shard_size=2, format="coco")
        texts.add((tmp_path / str(kind) / "annotations.json").read_text())
    assert len(texts) == 1


def test_a_parquet_shard_that_is_none_is_refused_by_name(small: gapcam.Localizer, tmp_path: Path):
    folder, out = copies(tmp_path / "in", 2), tmp_path / "out"
    run(small, folder, out, shards="parquet")
    spoil(out / SHARDS / "part-000000.parquet")
    message = r"part-000000\.parquet: expected a Parquet file that gapcam wrote .*; delete it"
    with pytest.raises(ArgumentError, match=message):
        run(small, folder, out, shards="parquet", resume=True)


def test_parquet_without_its_library_says_what_to_install_before_anything_is_done(
    localizer: gapcam.Localizer, tmp_path: Path
):
    del localizer
    folder = copies(tmp_path / "in", 2)
    code = (
        "import sys; sys.modules['pyarrow'] = None\nfrom gapcam.cli import app; app(sys.argv[1:])"
    )
    arguments = ["localize", str(folder), "--out", str(tmp_path / "out"), "--format", "parquet"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "gapcam: pyarrow is not installed, and Parquet needs it. Run: pip install 'gapcam[scale]'\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_run_without_parquet_does_not_import_its_library(
    localizer: gapcam.Localizer, tmp_path: Path
):
    del localizer
    code = (
        "import sys; from gapcam.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print(*{'pyarrow', 'ray', 'torch', 'fastapi', 'pandas'} & set(sys.modules))"
    )
    arguments = ["localize", str(copies(tmp_path / "in", 2)), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


# --- the layout ----------------------------------------------------------------------------------


@given(st.integers(0, 10**9))
def test_the_size_of_shards_depends_on_the_number_of_pictures_alone(count: int):
    size = shard_size(count)
    assert 1 <= size <= SHARD_SIZE
    assert size <= 8 or size % 8 == 0
    if count >= SHARD_SIZE * FEWEST_SHARDS:
        assert size == SHARD_SIZE
    if count >= 16:
        assert math.ceil(count / size) >= 8
    assert shard_size(None) == SHARD_SIZE


@given(st.integers(0, 40), st.integers(1, 9))
def test_shards_are_the_inputs_in_order(count: int, size: int):
    from gapcam.batch.plan import FileInputs
    from gapcam.paths import Expansion

    paths = tuple(f"/in/{i}.jpg" for i in range(count))
    cut = list(shards(FileInputs(Expansion(paths, (), 0, Path("/in"))), size))
    assert [task.index for task in cut] == list(range(math.ceil(count / size)))
    assert tuple(entry.name for task in cut for entry in task.entries) == paths
    assert [task.first for task in cut] == [i * size for i in range(len(cut))]


@given(st.lists(names, max_size=4), st.lists(names, max_size=4))
def test_two_shards_hash_the_same_only_when_their_pictures_are(one: list[str], other: list[str]):
    def clean(some: list[str]) -> list[str]:
        return [text.encode("utf-8", "ignore").decode() for text in some]

    same = inputs_hash(clean(one)) == inputs_hash(clean(other))
    assert same == (clean(one) == clean(other))
