"""Runs that meet bad rows and broken pictures, or are stopped."""

from __future__ import annotations

import dataclasses

import pytest

from gapcam.data import read_dataset
from gapcam.evaluate import BadRowsError, Progress, evaluate
from gapcam.types import ArgumentError, DataError
from scored_sets import sample, write_rows

IOUS = (0.3, 0.5, 0.7)


def test_ctrl_c_leaves_the_result_of_what_was_done(quick, boxed):
    def stop(progress: Progress) -> None:
        if progress.done == 5:
            raise KeyboardInterrupt

    done = evaluate(quick, boxed, on_progress=stop).result
    assert done["partial"] is True
    assert (done["n"], done["n_total"]) == (5, 8)
    first = dataclasses.replace(boxed, examples=boxed.examples[:5])
    whole = evaluate(quick, first).result
    assert done["gt_known"] == whole["gt_known"]
    assert whole["partial"] is False


def test_ctrl_c_with_nothing_done_or_while_choosing_ends_it(quick, boxed):
    def stop(progress: Progress) -> None:
        if progress.done == 0 or progress.phase.startswith("choosing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(quick, boxed, on_progress=stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(quick, boxed, select_on=boxed, on_progress=lambda p: stop(p) if p.done else None)


def test_progress_tells_of_every_picture(quick, boxed):
    told = []
    evaluate(quick, boxed, select_on=boxed, on_progress=told.append)
    for phase in ("choosing on", "scoring"):
        mine = [(p.done, p.total) for p in told if p.phase.startswith(phase)]
        assert mine == [(i, 8) for i in range(9)]


def test_bad_rows_stop_it_or_are_left_out_by_name(quick, boxed, tmp_path):
    images = boxed.examples[0].path.parent.parent
    rows = [
        ("a/cat.png", "Egyptian cat", 451, 300, 0, 0, 378, 300),
        ("gone.png", "Egyptian cat", 10, 10, 0, 0, 5, 5),
        ("rocket.png", "a class that is nowhere", 640, 427, 308, 127, 337, 410),
    ]
    write_rows(tmp_path / "b.csv", rows)
    dataset = read_dataset(images, tmp_path / "b.csv")
    with pytest.raises(BadRowsError, match="2 problems; mend them") as caught:
        evaluate(quick, dataset)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "b.csv, line 3" in lines[1]
    assert "b.csv, line 4" in lines[2]
    assert "'a class that is nowhere' is unknown to efficientnet-lite0" in lines[2]
    done = evaluate(quick, dataset, skip_bad=True).result
    assert (done["n"], done["n_total"]) == (1, 3)
    assert [row["where"].split(", ")[1] for row in done["data"]["left_out"]] == ["line 3", "line 4"]


def test_a_picture_that_breaks_off_is_left_out_by_name(quick, boxed, tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("cat.jpg", "broken.jpg"):
        sample("cat").save(tmp_path / "images" / name)
    whole = (tmp_path / "images" / "broken.jpg").read_bytes()
    (tmp_path / "images" / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    boxes = [(name, 285, 451, 300, 0, 0, 378, 300) for name in ("cat.jpg", "broken.jpg")]
    write_rows(tmp_path / "b.csv", boxes)
    text = (tmp_path / "b.csv").read_text().replace("class", "class_id", 1)
    (tmp_path / "b.csv").write_text(text)
    dataset = read_dataset(tmp_path / "images", tmp_path / "b.csv")
    done = evaluate(quick, dataset).result
    assert (done["n"], done["n_total"]) == (1, 2)
    assert "broken.jpg" in done["data"]["left_out"][0]["what"]
    alone = dataclasses.replace(dataset, examples=dataset.examples[:1])
    assert alone.examples[0].name == "broken.jpg"
    with pytest.raises(BadRowsError, match=r"broken\.jpg"):
        evaluate(quick, alone)


def test_two_names_of_one_class_in_a_picture_are_a_problem(quick, boxed, tmp_path):
    images = boxed.examples[0].path.parent.parent
    cat = (451, 300, 0, 0, 378, 300)
    rows = [("a/cat.png", name, *cat) for name in ("Egyptian cat", "n02124075")]
    write_rows(tmp_path / "b.csv", rows)
    with pytest.raises(BadRowsError, match="two of its classes are both 'Egyptian cat'"):
        evaluate(quick, read_dataset(images, tmp_path / "b.csv"))


def test_what_cannot_be_scored_is_refused(quick, boxed, tmp_path):
    with pytest.raises(ArgumentError, match="protocol 'other' is unknown: expected original, wsol"):
        evaluate(quick, boxed, protocol="other")
    images = boxed.examples[0].path.parent.parent
    write_rows(tmp_path / "b.csv", [("rocket.png", "no such class", 640, 427, 1, 1, 3, 4)])
    with pytest.raises(DataError, match="no picture is left to score"):
        evaluate(quick, read_dataset(images, tmp_path / "b.csv"), skip_bad=True)
