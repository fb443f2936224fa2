"""Files are written whole or not at all; the command has an output for every kind of input."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import gapcam
from gapcam.cli import app
from gapcam.outputs import output_errors, replacing
from gapcam.types import OutputError
from picture_files import as_plain_user, encode, open_folder, png_file, smooth_pixels

CAT = next(str(path) for path in gapcam.sample_pictures() if path.name == "cat.jpg")
COMMAND = shlex.join([sys.executable, "-m", "gapcam", "localize"])
SOFT = Image.fromarray(smooth_pixels(60, 80))


def records_of(*paths: object) -> tuple[int, list[dict[str, Any]], list[str]]:
    """Localize to JSONL: exit code, records, lines of standard error."""
    arguments = ["localize", *map(str, paths), "--format", "jsonl", "--top", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return done.exit_code, records, done.stderr.splitlines()


def bash(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = os.environ | environment
    return subprocess.run(["bash", "-c", line], capture_output=True, env=env, check=False)


@pytest.fixture(autouse=True, scope="module")
def built(localizer: gapcam.Localizer) -> None:
    """So that no test sees the word that a model is being built."""


# --- files -------------------------------------------------------------------------------------


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "new" / "deep" / "a.txt"
    with replacing(path) as out:
        out.write("half")
        out.flush()
        assert not path.exists()
    assert path.read_text() == "half"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_a_failed_writer_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, error: BaseException
):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), replacing(path) as out:  # noqa: PT012
        out.write("new")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf8_with_plain_newlines_and_odd_file_names_pass_through(tmp_path: Path):
    with replacing(tmp_path / "a.txt") as out:
        out.write("é\n\udcff\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n\xff\n"


def test_bytes_are_written_as_they_are(tmp_path: Path):
    with replacing(tmp_path / "a.bin", binary=True) as out:
        out.write(b"\x00\r\n\xff")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\r\n\xff"


def test_text_that_utf8_cannot_hold_is_an_output_error_that_names_the_file(tmp_path: Path):
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written .*surrogates"):  # noqa: SIM117
        with replacing(tmp_path / "a.txt") as out:
            out.write("\ud800")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/a\.txt: cannot be written .*choose another"):  # noqa: SIM117
        with replacing(tmp_path / "file" / "a.txt"):
            pass


def test_a_folder_where_the_file_should_be_is_named(tmp_path: Path):
    (tmp_path / "a.txt" / "full").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written .*choose another output"):  # noqa: SIM117
        with replacing(tmp_path / "a.txt") as out:
            out.write("x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_without_write_permission_says_how_to_mend_it():
    with open_folder() as folder:
        with (
            as_plain_user(),
            pytest.raises(OutputError, match=r"Permission denied.*make the folder writable"),
            replacing(folder / "a.txt") as out,
        ):
            out.write("x")
        assert list(folder.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_says_to_free_space():
    device = Path("/dev/full")
    message = r"/dev/full: cannot be written \(No space left on device\); free some space"
    with pytest.raises(OutputError, match=message), output_errors(device):
        device.write_bytes(b"x")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EROFS, "make the folder writable"),
        (errno.EPERM, "make the folder writable"),
        (errno.EDQUOT, "free some space"),
        (errno.EFBIG, "free some space"),
        (errno.ENAMETOOLONG, "choose another output folder"),
    ],
)
def test_every_error_of_the_system_comes_with_advice(number: int, advice: str):
    with pytest.raises(OutputError, match=f"^x/y: cannot be written .*; {advice}") as caught:  # noqa: SIM117
        with output_errors(Path("x/y")):
            raise OSError(number, "why")
    assert isinstance(caught.value.__cause__, OSError)


def test_other_errors_pass_unchanged():
    with pytest.raises(KeyError), output_errors(Path("x")):
        raise KeyError("x")


# --- pictures that cannot be read --------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "expected a picture file, there is no such file"),
        (b"Dear diary", "this is not one or its header is broken"),
        (b"", "this is empty (0 bytes)"),
        (encode(SOFT, "JPEG")[:700], "broken or cut short"),
        (png_file(50_000, 50_000, 8, b""), "too many pixels"),
    ],
    ids=["missing", "text", "empty", "cut short", "huge"],
)
def test_a_bad_picture_gets_one_line_and_the_others_are_done(
    tmp_path: Path, data: bytes | None, message: str
):
    bad = tmp_path / "bad.jpg"
    if data is not None:
        bad.write_bytes(data)
    code, (failed, good), errors = records_of(bad, CAT)
    assert code == 1
    assert failed.keys() == {"path", "error"}
    assert failed["path"] == str(bad)
    assert failed["error"].keys() == {"kind", "message"}
    assert failed["error"]["kind"] == "picture"
    assert message in failed["error"]["message"]
    assert errors == [f"gapcam: {failed['error']['message']}"]
    assert errors[0].startswith(f"gapcam: {bad}: ")
    assert good["detections"][0]["label"] == "Egyptian cat"


def test_pictures_and_folders_without_read_permission_get_one_line_each():
    with open_folder() as folder:
        for name in ("a.jpg", "closed/b.jpg", "c.jpg"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(encode(SOFT, "JPEG"))
        records_of(folder)  # imports what a plain user may not read
        (folder / "closed").chmod(0)
        (folder / "c.jpg").chmod(0)
        with as_plain_user():
            code, records, errors = records_of(folder)
    assert code == 1
    assert [record["path"] for record in records] == [
        str(folder / name) for name in ("closed", "a.jpg", "c.jpg")
    ]
    assert ["error" in record for record in records] == [True, False, True]
    assert len(errors) == 2
    assert "expected a folder that can be listed, got: Permission denied" in errors[0]
    assert "no permission to read this file" in errors[1]


def test_a_file_name_stays_as_it_is_in_a_message_of_one_line(tmp_path: Path):
    names = ("two  spaces [bold]:cat:.jpg", "two\nlines.jpg")
    for name in names:
        (tmp_path / name).touch()
    _, _, errors = records_of(*(tmp_path / name for name in names))
    assert len(errors) == 2
    assert "two  spaces [bold]:cat:.jpg: expected a picture, this is empty" in errors[0]
    assert "two lines.jpg: expected a picture, this is empty" in errors[1]


# --- pictures of every kind --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "notes"),
    [
        ("grey.jpg", encode(SOFT.convert("L"), "JPEG"), None),
        ("palette.png", encode(SOFT.convert("P"), "PNG"), None),
        ("cmyk.jpg", encode(SOFT.convert("CMYK"), "JPEG"), None),
        ("alpha.png", encode(Image.new("RGBA", (80, 60)), "PNG"), "transparent parts shown on"),
        ("deep.png", encode(Image.fromarray(np.eye(60, 80, dtype=np.uint16)), "PNG"), "16-bit"),
        (
            "moving.gif",
            encode(SOFT, "GIF", save_all=True, append_images=[Image.new("RGB", (80, 60))]),
            "first of 2 frames",
        ),
        ("dot.png", encode(Image.new("RGB", (1, 1)), "PNG"), None),
        ("flat.png", encode(SOFT.resize((4000, 3)), "PNG"), None),
        ("thin.jpg", encode(SOFT.resize((3, 4000)), "JPEG"), None),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_a_picture_of_any_kind_is_localized_and_what_was_chosen_is_said(
    tmp_path: Path, name: str, data: bytes, notes: str | None
):
    path = tmp_path / name
    path.write_bytes(data)
    code, (record,), errors = records_of(path)
    assert (code, errors) == (0, [])
    with Image.open(path) as image:
        assert (record["width"], record["height"]) == image.size
    assert len(record["detections"]) == 1
    table = CliRunner().invoke(app, ["localize", str(path)]).stdout
    if notes is None:
        assert "notes" not in record
        assert table.splitlines()[0] == f"{path}  {record['width']} x {record['height']}"
    else:
        assert notes in record["notes"][0]
        assert f"({record['notes'][0]})" in table.splitlines()[0]


# --- standard output ---------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "--format jsonl"])
def test_a_reader_that_goes_away_ends_the_run_quietly(tmp_path: Path, options: str):
    for i in range(60):
        (tmp_path / f"{i}.jpg").write_bytes(encode(SOFT, "JPEG"))
    done = bash(f"{COMMAND} {tmp_path} {options} | head -1; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("options", ["", "--format jsonl"])
def test_standard_output_to_a_full_disk_ends_with_1_and_one_line(options: str):
    done = bash(f"{COMMAND} {CAT} {options} > /dev/full")
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "gapcam: standard output: cannot be written (No space left on device); "
        "send it elsewhere, or use --out\n"
    )


def test_any_file_name_can_be_printed_in_any_encoding(tmp_path: Path):
    names = [os.fsencode(tmp_path) + name for name in (b"/\xe7\x8c\xab.jpg", b"/\xff.jpg")]
    for name in names:
        Path(os.fsdecode(name)).write_bytes(encode(SOFT, "JPEG"))
    line = f"{COMMAND} {tmp_path} --top 1"
    for encoding in ("ascii", "utf-8:strict"):
        table = bash(line, PYTHONIOENCODING=encoding)
        assert (table.returncode, table.stderr) == (0, b"")
        found = bash(f"{line} --format jsonl", PYTHONIOENCODING=encoding)
        assert (found.returncode, found.stderr) == (0, b"")
        paths = [json.loads(text)["path"] for text in found.stdout.decode("utf-8").splitlines()]
        assert [os.fsencode(path) for path in paths] == names


def test_results_are_printed_as_they_come_and_ctrl_c_ends_with_one_line(tmp_path: Path):
    for i in range(300):
        (tmp_path / f"{i:03}.jpg").write_bytes(encode(SOFT, "JPEG"))
    command = [*shlex.split(COMMAND), str(tmp_path), "--format", "jsonl"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["path"] == str(tmp_path / "000.jpg")
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "gapcam: interrupted; with --out, add --resume to take the run up again\n"
    assert rest.count("\n") < 299
