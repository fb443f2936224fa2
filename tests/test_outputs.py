from __future__ import annotations

import errno
from pathlib import Path

import pytest

from gapcam.outputs import output_errors, replacing
from gapcam.types import OutputError
from picture_files import as_plain_user, open_folder


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
