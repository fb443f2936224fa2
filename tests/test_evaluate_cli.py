"""`gapcam evaluate` as users meet it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gapcam
from gapcam.cli import app
from gapcam.cli.evaluate import _stopping_between_pictures
from gapcam.cli.score_table import print_scores
from scored_sets import made_pictures, write_boxes, write_masks, write_rows

CAT = ("a/cat.png", "Egyptian cat", 451, 300, 0, 0, 378, 300)


@pytest.fixture(autouse=True, scope="module")
def built(localizer: gapcam.Localizer) -> None:
    """So that no test sees the word that a model is being built."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_boxes(tmp_path_factory.mktemp("data"))


def run(*arguments: object):
    line = ["evaluate", *map(str, arguments)]
    done = CliRunner().invoke(app, line, env={"COLUMNS": "200"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_scores_are_printed_and_written(data, tmp_path):
    images, boxes = data
    scores, page = tmp_path / "deep" / "scores.json", tmp_path / "report.html"
    done = run("--images", images, "--boxes", boxes, "--json", scores, "--report", page)
    assert done.exit_code == 0, done.stderr
    result = json.loads(scores.read_text())
    shown = done.stdout
    assert "8 pictures, 9 classes in them" in shown
    assert "recipe default, protocol original" in shown
    for key, words in (("gt_known", "GT-known Loc"), ("top1", "Top-1 classification")):
        line = next(line for line in shown.splitlines() if line.startswith(words))
        low, high = result["ci95"][key]
        assert line.split()[-4:] == [
            f"{100 * result[key]:.1f}",
            f"{100 * low:.1f}",
            "to",
            f"{100 * high:.1f}",
        ]
    assert shown.count("upper bound") >= 6
    words = "fixed by the recipe 'default' (chosen on 630 ILSVRC validation pictures"
    assert words in shown
    gain = result["baselines"]["centred_box"]["gain"]
    assert f"GT-known less the centred box  {100 * gain:+.1f}" in " ".join(shown.split("   "))
    assert "the whole picture" in shown
    flat = " ".join(shown.split())
    assert "protocol original source gapcam geometry the whole picture squashed" in flat
    for words in result["protocol"].values():
        assert words in flat
    assert result["data"]["images"] == str(images)
    assert result["data"]["boxes"] == str(boxes)
    assert page.read_text().startswith("<!doctype html>")
    assert done.stderr.splitlines() == [f"Written: {scores}", f"Written: {page}"]


def test_files_are_written_even_when_nobody_reads_the_table(data, tmp_path):
    scores = tmp_path / "scores.json"
    line = f"{sys.executable} -m gapcam evaluate --images {data[0]} --boxes {data[1]}"
    line = f"set -o pipefail; {line} --json {scores} | true"
    subprocess.run(["bash", "-c", line], check=False, capture_output=True, timeout=120)
    assert json.loads(scores.read_text())["n"] == 8


def test_one_file_is_written_when_another_cannot_be(data, tmp_path):
    page = tmp_path / "report.html"
    long = tmp_path / f"{'x' * 300}.json"
    done = run("--images", data[0], "--boxes", data[1], "--json", long, "--report", page)
    assert done.exit_code == 1
    assert "GT-known Loc" in done.stdout
    assert page.is_file()
    assert "xxx.json" in done.stderr
    assert "Traceback" not in done.stderr


def stop(times: int) -> None:
    with _stopping_between_pictures() as check:
        check()
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        if times == 1:  # the first waits until it is asked for
            check()
        pytest.fail("was not stopped")


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_waits_for_the_picture_and_a_second_one_does_not(times):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stop(times)
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_left_out_of_the_selection_is_said(data, tmp_path):
    rows = [CAT, ("gone.png", *CAT[1:])]
    write_rows(tmp_path / "b.csv", rows)
    done = run(
        *("--images", data[0], "--boxes", data[1], "--skip-bad"),
        *("--select-on", f"{data[0]}:{tmp_path / 'b.csv'}"),
    )
    assert done.exit_code == 1
    assert done.stderr.startswith("gapcam: selection: left out: b.csv, line 3") or (
        "selection: left out: " in done.stderr and "gone.png" in done.stderr
    )
    assert "(1 picture, 1 of them scored as well: an upper bound)" in done.stdout


def test_a_split_can_be_chosen_on(tmp_path):
    root = cub_set(tmp_path)
    images = root / "images"
    done = run(
        *("--images", images, "--boxes", root, "--split", "test"),
        *("--select-on", f"{images}:{root}", "--select-split", "train"),
        *("--json", tmp_path / "s.json"),
    )
    assert done.exit_code == 0, done.stderr
    result = json.loads((tmp_path / "s.json").read_text())
    assert (result["n"], result["selection"]["n"], result["selection"]["shared"]) == (1, 1, 0)


def cub_set(folder: Path) -> Path:
    """CUB-200-2011 in its form: two pictures, one to train and one to test."""
    root = folder / "CUB_200_2011"
    classes = [
        ("1", "001.Egyptian_cat", made_pictures()[0]),
        ("2", "002.espresso", made_pictures()[2]),
    ]
    lines: dict[str, list[str]] = {}
    for number, name, (_, picture, boxes) in classes:
        x0, y0, x1, y1 = boxes[0][1]
        (root / "images" / name).mkdir(parents=True)
        picture.save(root / "images" / name / f"{number}.jpg")
        for file, words in (
            ("images.txt", f"{name}/{number}.jpg"),
            ("image_class_labels.txt", number),
            ("classes.txt", name),
            ("bounding_boxes.txt", f"{x0:.1f} {y0:.1f} {x1 - x0:.1f} {y1 - y0:.1f}"),
            ("train_test_split.txt", str(int(number == "1"))),
        ):
            lines.setdefault(file, []).append(f"{number} {words}\n")
    for file, rows in lines.items():
        (root / file).write_text("".join(rows))
    return root


def test_masks_and_a_selection(tmp_path):
    images, masks = write_masks(tmp_path)
    other = tmp_path / "a: folder with colons"
    other.mkdir()
    picture, mask = write_masks(other)
    chosen = f"{picture}:{mask}"
    out = tmp_path / "scores.json"
    done = run("--images", images, "--masks", masks, "--select-on", chosen, "--json", out)
    assert done.exit_code == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["threshold_source"] == "selection"
    assert result["selection"]["given_as"] == chosen
    assert "PxAP" in done.stdout
    assert "GT-known" not in done.stdout
    assert "pixel IoU" in done.stdout
    even = next(line for line in done.stdout.splitlines() if "the whole picture" in line)
    share = 100 * result["baselines"]["whole_image"]["pxap"]
    assert even.split()[:3] == [f"{share:.1f}", f"{share:.1f}", "100.0"]


@pytest.mark.parametrize("protocol", ["ilsvrc", "wsol"])
def test_protocols_and_recipes_are_said(data, protocol):
    done = run("--images", data[0], "--boxes", data[1], "-p", protocol, "-r", "paper")
    assert done.exit_code == 0, done.stderr
    assert f"recipe paper, protocol {protocol}" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give the truth: --boxes PATH, or --masks DIR"),
        (["--boxes", "B", "--json", "x", "--report", "x"], "--json and --report both name x"),
        (["--boxes", "B", "--report", "scores.txt"], "--report scores.txt: expected a name that"),
        (["--boxes", "B", "--json", "."], "--json .: cannot be written there; give another"),
        (["--boxes", "B", "--report", "/dev/null/x.html"], "/dev/null/x.html: cannot be written"),
        (["--boxes", "B", "--select-on", "nowhere"], "--select-on nowhere: expected DIR:PATH"),
        (["--boxes", "B", "--select-on", "no:where"], "check the two paths"),
        (["--boxes", "B", "--recipe", "bets"], "recipe 'bets' is unknown"),
    ],
)
def test_wrong_usage_is_told_in_one_line(data, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    options = [str(data[1]) if option == "B" else option for option in options]
    done = run("--images", data[0], *options)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_a_wrong_choice_is_told_by_the_parser(data):
    done = run("--images", data[0], "--boxes", data[1], "--protocol", "other")
    assert done.exit_code == 2
    assert "original" in done.stderr


def test_bad_rows_are_named_one_a_line(data, tmp_path):
    boxes = tmp_path / "b.csv"
    rows = [CAT, ("gone.png", *CAT[1:]), ("b/cup.png", "no such thing", 300, 330, 1, 1, 9, 9)]
    write_rows(boxes, rows)
    done = run("--images", data[0], "--boxes", boxes)
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert "b.csv, line 3" in lines[0]
    assert "gone.png" in lines[0]
    assert "b.csv, line 4" in lines[1]
    assert "no such thing" in lines[1]
    assert "2 problems; mend them, or go on without those pictures" in lines[2]
    assert "--skip-bad" in lines[2]
    assert done.stdout == ""
    done = run("--images", data[0], "--boxes", boxes, "--skip-bad")
    assert done.exit_code == 1
    assert ": 1 picture" in done.stdout
    assert [line.count("left out: ") for line in done.stderr.splitlines()] == [1, 1]


def test_a_blacklist_is_a_note(data, tmp_path):
    images, boxes = data
    listed = tmp_path / "blacklist.txt"
    listed.write_text("a/cat.png\nrocket\n17\n")
    out = tmp_path / "scores.json"
    done = run("--images", images, "--boxes", boxes, "--blacklist", listed, "--json", out)
    assert done.exit_code == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["n"] == 6
    note = "blacklist blacklist.txt: 2 of its 3 lines name pictures, left out"
    assert result["data"]["notes"] == [note]
    assert note in done.stdout
    assert result["protocol"]["blacklist"] == "on: blacklist.txt"
    listed.write_text("nothing\n")
    done = run("--images", images, "--boxes", boxes, "--blacklist", listed)
    assert done.exit_code == 1
    assert "none of its 1 lines names a picture" in done.stderr
    done = run("--images", images, "--boxes", boxes, "--blacklist", tmp_path / "none.txt")
    assert done.exit_code == 1
    assert "the blacklist cannot be read" in done.stderr


def test_numbers_of_a_blacklist_are_ilsvrc_validation_numbers(tmp_path):
    (tmp_path / "images").mkdir()
    cat = made_pictures()[0][1]
    for number in (17, 18):
        cat.save(tmp_path / "images" / f"ILSVRC2012_val_{number:08d}.JPEG", "jpeg")
    rows = [(f"ILSVRC2012_val_{number:08d}.JPEG", *CAT[1:]) for number in (17, 18)]
    write_rows(tmp_path / "b.csv", rows)
    (tmp_path / "list.txt").write_text("17\n")
    done = run(
        *("--images", tmp_path / "images", "--boxes", tmp_path / "b.csv"),
        *("--blacklist", tmp_path / "list.txt"),
    )
    assert done.exit_code == 0, done.stderr
    assert ": 1 picture" in done.stdout


def drained(terminal: int) -> str:
    """What is still said until the other end is closed."""
    text = ""
    while True:
        try:
            part = os.read(terminal, 10_000)
        except OSError:
            part = b""
        if not part:
            os.close(terminal)
            return text
        text += part.decode(errors="replace")


def test_ctrl_c_writes_what_was_done(data, tmp_path):
    """A real process, a real signal: enough pictures that it is still at work when it comes."""
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    images = tmp_path / "many"
    images.mkdir()
    names = [f"{i}.png" for i in range(3000)]
    for name in names:
        os.link(data[0] / "a" / "cat.png", images / name)
    write_rows(tmp_path / "b.csv", [(name, *CAT[1:]) for name in names])
    scores, page = tmp_path / "scores.json", tmp_path / "report.html"
    command = [sys.executable, "-m", "gapcam", "evaluate", "--images", images]
    command += ["--boxes", tmp_path / "b.csv", "--json", scores, "--report", page]
    terminal, screen = pty.openpty()  # where the progress bar tells how far it is
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=screen) as process:
        os.close(screen)
        err = ""
        while not any(int(done) > 20 for done in re.findall(r"(\d+)/3000", err)):
            err += os.read(terminal, 10_000).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        err += drained(terminal)
        out = process.stdout.read()
    assert process.returncode == 130, err
    result = json.loads(scores.read_text())
    assert result["partial"] is True
    assert 0 < result["n"] < result["n_total"] == 3000
    assert out.decode().startswith("PARTIAL: ")
    assert f"{result['n']} of 3000 pictures" in out.decode()
    assert "interrupted; the scores are of the pictures done until then" in " ".join(err.split())
    assert "partial" in page.read_text().lower()


def test_scores_without_meaning_are_left_out_of_the_table(capsys):
    row = {
        "words": "fixed",
        "threshold": 0.5,
        "headline": True,
        "upper_bound": False,
        "gt_known": None,
        "gt_known_ci95": None,
        "box_acc": {"0.3": None, "0.5": None, "0.7": None},
        "mask": {"precision": 0.25, "recall": None, "iou": 0.5},
    }
    keys = ("top1", "top5", "top1_loc", "top5_loc", "gt_known", "mean_iou", "pointing")
    print_scores(
        {
            **dict.fromkeys((*keys, "pointing_15px", "energy", "max_box_acc", "max_box_acc_v2")),
            "pxap": 0.125,
            "partial": False,
            "n": 1,
            "n_total": 1,
            "n_targets": 1,
            "data": {"name": "[set]", "notes": ["[odd] note"]},
            "selection": None,
            "model": {"name": "m"},
            "recipe": {"name": "r"},
            "protocol": {"name": "p"},
            "ci95": {"pxap": None},
            "thresholds": [row],
            "baselines": None,
        }
    )
    shown = capsys.readouterr().out
    assert "[set]: 1 picture. m, recipe r, protocol p" in shown
    assert "note: [odd] note" in shown
    assert "12.5" in shown
    assert "–" in shown
    assert "GT-known" not in shown
