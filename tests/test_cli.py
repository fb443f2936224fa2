"""The command as users meet it; runs that are killed and taken up again are in test_batch_kill."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import gapcam
from gapcam.cli import app
from picture_files import as_plain_user, open_folder

SAMPLES = [str(path) for path in gapcam.sample_pictures()]
CAT = next(path for path in SAMPLES if path.endswith("cat.jpg"))
GAPCAM = [sys.executable, "-m", "gapcam"]
TABLE_ROW = re.compile(r" *\d+\.\d% +\S.*  box( -?\d+\.\d){4} *")


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def call(*arguments: object, stdin: str | None = None) -> Ended:
    """The command in this process."""
    done = CliRunner().invoke(app, [*map(str, arguments)], input=stdin)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Ended(done.exit_code, done.stdout, done.stderr)


def localize(*arguments: object, stdin: str | None = None) -> Ended:
    return call("localize", *arguments, stdin=stdin)


def start(command: list[str] | str, **environment: str) -> Ended:
    """A process of its own; text is a line for bash."""
    line = ["bash", "-c", command] if isinstance(command, str) else command
    done = subprocess.run(
        line, capture_output=True, env=os.environ | environment, timeout=150, check=False
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(autouse=True, scope="module")
def built(localizer: gapcam.Localizer) -> None:
    """So that no test sees the word that a model is being built."""


# --- usage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["localize"], ["models"]], ids=str)
def test_help_is_one_page_without_colour(arguments: list[str]):
    for flag in ("--help", "-h"):
        done = call(*arguments, flag)
        assert done.code == 0
        assert done.out.startswith("Usage: ")
        assert "\x1b" not in done.out
        assert max(map(len, done.out.splitlines())) <= 80


def test_help_names_every_option_and_exit_code():
    page = " ".join(call("localize", "--help").out.split())
    options = ("model", "recipe", "top", "class", "out", "format", "overlays", "resume", "column")
    more = ("retry-errors", "shards", "shard-size", "workers", "quiet", "json-log")
    for option in (*options, *more):
        assert f"--{option}" in page
    assert "0 all pictures done, 1 some failed" in page
    assert "2 wrong usage" in page


def test_no_arguments_show_the_help():
    assert call().code == call("localize").code == 2
    assert "Usage: " in call().out + call().err
    assert "Usage: " in call("localize").out + call("localize").err


def test_the_version_is_printed():
    assert call("--version") == (0, f"gapcam {gapcam.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class", "tabbby"], "class 'tabbby' is unknown to .*; did you mean 'tabby'"),
        (["--class", "crane"], r"'crane' is ambiguous: .*'crane \(bird\)' or 'crane \(machine\)'"),
        (["--class", "zzzzqq"], "class 'zzzzqq' is unknown to efficientnet-lite0"),
        (["--class", "1000"], "class id 1000: expected 0 to 999"),
        (["--class", "tabby", "--class", ""], "class '' is unknown"),
        (["--top", "0"], r"top: expected 1 to 1000 \(the model's classes\), got 0"),
        (["--top", "1001"], r"top: expected 1 to 1000 \(the model's classes\), got 1001"),
        (["--top", "-1"], r"top: expected 1 to 1000 .*got -1"),
        (["--top", "2", "--class", "tabby"], "--top and --class exclude each other"),
        (
            ["--recipe", "x"],
            "recipe 'x' is unknown: expected one of default, fast, best, paper,",
        ),
        (["--model", "x"], "model 'x' is unknown: expected 'efficientnet-lite0', the path"),
        (["--resume"], "--resume needs --out: say which run to take up"),
        (["--retry-errors"], "--retry-errors needs --out: say which run to take up"),
        (["--shards"], "--shards needs --out: say where to write"),
        (["--shard-size", "9"], "--shard-size needs --out: say where to write"),
        (["--format", "parquet"], "--format parquet needs --out: say where to write"),
        (["--format", "coco"], "--format coco needs --out: say where to write"),
        (["--format", "csv"], "--format csv needs --out: say where to write"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_line_that_says_what_was_expected(
    arguments: list[str], message: str
):
    done = localize(CAT, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("gapcam: ")
    assert done.err.count("\n") == 1
    assert re.search(message, done.err.rstrip("\n"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "x"], "'x' is not one of 'jsonl', 'coco', 'yolo', 'voc', 'csv', 'parquet'"),
        (["--top", "many"], "--top"),
        (["--nonsense"], "No such option: --nonsense"),
    ],
)
def test_wrong_options_end_with_2_and_what_is_possible(arguments: list[str], message: str):
    done = localize(CAT, *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in " ".join(done.err.split())


@pytest.mark.parametrize("name", ["", "no*.jpg", "list.txt"])
def test_inputs_without_a_picture_end_with_2(tmp_path: Path, name: str):
    (tmp_path / "list.txt").write_text("# nothing\n")
    done = localize(tmp_path / name)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"gapcam: {tmp_path / name}: expected ")


# --- results on standard output ----------------------------------------------------------------


def test_a_table_names_the_picture_and_its_five_best_classes():
    done = localize(CAT)
    assert (done.code, done.err) == (0, "")
    title, *rows = done.out.splitlines()
    assert title == f"{CAT}  451 x 300"
    assert len(rows) == 5
    assert all(TABLE_ROW.fullmatch(row) for row in rows)
    assert "Egyptian cat" in rows[0]


def test_jsonl_without_out_is_nothing_but_records_with_the_fields_of_the_contract():
    done = start([*GAPCAM, "localize", *SAMPLES, "--format", "jsonl"])
    assert (done.code, done.err) == (0, "")
    for record, path in zip(done.records(), SAMPLES, strict=True):
        assert list(record) == ["path", "width", "height", "model", "recipe", "detections"]
        assert record["path"] == path
        assert (record["model"], record["recipe"]) == ("efficientnet-lite0", "default")
        assert len(record["detections"]) == 5
        scores = [found["score"] for found in record["detections"]]
        assert scores == sorted(scores, reverse=True)
        for found in record["detections"]:
            assert list(found) == ["label", "class_id", "score", "box", "peak"]
            (x0, y0, x1, y1), (x, y) = found["box"], found["peak"]
            assert 0 <= x0 <= x <= x1 <= record["width"]
            assert 0 <= y0 <= y <= y1 <= record["height"]
            assert 0 <= found["score"] <= 1


def test_a_class_is_localized_whatever_its_rank():
    (record,) = localize(CAT, "-c", "tabby", "-c", "852", "--format", "jsonl").records()
    found = [(d["label"], d["class_id"]) for d in record["detections"]]
    assert list(dict.fromkeys(found)) == [("tabby", 281), ("tennis ball", 852)]


def test_the_recipe_and_the_number_of_classes_are_the_ones_asked_for():
    (record,) = localize(CAT, "--recipe", "paper", "--top", 1000, "--format", "jsonl").records()
    assert record["recipe"] == "paper"
    assert len({d["class_id"] for d in record["detections"]}) == 1000


@pytest.mark.parametrize(
    ("kind", "number"), [("jsonl", 5), ("coco", 1), ("yolo", 1), ("voc", 1), ("csv", 1)]
)
def test_annotation_formats_take_the_best_class_only(tmp_path: Path, kind: str, number: int):
    assert localize(CAT, "--out", tmp_path, "--format", kind, "--no-overlays").code == 0
    record = json.loads((tmp_path / "localizations.jsonl").read_text())
    assert len({d["class_id"] for d in record["detections"]}) == number


def test_folders_patterns_lists_and_standard_input_are_all_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    shutil.copy(CAT, "in/a.jpg")
    shutil.copy(CAT, "in/sub/b.jpg")
    Path("in/other.xml").touch()
    Path("list.txt").write_text("in/a.jpg\n\n# no\nin/sub/b.jpg\n")
    both = ["in/a.jpg", "in/sub/b.jpg"]
    for arguments, stdin in (
        (["in"], None),
        (["in/**/*.jpg"], None),
        (["list.txt"], None),
        (["-"], "in/a.jpg\nin/sub/b.jpg\n"),
        ([*both, "in"], None),
    ):
        done = localize(*arguments, "--format", "jsonl", "--top", 1, stdin=stdin)
        assert done.code == 0
        assert [record["path"] for record in done.records()] == both
        assert done.err == ("1 other file ignored.\n" if "in" in arguments else "")


# --- results in a folder -----------------------------------------------------------------------


def test_out_of_one_picture_prints_its_table_and_where_results_are(tmp_path: Path):
    done = localize(CAT, "--out", tmp_path / "out")
    assert done.code == 0
    assert done.out == localize(CAT).out
    written = ["1 picture localized. Written:"]
    written += [f"  {tmp_path / 'out' / name}" for name in ("localizations.jsonl", "overlays")]
    assert done.err.splitlines() == written
    assert (tmp_path / "out" / "overlays" / "cat_cam.jpg").is_file()


def test_out_of_many_pictures_counts_failures_and_keeps_them_in_the_results(tmp_path: Path):
    (tmp_path / "bad.jpg").touch()
    out = tmp_path / "out"
    done = localize(*SAMPLES, f"{tmp_path}/bad.jpg", "--out", out)
    assert (done.code, done.out) == (1, "")
    lines = done.err.splitlines()
    assert lines[0].startswith(f"gapcam: {tmp_path}/bad.jpg: ")
    assert lines[1] == "4 pictures localized, 1 failed. Written:"
    assert [Path(line.strip()).name for line in lines[2:6]] == [
        "localizations.jsonl",
        "errors.jsonl",
        "overlays",
        "contact_sheet.jpg",
    ]
    assert re.fullmatch(r"4 classes found \(best of a picture\): \S.*\.", lines[6])
    workers = r"[\d.]+ pictures/s, \d+ workers?, 1 thread each"
    stages = r"read [\d.]+ s, forward [\d.]+ s, boxes [\d.]+ s, draw [\d.]+ s, write [\d.]+ s"
    assert re.fullmatch(
        rf"{workers}\. Seconds of all workers: {stages}; most time: (read|forward|draw)\.", lines[7]
    )
    assert len(lines) == 8
    text = (out / "localizations.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["path"] for record in records] == [*SAMPLES, f"{tmp_path}/bad.jpg"]
    assert records[-1]["error"]["kind"] == "picture"
    (error,) = (out / "errors.jsonl").read_text().splitlines()
    assert json.loads(error) == records[-1]
    assert not (out / "unfinished").exists()


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do():
    with open_folder() as folder:
        localize(CAT, "--out", folder / "first")  # imports what a plain user may not read
        for out in (folder / "new", folder):
            with as_plain_user():
                done = localize(CAT, "--out", out)
            assert (done.code, done.out) == (1, "")
            assert f"gapcam: {out}" in done.err
            assert "cannot be written (Permission denied); make the folder writable" in done.err
            assert done.err.count("\n") == 1


def test_a_folder_that_cannot_be_looked_into_is_named_with_what_to_do():
    with open_folder() as folder:
        localize(CAT, "--out", folder / "first")
        (folder / "closed").mkdir(mode=0)
        with as_plain_user():
            done = localize(CAT, "--out", folder / "closed")
        assert done.code == 1
        assert done.err.startswith(f"gapcam: {folder / 'closed'}: cannot be written (Permission")


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path, name: str):
    (tmp_path / "file").write_text("mine")
    done = localize(CAT, "--out", tmp_path / name)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"gapcam: {tmp_path / name}: cannot be written (")
    assert done.err.endswith("choose another output folder\n")
    assert (tmp_path / "file").read_text() == "mine"


# --- models and their cache --------------------------------------------------------------------


def test_models_lists_the_model_and_the_recipes():
    done = call("models")
    assert (done.code, done.err) == (0, "")
    assert "efficientnet-lite0  1000 classes  built: " in done.out
    assert "head: gap-linear, maps exact; the last ReLU6" in done.out
    names = [line.split()[0] for line in done.out.splitlines()]
    assert names[2:6] == ["input:", "network:", "weights:", "labels:"]
    assert names[6:] == ["recipe", *gapcam.RECIPES]


def test_models_check_proves_the_maps():
    done = call("models", "--check")
    assert (done.code, done.err) == (0, "")
    proof = re.search(
        r"class maps are exact\. Largest .* 4 pictures x 1000 classes: (\S+), ", done.out
    )
    assert proof is not None
    assert 0 < float(proof[1]) < 1e-3


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_model_file_that_is_none_is_named(tmp_path: Path, content: bytes | None):
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    done = localize(CAT, "--model", path)
    assert (done.code, done.out) == (1, "")
    assert re.match(rf"gapcam: {path}: (no such model file|not an ONNX model)", done.err)
    assert done.err.count("\n") == 1


def test_a_cache_that_cannot_be_made_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GAPCAM_CACHE", str(tmp_path / "file" / "cache"))
    done = localize(CAT)
    assert (done.code, done.out) == (1, "")
    error = done.err.splitlines()[-1]
    assert error.startswith(f"gapcam: the model cache {tmp_path}/file/cache cannot be written (")
    assert "set GAPCAM_CACHE to another folder" in error


def test_two_processes_build_a_damaged_model_again_and_run_no_code_of_the_working_folder(
    tmp_path: Path,
):
    (built,) = re.findall(r"built: (.*)\n", call("models").out)
    damaged = tmp_path / "cache" / Path(built).name
    damaged.parent.mkdir()
    damaged.write_bytes(Path(built).read_bytes()[:100_000])
    (tmp_path / "csv.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    program = str(Path(sys.executable).with_name("gapcam"))
    line = shlex.join([program, "localize", CAT, "--format", "jsonl", "--top", "1"])
    names = [str(tmp_path / name) for name in ("one", "two")]
    both = " ".join(f"{line} >{name} 2>{name}.err & jobs+=($!);" for name in names)
    wait = 'for job in "${jobs[@]}"; do wait $job || exit 9; done'
    done = start(f"cd {shlex.quote(str(tmp_path))}; {both} {wait}", GAPCAM_CACHE="cache")
    assert done == (0, "", "")
    expected = localize(CAT, "--format", "jsonl", "--top", 1).out
    for name in names:
        assert Path(name).read_text() == expected
        word = r"Building efficientnet-lite0 once \(about 30 s\) into \S*cache \.\.\.\n"
        assert re.fullmatch(word, Path(f"{name}.err").read_text())
    assert [path.name for path in damaged.parent.iterdir()] == [damaged.name]
    assert damaged.stat().st_size > 10_000_000
    assert not (tmp_path / "ran").exists()


# --- what is imported --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "absent"),
    [
        ("import gapcam", "torch onnx onnxruntime cv2 numpy PIL rich typer"),
        ("import gapcam.cli", "torch onnx onnxruntime cv2 PIL"),
        (f"import gapcam; gapcam.load()({CAT!r}).draw()", "torch onnx onnxscript typer"),
        (
            f"from gapcam.cli import app; app(['localize', {CAT!r}], standalone_mode=False)",
            "torch onnx onnxscript",
        ),
    ],
)
def test_heavy_packages_are_imported_only_when_needed(line: str, absent: str):
    found = f"print(set({absent.split()}) & sys.modules.keys(), file=sys.stderr)"
    done = start(
        [sys.executable, "-c", f"import atexit, sys; atexit.register(lambda: {found}); {line}"]
    )
    assert (done.code, done.err) == (0, "set()\n")
