from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapcam.training import run_lock, run_tables
from gapcam.training.plan import EpochRecord, TrainOptions
from gapcam.training.run_config import run_config
from gapcam.training.run_data import data_facts
from gapcam.training.run_folder import INTERRUPTED, RunFolder, read_state
from gapcam.training.run_tables import HeadPoint, Unreadable
from gapcam.training.validation import Z_95, ClassScore, Mistake, validate, wilson
from gapcam.types import ArgumentError, DataError, ModelError, OutputError, Preprocessing

PREPROCESSING = Preprocessing((224, 224), (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
VERSIONS = {"gapcam": "0.1.0", "torch": "2.13.0", "lightning": "2.6.1"}


def config(*, data="flowers", model="efficientnet-lite0", classes=("a", "b"), **options):
    versions = options.pop("versions", VERSIONS)
    chosen = TrainOptions(**{"method": "finetune", **options})
    return run_config(
        chosen,
        data=Path(data),
        model=model,
        classes=classes,
        single=True,
        preprocessing=PREPROCESSING,
        trunk="all of it",
        versions=versions,
    )


def epoch(number, **changes):
    row = {
        "epoch": number,
        "train_loss": 1 / (number + 1),
        "train_accuracy": None,
        "validation_loss": 0.1 + 0.2,
        "validation_accuracy": 1 / 3,
        "learning_rate": 1e-5,
        "seconds": 61.25,
    }
    return EpochRecord(**(row | changes))


def resumed(path, asked):
    with RunFolder.open_for_resume(path, asked) as folder:
        return folder.records


# --- a folder, from start to end ---------------------------------------------------------------


def test_a_run_from_start_to_end(tmp_path):
    path = tmp_path / "runs" / "one"
    with RunFolder.create(path, config(epochs=2)) as folder:
        assert json.loads((path / "config.json").read_text("utf-8"))["options"]["epochs"] == 2
        assert read_state(path)["state"] == "running"
        assert not folder.finished
        assert not folder.resumed
        folder.record(epoch(0, train_loss=None))
        folder.record(epoch(1))
        assert [row.epoch for row in folder.records] == [0, 1]
        folder.finish({"best_epoch": np.int64(1), "accuracy": np.float32(0.5)})
        assert folder.finished
    state = read_state(path)
    assert state["state"] == "finished"
    assert state["result"] == {"best_epoch": 1, "accuracy": 0.5}
    assert state["started"] <= state["ended"]
    with RunFolder.open_for_resume(path, config(epochs=2)) as again:
        assert again.finished
        assert again.result == state["result"]
        assert again.records == (epoch(0, train_loss=None), epoch(1))
    assert read_state(path) == state


def test_where_things_are(tmp_path):
    with RunFolder.create(tmp_path, config()) as folder:
        assert folder.split == tmp_path / "split.csv"
        assert folder.checkpoints == tmp_path / "checkpoints"
        assert folder.model == tmp_path / "model.onnx"
        assert folder.report == tmp_path / "training.html"
        assert folder.sample(0) == tmp_path / "samples" / "epoch_000.jpg"
        assert folder.sample(1234) == tmp_path / "samples" / "epoch_1234.jpg"


def test_metrics_are_plain_csv_that_reads_back_exactly(tmp_path):
    with RunFolder.create(tmp_path, config()) as folder:
        folder.record(epoch(1))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == list(EpochRecord.__slots__)
    assert row["train_accuracy"] == ""
    assert float(row["validation_accuracy"]) == 1 / 3
    assert resumed(tmp_path, config()) == (epoch(1),)


def test_an_epoch_that_is_repeated_replaces_what_came_after_the_checkpoint(tmp_path):
    with RunFolder.create(tmp_path, config()) as folder:
        for number in range(5):
            folder.record(epoch(number))
    with RunFolder.open_for_resume(tmp_path, config()) as folder:
        assert folder.resumed
        folder.rewind(3)
        assert [row.epoch for row in folder.records] == [0, 1, 2, 3]
        folder.record(epoch(2, seconds=1.0))
    assert resumed(tmp_path, config()) == (epoch(0), epoch(1), epoch(2, seconds=1.0))


# --- refusals ----------------------------------------------------------------------------------


def test_a_run_is_not_overwritten(tmp_path):
    RunFolder.create(tmp_path, config()).close()
    with pytest.raises(ArgumentError) as caught:
        RunFolder.create(tmp_path, config())
    assert str(caught.value) == (
        f"{tmp_path} holds a run already: --resume to go on, or choose another --out"
    )


@pytest.mark.parametrize("open_run", [RunFolder.create, RunFolder.open_for_resume])
def test_a_folder_of_other_things_is_left_alone(tmp_path, open_run):
    for name in "dcba":
        (tmp_path / name).touch()
    with pytest.raises(ArgumentError, match=r"is not empty and holds no run \(a, b, c, \.\.\.\)"):
        open_run(tmp_path, config())
    (tmp_path / "d").touch()
    with pytest.raises(ArgumentError, match="expected a folder, this is a file"):
        open_run(tmp_path / "d", config())


def test_a_run_that_is_not_there_is_started(tmp_path):
    with RunFolder.open_for_resume(tmp_path / "new", config()) as folder:
        assert not folder.resumed
    assert read_state(tmp_path / "new")["state"] == "running"


def test_other_choices_are_refused_each_by_its_name(tmp_path):
    RunFolder.create(tmp_path, config()).close()
    with pytest.raises(ArgumentError) as caught:
        RunFolder.open_for_resume(
            tmp_path, config(epochs=20, seed=3, model="timm:x", data="/other")
        )
    words = str(caught.value)
    assert "epochs was 10, is now 20 (the learning rate falls to 0 along a cosine" in words
    assert "seed was 0, is now 3" in words
    assert "model was efficientnet-lite0, is now timm:x" in words
    assert f"data was {Path('flowers').absolute()}, is now {Path('/other').absolute()}" in words
    assert words.startswith(f"{tmp_path}: that run was asked for otherwise: ")
    assert "batch_size" not in words
    with pytest.raises(ArgumentError, match="classes was a, b, is now a, c"):
        RunFolder.open_for_resume(tmp_path, config(classes=("a", "c")))
    with pytest.raises(ArgumentError, match=r"ema was nothing, is now 0\.99"):
        RunFolder.open_for_resume(tmp_path, config(ema=0.99))


def test_what_changes_no_result_may_change_and_versions_are_told(tmp_path):
    RunFolder.create(tmp_path, config()).close()
    newer = config(workers=3, logger="tensorboard", versions={**VERSIONS, "torch": "2.15.0"})
    with RunFolder.open_for_resume(tmp_path, newer) as folder:
        assert folder.notes == [
            "the run was started with torch 2.13.0, it goes on with 2.15.0: the result may differ "
            "in its last digits"
        ]


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_config_is_told(tmp_path, text):
    RunFolder.create(tmp_path, config()).close()
    (tmp_path / "config.json").write_text(text)
    for _ in range(2):  # the lock was released
        with pytest.raises(DataError, match=r"config\.json: (cannot be read|expected a mapping)"):
            RunFolder.open_for_resume(tmp_path, config())


def test_no_run_has_no_state(tmp_path):
    with pytest.raises(DataError, match=r"no run is here \(config.json is missing\)"):
        read_state(tmp_path)


# --- how it ends -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModelError("the loss is not a number"), "the loss is not a number"),
        (KeyboardInterrupt(), INTERRUPTED),
        (MemoryError(), "MemoryError"),
    ],
)
def test_an_error_is_kept_and_the_run_can_go_on(tmp_path, error, reason):
    with pytest.raises(type(error)), RunFolder.create(tmp_path, config()):
        raise error
    state = read_state(tmp_path)
    assert (state["state"], state["reason"]) == ("failed", reason)
    RunFolder.open_for_resume(tmp_path, config()).close()
    after = read_state(tmp_path)
    assert after["state"] == "running"
    assert "reason" not in after
    assert after["started"] == state["started"]
    assert len(after["resumed"]) == 1


def test_a_full_disk_keeps_the_last_good_rows_and_the_first_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match="free some space"):  # noqa: PT012, SIM117
        with RunFolder.create(tmp_path, config()) as folder:
            folder.record(epoch(1))
            monkeypatch.setattr(Path, "replace", full)
            folder.record(epoch(2))
    monkeypatch.undo()
    assert not list(tmp_path.glob(".gapcam-*"))
    assert resumed(tmp_path, config()) == (epoch(1),)


# --- kills -------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_run_folder import RunFolder, config, epoch
folder = RunFolder.create(Path(sys.argv[1]), config())
folder.record(epoch(1))
print("ready", flush=True)
number = 2
while True:
    folder.record(epoch(number))
    number += 1
"""


def test_a_real_kill_leaves_whole_rows_and_no_lock(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent))
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(ArgumentError, match=rf"another training \(process {process.pid} on "):
            RunFolder.open_for_resume(tmp_path, config())
        with pytest.raises(ArgumentError, match="wait for it, or choose another --out"):
            RunFolder.create(tmp_path, config())
        process.send_signal(signal.SIGKILL)
    with RunFolder.open_for_resume(tmp_path, config()) as folder:
        assert folder.resumed
        rows = folder.records
    assert len(rows) >= 1
    assert rows == tuple(epoch(i + 1) for i in range(len(rows)))
    assert not list(tmp_path.glob(".gapcam-*"))


def test_a_row_that_was_cut_off_is_not_trusted(tmp_path):
    with RunFolder.create(tmp_path, config()) as folder:
        for number in range(3):
            folder.record(epoch(number))
    path = tmp_path / "metrics.csv"
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        rows = sum(end <= size for end in ends[1:])
        assert resumed(tmp_path, config()) == tuple(map(epoch, range(rows)))


def test_a_damaged_table_is_told(tmp_path):
    with RunFolder.create(tmp_path, config()) as folder:
        folder.record(epoch(1))
    path = tmp_path / "metrics.csv"
    good = path.read_text()
    path.write_text(good.replace("61.25", "long"))
    with pytest.raises(DataError, match=r"metrics\.csv: row 2 cannot be read .*'long'"):
        resumed(tmp_path, config())
    path.write_text(good.replace("seconds", "hours"))
    with pytest.raises(DataError, match=r"expected columns epoch,.*seconds, got .*hours"):
        resumed(tmp_path, config())


@pytest.mark.parametrize("left", [(), (".lock",), (".gapcam-0.tmp", ".lock")])
def test_a_kill_before_the_first_file_leaves_an_empty_folder(tmp_path, left):
    for name in left:
        (tmp_path / name).write_text("half")
    RunFolder.create(tmp_path, config()).close()
    assert not list(tmp_path.glob(".gapcam-*"))


def test_a_kill_between_the_first_files_is_taken_up(tmp_path):
    RunFolder.create(tmp_path, config()).close()
    (tmp_path / "run.json").unlink()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".gapcam-1.tmp").touch()
    assert read_state(tmp_path) == {"state": "running"}
    with RunFolder.open_for_resume(tmp_path, config()) as folder:
        assert folder.resumed
    assert read_state(tmp_path)["started"]
    assert not list(tmp_path.rglob(".gapcam-*"))


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_lock, "_take", refuse)
    with RunFolder.create(tmp_path, config()) as folder:
        assert folder.notes == [run_lock.NO_LOCKS]


# --- tables ------------------------------------------------------------------------------------

BYTES = st.binary(max_size=8).map(lambda name: name.replace(b"\0", b""))
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
TEXT |= BYTES.map(lambda name: name.decode("utf-8", "surrogateescape"))  # of odd file names
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
ROWS = {
    Mistake: st.builds(Mistake, TEXT, TEXT, TEXT, NUMBER),
    ClassScore: st.builds(ClassScore, TEXT, st.integers(0), *[st.none() | NUMBER] * 4),
    HeadPoint: st.builds(HeadPoint, NUMBER, NUMBER, NUMBER, NUMBER, st.booleans()),
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_read_back_as_they_were(tmp_path, kind):
    @settings(max_examples=60, deadline=None)
    @given(st.lists(ROWS[kind], max_size=4))
    def check(rows):
        path = tmp_path / "rows.csv"
        run_tables.write_rows(path, kind, rows)
        assert run_tables.read_rows(path, kind) == rows

    check()


def test_odd_names_keep_their_bytes(tmp_path):
    odd = 'caf\udce9, "the\r\n1st".jpg'
    with RunFolder.create(tmp_path, config(data="caf\udce9", classes=("ä", "=1+1"))) as folder:
        folder.write_unreadable([(odd, "truncated")])
        folder.write_data(
            data_facts(
                [odd], ["ä"], np.ones((1, 1), bool), np.array([0]), np.array([], int), split="given"
            )
        )
    assert b"caf\xe9" in (tmp_path / "unreadable.csv").read_bytes()
    (row,) = run_tables.read_rows(tmp_path / "unreadable.csv", Unreadable)
    assert row.image == odd
    text = (tmp_path / "config.json").read_text("utf-8")
    assert '"ä"' in text
    assert json.loads(text)["data"].endswith("caf\udce9")
    RunFolder.open_for_resume(tmp_path, config(data="caf\udce9", classes=("ä", "=1+1"))).close()


def test_without_unreadable_pictures_there_is_no_table(tmp_path):
    with RunFolder.create(tmp_path, config()) as folder:
        folder.write_unreadable([("a.jpg", "truncated")])
        assert (tmp_path / "unreadable.csv").read_text() == "image,reason\na.jpg,truncated\n"
        folder.write_unreadable([])
        assert not (tmp_path / "unreadable.csv").exists()


def test_the_head_table(tmp_path):
    points = [HeadPoint(0.1, 1.0, 2.0, 0.5, False), HeadPoint(1e-05, 0.5, 1.0, 0.75, True)]
    with RunFolder.create(tmp_path, config()) as folder:
        folder.write_head_path(points)
    assert (tmp_path / "head.csv").read_text() == (
        "decay,train_loss,validation_loss,validation_accuracy,chosen\n"
        "0.1,1.0,2.0,0.5,no\n1e-05,0.5,1.0,0.75,yes\n"
    )
    assert run_tables.read_rows(tmp_path / "head.csv", HeadPoint) == points


def test_counts_of_pictures_by_part():
    targets = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], bool)
    facts = data_facts(
        "wxyz", "ab", targets, np.array([0, 1]), np.array([2]), split="given", duplicates=[(0, 3)]
    )
    assert (facts.train, facts.validation) == ((2, 1), (0, 1))
    assert (facts.pictures, facts.train_pictures, facts.validation_pictures) == (4, 2, 1)
    assert facts.duplicates == (("w", "z"),)


# --- validation --------------------------------------------------------------------------------


def single_case(n=60, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, classes - 1, n)  # the last class never occurs
    probabilities = rng.dirichlet(np.ones(classes), n)
    targets = np.eye(classes, dtype=bool)[ids]
    return (
        ids,
        probabilities,
        targets,
        [f"c{i}" for i in range(classes)],
        [f"{i}" for i in range(n)],
    )


def test_single_labels_against_a_slow_count(tmp_path):
    ids, probabilities, targets, classes, names = single_case()
    found = validate(probabilities, targets, classes, names, single=True)
    said = [max(range(4), key=lambda c: row[c]) for row in probabilities.tolist()]
    right = sum(a == b for a, b in zip(said, ids, strict=True))
    assert (found.pictures, found.right, found.accuracy) == (60, right, right / 60)
    assert found.interval == wilson(right, 60)
    assert found.confusion.sum() == 60
    for true in range(4):
        for predicted in range(4):
            both = sum(s == predicted and t == true for s, t in zip(said, ids, strict=True))
            assert found.confusion[true, predicted] == both
    for c, row in enumerate(found.classes):
        there, claimed = list(ids).count(c), said.count(c)
        both = found.confusion[c, c]
        assert row.pictures == there
        assert row.precision == (both / claimed if claimed else None)
        assert row.recall == (both / there if there else None)
        assert row.average_precision is None
        if both:
            assert row.f1 == pytest.approx(2 / (1 / row.precision + 1 / row.recall))
    assert found.classes[3].recall is None
    wrong = {(str(i), f"c{t}", f"c{s}") for i, (s, t) in enumerate(zip(said, ids, strict=True))}
    assert {row[:3] for row in found.mistakes} == {row for row in wrong if row[1] != row[2]}
    sure = [row.score for row in found.mistakes]
    assert sure == sorted(sure, reverse=True)
    assert all(row.score == probabilities[int(row.image)].max() for row in found.mistakes)
    with RunFolder.create(tmp_path, config(classes=classes)) as folder:
        folder.write_validation(found)
    labels, counts = run_tables.read_counts(tmp_path / "confusion.csv")
    assert labels == tuple(classes)
    np.testing.assert_array_equal(counts, found.confusion)
    assert (tmp_path / "confusion.csv").read_text().startswith("true \\ predicted,c0,c1,c2,c3\n")
    assert tuple(run_tables.read_rows(tmp_path / "per_class.csv", ClassScore)) == found.classes
    assert tuple(run_tables.read_rows(tmp_path / "mistakes.csv", Mistake)) == found.mistakes


def test_several_labels_a_picture(tmp_path):
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
    probabilities = np.array([[0.9, 0.7, 0.1], [0.25, 0.75, 0.2], [0.625, 0.5, 0.0]])
    found = validate(probabilities, targets, "abc", ["x", "y", "z"], single=False)
    assert found.right is None
    assert found.interval is None
    assert found.confusion is None
    a, b, c = found.classes
    assert a == ("a", 2, 1 / 2, 1 / 2, 1 / 2, pytest.approx((1 + 2 / 3) / 2))
    assert b == ("b", 2, 2 / 3, 1.0, 4 / 5, pytest.approx((1 + 2 / 3) / 2))
    assert c == ("c", 0, None, None, None, None)
    assert found.accuracy == pytest.approx((a.average_precision + b.average_precision) / 2)
    assert found.mistakes == (
        Mistake("y", "a", "", 0.75),
        Mistake("x", "", "b", 0.7),
        Mistake("z", "", "a", 0.625),
    )
    with RunFolder.create(tmp_path, config()) as folder:
        folder.write_validation(found)
    assert not (tmp_path / "confusion.csv").exists()


def test_scores_that_are_no_probabilities_are_refused():
    targets = np.eye(2, dtype=bool)
    for logits in ([[2.0, -1.0], [0.5, 0.5]], [[0.5, 0.4], [0.5, 0.5]]):
        with pytest.raises(ArgumentError, match="expected probabilities"):
            validate(np.array(logits), targets, "ab", "xy", single=True)
    with pytest.raises(ArgumentError, match="scores of 3 pictures and 2 classes"):
        validate(np.full((2, 2), 0.5), targets, "ab", "xyz", single=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_exactly_the_shares_that_explain_the_count(case):
    """The score test, inverted by bisection: |hits - n p| <= z sqrt(n p (1 - p))."""
    hits, n = case

    def explains(p):
        return (hits - n * p) ** 2 <= Z_95**2 * n * p * (1 - p)

    low, high = wilson(hits, n)
    for end, outside in ((low, 0.0), (high, 1.0)):
        if end == outside:
            assert hits == n * end
            continue
        inside, edge = hits / n, outside
        for _ in range(60):
            middle = (inside + edge) / 2
            inside, edge = (middle, edge) if explains(middle) else (inside, middle)
        assert end == pytest.approx(inside, abs=1e-9)
    assert 0 <= low <= hits / n <= high <= 1


def test_wilson_known_values():
    assert wilson(5, 10) == pytest.approx((0.23659309, 0.76340691), abs=1e-8)
    assert wilson(0, 10) == pytest.approx((0, 0.27753279), abs=1e-8)
    assert wilson(10, 10) == pytest.approx((0.72246721, 1), abs=1e-8)
    for hits, n in ((0, 0), (2, 1), (-1, 5)):
        with pytest.raises(ArgumentError, match="Wilson interval"):
            wilson(hits, n)
