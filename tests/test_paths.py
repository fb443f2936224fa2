from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapcam.inputs import folders as folders_module
from gapcam.paths import expand_paths
from gapcam.types import ArgumentError, PictureError
from picture_files import as_plain_user, open_folder

Make = Callable[..., None]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes empty files below the working folder."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()

    return make


# --- files and folders -------------------------------------------------------------------------


def test_files_are_kept_as_spelled_whatever_their_suffix(make: Make, tmp_path: Path):
    make("a.jpg", "sub/b.dat")
    found = expand_paths(["./a.jpg", "sub/b.dat", "missing.jpg", "sub/../sub/c.png"])
    assert found.paths == ("./a.jpg", "sub/b.dat", "missing.jpg", "sub/../sub/c.png")
    assert found.failures == ()
    assert found.ignored == 0
    assert found.root == tmp_path
    assert [str(found.relative(path)) for path in found.paths] == [
        "a.jpg",
        "sub/b.dat",
        "missing.jpg",
        "sub/c.png",
    ]


def test_a_folder_is_listed_at_any_depth_and_sorted(make: Make, tmp_path: Path):
    make("in/b.JPG", "in/a.png", "in/c/z.webp", "in/c/d/y.Tiff", "in/c.jpg", "in/notes.txt")
    make("in/.hidden.jpg", "in/.cache/x.jpg", "in/.cache/y.jpg", "in/jpg", "in/Makefile", "in/.jpg")
    found = expand_paths(["in"])
    assert found.paths == ("in/a.png", "in/b.JPG", "in/c/d/y.Tiff", "in/c/z.webp", "in/c.jpg")
    # notes.txt, jpg, Makefile, .hidden.jpg, .jpg, and .cache as one
    assert found.ignored == 6
    assert found.root == tmp_path / "in"
    assert str(found.relative("in/c/d/y.Tiff")) == "c/d/y.Tiff"


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("in", "in/a.jpg"),
        ("in/", "in/a.jpg"),
        ("./in", "./in/a.jpg"),
        ("in/../in", "in/../in/a.jpg"),
    ],
)
def test_folder_spellings(make: Make, spelling: str, expected: str):
    make("in/a.jpg")
    assert expand_paths([spelling]).paths == (expected,)


def test_the_working_folder_and_absolute_paths(make: Make, tmp_path: Path):
    make("a.jpg")
    assert expand_paths(["."]).paths == ("./a.jpg",)
    assert expand_paths([str(tmp_path)]).paths == (str(tmp_path / "a.jpg"),)


def test_a_folder_named_like_a_picture_or_list_is_a_folder(make: Make):
    make("x.jpg/a.jpg", "y.txt/b.jpg", "in/z.png/c.jpg")
    found = expand_paths(["x.jpg", "y.txt", "in"])
    assert found.paths == ("x.jpg/a.jpg", "y.txt/b.jpg", "in/z.png/c.jpg")


def test_the_same_file_is_listed_once_under_its_first_name(make: Make, tmp_path: Path):
    make("in/a.jpg", "in/b.jpg")
    Path("link.jpg").symlink_to("in/a.jpg")
    arguments = ["./in/b.jpg", "link.jpg", "in", str(tmp_path / "in" / "b.jpg"), "in/../in/a.jpg"]
    assert expand_paths(arguments).paths == ("./in/b.jpg", "link.jpg")
    assert expand_paths(["missing.jpg", "./missing.jpg"]).paths == ("missing.jpg",)


def test_linked_folders_are_listed_once_and_loops_end(make: Make):
    make("in/real/a.jpg", "in/real/deep/b.jpg", "elsewhere/c.jpg")
    Path("in/a_link_that_sorts_first").symlink_to("real")
    Path("in/real/up").symlink_to("..")
    Path("in/real/self").symlink_to(".")
    Path("in/out").symlink_to("../elsewhere")
    Path("in/again").symlink_to("../elsewhere")
    Path("in/nowhere").symlink_to("missing")
    Path("in/eats_itself").symlink_to("eats_itself")
    found = expand_paths(["in"])
    assert found.paths == ("in/again/c.jpg", "in/real/a.jpg", "in/real/deep/b.jpg")
    assert found.ignored == 2  # the two links that lead nowhere
    assert expand_paths(["in/**/*.jpg"]).paths == found.paths


def test_a_broken_link_to_a_picture_is_kept_so_that_it_is_reported(make: Make):
    make("in/a.jpg")
    Path("in/b.jpg").symlink_to("gone.jpg")
    assert expand_paths(["in"]).paths == ("in/a.jpg", "in/b.jpg")


def test_a_subfolder_that_cannot_be_listed_is_a_failure(monkeypatch: pytest.MonkeyPatch):
    with open_folder() as folder:
        monkeypatch.chdir(folder)
        Path("in/shut").mkdir(parents=True)
        Path("in/a.jpg").touch()
        Path("in/shut").chmod(0)
        with as_plain_user():
            for argument in ("in", "in/**"):
                found = expand_paths([argument])
                assert found.paths == ("in/a.jpg",)
                (failure,) = found.failures
                assert failure.name == "in/shut"
                assert isinstance(failure.error, PictureError)
                assert "in/shut: expected a folder that can be listed" in str(failure.error)
                assert "Permission denied; change its permissions" in str(failure.error)
        Path("in/a.jpg").unlink()
        with as_plain_user(), pytest.raises(ArgumentError, match="1 subfolders that cannot"):
            expand_paths(["in"])


def test_an_unreadable_folder_given_directly_is_a_wrong_argument(monkeypatch: pytest.MonkeyPatch):
    with open_folder() as folder:
        monkeypatch.chdir(folder)
        Path("in").mkdir()
        Path("in").chmod(0)
        with (
            as_plain_user(),
            pytest.raises(ArgumentError, match=r"in: .*cannot be listed \(Permission denied\)"),
        ):
            expand_paths(["in"])


def test_a_folder_without_pictures(make: Make):
    make("in/a.txt", "in/sub/b.pdf", "in/.c.jpg")
    with pytest.raises(
        ArgumentError, match=r"in: expected pictures.*none \(3 other.*\.bmp .*\.jpg .*one by one"
    ):
        expand_paths(["in"])


# --- patterns ----------------------------------------------------------------------------------


def test_patterns(make: Make, tmp_path: Path):
    make("in/b.jpg", "in/a.jpg", "in/a.txt", "in/c/d.jpg", "in/c/.e.jpg", "in/f/c/d.png", "top.jpg")
    cases = {
        "in/*.jpg": ("in/a.jpg", "in/b.jpg"),
        "./in/*.jpg": ("./in/a.jpg", "./in/b.jpg"),
        "in/?.jpg": ("in/a.jpg", "in/b.jpg"),
        "in/[b-z].jpg": ("in/b.jpg",),
        "in/*": ("in/a.jpg", "in/b.jpg"),
        "in/**": ("in/a.jpg", "in/b.jpg", "in/c/d.jpg", "in/f/c/d.png"),
        "in/**/d.*": ("in/c/d.jpg", "in/f/c/d.png"),
        "in/**/c/*": ("in/c/d.jpg", "in/f/c/d.png"),
        "**/*.png": ("in/f/c/d.png",),
        "*/c/*.jpg": ("in/c/d.jpg",),
        "*/**/d.jpg": ("in/c/d.jpg",),
        "in/**/c/**/*.png": ("in/f/c/d.png",),
        f"{tmp_path}/in/**/*.png": (f"{tmp_path}/in/f/c/d.png",),
    }
    for pattern, expected in cases.items():
        assert expand_paths([pattern]).paths == expected, pattern
    assert expand_paths(["in/*"]).ignored == 1
    assert expand_paths(["in/**/d.*"]).root == tmp_path / "in"
    assert expand_paths(["in/f/*/d.png"]).root == tmp_path / "in/f"
    assert expand_paths(["*.jpg"]).root == tmp_path


def test_a_file_with_the_name_of_a_pattern_is_the_file(make: Make):
    make("a[1].jpg", "a1.jpg", "odd*/x.jpg", "odd1/y.jpg")
    assert expand_paths(["a[1].jpg"]).paths == ("a[1].jpg",)
    assert expand_paths(["odd*"]).paths == ("odd*/x.jpg",)


def test_a_pattern_without_pictures(make: Make):
    make("in/a.dat", "in/b.dat")
    with pytest.raises(ArgumentError, match=r"in/\*\.jpg: .*no such file and nothing matches"):
        expand_paths(["in/*.jpg"])
    with pytest.raises(ArgumentError, match=r"in/\*\*/x\.jpg: .*nothing matches"):
        expand_paths(["in/**/x.jpg"])
    with pytest.raises(ArgumentError, match=r"in/\*\.dat: .*matches 2 other files.*one by one"):
        expand_paths(["in/*.dat"])


# --- lists -------------------------------------------------------------------------------------


def test_a_list_is_relative_to_its_own_folder(make: Make, tmp_path: Path):
    make("lists/a.jpg")
    text = f"\ufeff# my pictures\r\n\r\na.jpg\r\n  ../b c.jpg \nä.png\n{tmp_path}/d.jpg\n#e.jpg"
    Path("lists/all.TXT").write_bytes(text.encode())
    found = expand_paths(["lists/all.TXT"])
    assert found.paths == ("lists/a.jpg", "lists/../b c.jpg", "lists/ä.png", f"{tmp_path}/d.jpg")
    assert found.root == tmp_path
    assert str(found.relative("lists/../b c.jpg")) == "b c.jpg"


def test_stdin_is_a_list_relative_to_the_working_folder(make: Make, tmp_path: Path):
    found = expand_paths(["-"], io.StringIO("in/b.jpg\n\n# no\nin/a.jpg\nin/b.jpg"))
    assert found.paths == ("in/b.jpg", "in/a.jpg")
    assert found.root == tmp_path / "in"


def test_lists_that_are_wrong(make: Make):
    make("empty.txt")
    Path("only.txt").write_text("\n# nothing\n   \n")
    Path("latin.txt").write_bytes("a.jpg\nb.jpg\nä.jpg\n".encode("latin-1"))
    Path("wide.txt").write_bytes("a.jpg\nb.jpg\n".encode("utf-16-le"))
    Path("picture.txt").write_bytes(b"\xff\xd8\xff\xe0")
    cases = {
        "empty.txt": "one picture path a line, it names no picture",
        "only.txt": "it names no picture",
        "latin.txt": "UTF-8 text.*line 3 is not; save it as UTF-8",
        "wide.txt": "UTF-8 text.*line 1 is not",
        "picture.txt": "UTF-8 text.*line 1 is not",
        "missing.txt": r"expected a list.*cannot be read \(No such file",
    }
    for name, words in cases.items():
        with pytest.raises(ArgumentError, match=f"{name}: .*{words}"):
            expand_paths([name])


def test_a_list_without_permission(monkeypatch: pytest.MonkeyPatch):
    with open_folder() as folder:
        (folder / "a.txt").write_text("a.jpg")
        (folder / "a.txt").chmod(0)
        with as_plain_user(), pytest.raises(ArgumentError, match=r"Permission denied.*permissions"):
            expand_paths([str(folder / "a.txt")])


def test_stdin_that_is_missing_empty_or_no_text():
    with pytest.raises(ArgumentError, match=r"-: .*there is no stdin"):
        expand_paths(["-"])
    with pytest.raises(ArgumentError, match=r"- \(stdin\): .*names no picture"):
        expand_paths(["-"], io.StringIO(""))
    stream = io.TextIOWrapper(io.BytesIO(b"a.jpg\n\xff"), encoding="utf-8")
    with stream, pytest.raises(ArgumentError, match=r"- \(stdin\): .*byte 6 is not"):
        expand_paths(["-"], stream)


# --- arguments ---------------------------------------------------------------------------------


def test_no_or_impossible_arguments():
    with pytest.raises(ArgumentError, match="at least one file, folder, pattern or list, got none"):
        expand_paths([])
    for argument in ("", "a\0b"):
        with pytest.raises(ArgumentError, match="got an empty or impossible one"):
            expand_paths([argument])


def test_the_root_holds_all_inputs(make: Make, tmp_path: Path):
    make("a/b/1.jpg", "a/c/2.jpg", "a/c/d/3.jpg")
    assert expand_paths(["a/c"]).root == tmp_path / "a/c"
    assert expand_paths(["a/c/d/3.jpg"]).root == tmp_path / "a/c/d"
    assert expand_paths(["a/b", "a/c/d/3.jpg"]).root == tmp_path / "a"
    assert expand_paths(["a/b/1.jpg", "../x.jpg"]).root == tmp_path.parent


def test_paths_on_several_drives(monkeypatch: pytest.MonkeyPatch):
    def commonpath(paths: list[str]) -> str:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(os.path, "commonpath", commonpath)
    with pytest.raises(ArgumentError, match=r"on one drive.*run once for each"):
        expand_paths(["a.jpg", "b.jpg"])


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.sampled_from(["a", "b", "c.jpg", "d"]), max_size=5),
    patterns=st.lists(st.sampled_from(["**", "*", "a", "b", "c.*", "?"]), max_size=5),
)
def test_matching_parts_equals_the_obvious_way(parts: list[str], patterns: list[str]):
    words = {"**": "(?:[^/]+/)*", "*": "[^/]+/", "?": "[^/]/", "c.*": "c\\.[^/]*/"}
    regex = "".join(words.get(pattern, f"{pattern}/") for pattern in patterns)
    text = "".join(f"{part}/" for part in parts)
    assert folders_module._fits(parts, patterns) == bool(re.fullmatch(regex, text))
