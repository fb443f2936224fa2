"""Inputs as names: local ones as `expand_paths` finds them, braces, and how names are kept."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapcam.inputs import Inputs, Item, Reader, open_inputs
from gapcam.inputs.braces import expanded, has_braces
from gapcam.inputs.items import Packed, Seen
from gapcam.inputs.url_folders import before_pattern, has_pattern
from gapcam.inputs.urls import is_url, joined, parts_of, safe_part, shown, without_secrets
from gapcam.paths import expand_paths
from gapcam.types import ArgumentError, Failure


def names(inputs: Inputs) -> list[str]:
    return [item.name for item in inputs]


def touch(*paths: str) -> None:
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


# --- the same as expand_paths --------------------------------------------------------------------


def test_local_inputs_are_those_of_expand_paths(tmp_path: Path):
    touch("in/b.jpg", "in/a.png", "in/c/z.webp", "in/c.jpg", "in/notes.dat", "in/.cache/x.jpg")
    touch("elsewhere/d.jpg", "odd.bin")
    Path("in/linked").symlink_to("../elsewhere")
    Path("in/again.jpg").symlink_to("a.png")
    Path("list.txt").write_text("in/c.jpg\nmissing.jpg\n# no\n./in/b.jpg\n")
    cases = [
        ["in"],
        ["in/*.jpg", "in", "odd.bin"],
        ["-"],
        ["list.txt", "in/**/*.jpg"],
        [f"{tmp_path}/in", "./in/../in/b.jpg"],
        ["nowhere.jpg", "./nowhere.jpg"],
    ]
    for arguments in cases:
        text = "in/b.jpg\nin/a.png\nin/b.jpg"
        expected = expand_paths(arguments, io.StringIO(text))
        found = open_inputs(arguments, io.StringIO(text))
        assert names(found) == list(expected.paths), arguments
        assert names(found) == list(expected.paths)  # a second time
        assert found.count() == len(expected.paths)
        assert (found.ignored, found.failures) == (expected.ignored, expected.failures)
        assert found.root == found.reader.root == expected.root
        assert not found.reader.slow
        for item in found:
            assert item == Item(item.name, item.name)
            assert found.reader.read(item) == item.name
            assert found.reader.relative(item.name) == expected.relative(item.name)
            assert found.reader.identity(item) == os.path.normpath(Path(item.name).absolute())


@settings(max_examples=40, deadline=None)
@given(
    tree=st.sets(
        st.lists(
            st.sampled_from(["a", "a.jpg", "b", "a-b", "c.png", "a b"]), min_size=1, max_size=4
        ).map(tuple),
        min_size=1,
        max_size=12,
    )
)
def test_a_folder_is_sorted_part_by_part(tree: set[tuple[str, ...]], tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    files = {(*parts, "x.jpg") for parts in tree} | {
        (*parts[:-1], f"{parts[-1]}.png") for parts in tree
    }
    for parts in files:
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            path.touch()
    every = [p.relative_to(folder).parts for p in folder.rglob("*") if p.is_file()]
    found = [Path(item.name).relative_to(folder).parts for item in open_inputs([str(folder)])]
    assert found == sorted(every)


def test_wrong_arguments():
    with pytest.raises(ArgumentError, match="at least one file, folder, pattern or list, got none"):
        open_inputs([])
    for argument in ("", "a\0b"):
        with pytest.raises(ArgumentError, match="got an empty or impossible one"):
            open_inputs([argument])
    with pytest.raises(ArgumentError, match=r"-: .*there is no stdin"):
        open_inputs(["-"])
    with pytest.raises(ArgumentError, match=r"column 'x': .*no table among the inputs; leave"):
        open_inputs(["a.jpg"], column="x")
    touch("in/a.dat")
    with pytest.raises(ArgumentError, match=r"in: expected pictures in this folder, found none"):
        open_inputs(["in"])


def test_a_file_url_is_the_local_path(tmp_path: Path):
    touch("a b.jpg")
    Path("list.txt").write_text(f"file://{tmp_path}/a b.jpg\n")
    for argument in (
        f"file://{tmp_path}/a b.jpg",
        f"FILE://localhost{tmp_path}/a b.jpg",
        "list.txt",
    ):
        assert names(open_inputs([argument])) == [f"{tmp_path}/a b.jpg"]
    assert open_inputs([f"file://{tmp_path}"]).count() == 1


# --- braces --------------------------------------------------------------------------------------


def test_braces():
    cases = {
        "s-{000..003}.tar": ["s-000.tar", "s-001.tar", "s-002.tar", "s-003.tar"],
        "{8..11}": ["8", "9", "10", "11"],
        "{08..11}": ["08", "09", "10", "11"],
        "{2..0}": ["2", "1", "0"],
        "{0..1}": ["0", "1"],
        "{a,b}/{1..2}x": ["a/1x", "a/2x", "b/1x", "b/2x"],
        "{a,}.tar": ["a.tar", ".tar"],
    }
    for text, expected in cases.items():
        assert has_braces(text)
        assert list(expanded(text)) == expected
    for text in ("{}", "{a}", "{1..}", "{a..c}", "a,b", "{{1,2", "{1.2}"):
        assert not has_braces(text) or text == "{{1,2"
    with pytest.raises(ArgumentError, match="at most 1,000,000 names, it stands for 1,000,002"):
        list(expanded("{0..1000001}"))
    with pytest.raises(ArgumentError, match="it stands for 1,000,000,000,000"):
        list(expanded("{000000..999999}{000000..999999}"))


@given(first=st.integers(0, 300), last=st.integers(0, 300), zeros=st.integers(0, 3))
def test_brace_ranges_are_those_of_the_shell(first: int, last: int, zeros: int):
    start = "0" * zeros + str(first)
    end = str(last)
    step = 1 if first <= last else -1
    padded = start.startswith("0") and len(start) > 1
    width = max(len(start), len(end)) if padded else 0
    expected = [f"a{str(i).zfill(width)}b" for i in range(first, last + step, step)]
    assert list(expanded(f"a{{{start}..{end}}}b")) == expected


def test_braces_in_arguments():
    touch("a1.jpg", "a2.jpg", "{1..2}.jpg")
    assert names(open_inputs(["a{1..3}.jpg"])) == ["a1.jpg", "a2.jpg", "a3.jpg"]
    assert names(open_inputs(["{1..2}.jpg"])) == ["{1..2}.jpg"]  # there is such a file


# --- how names are kept --------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=9)))
def test_packed_texts_come_back(texts: list[str]):
    packed = Packed()
    for text in texts:
        packed.append(text)
    assert list(packed) == list(packed) == texts
    assert len(packed) == len(texts)


def test_packed_texts_over_several_chunks_and_odd_bytes():
    texts = [os.fsdecode(b"caf\xe9") + str(i) for i in range(10_000)]
    packed = Packed()
    for text in texts:
        packed.append(text)
    assert list(pickle.loads(pickle.dumps(packed))) == texts


class Same(str):
    """A text with the hash of every other, to try what two equal hashes do."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other)


@given(keys=st.lists(st.sampled_from("abcdef"), max_size=12), clash=st.booleans())
def test_what_came_twice_is_found_though_hashes_clash(keys: list[str], clash: bool):
    keys = [Same(key) if clash else key for key in keys]
    seen = Seen()
    for key in keys:
        seen.add(key)
    expected = [i for i, key in enumerate(keys) if key in keys[:i]]
    assert seen.twice(lambda: keys).tolist() == expected


def test_a_long_list_takes_little_memory():
    with Path("long.txt").open("w") as file:
        file.writelines(f"photos/2026/11/holiday-{i:08d}.jpg\n" for i in range(100_000))
    code = """
from pathlib import Path
from gapcam.inputs import open_inputs
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4
open_inputs(["missing.jpg"])
before = resident()
inputs = open_inputs(["long.txt"])
print(inputs.count(), sum(1 for _ in inputs), resident() - before)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    counted, iterated, kib = map(int, shown.stdout.split())
    assert counted == iterated == 100_000
    assert kib < 6_000  # as strings: more than 10,000
    assert len(pickle.dumps(open_inputs(["a.jpg"]).reader)) < 1000


def test_a_reader_works_in_a_spawned_process(tmp_path: Path):
    Path("a.jpg").write_bytes(b"picture")
    inputs = open_inputs(["a.jpg"])
    Path("job").write_bytes(pickle.dumps((inputs.reader, list(inputs))))
    code = (
        "import pickle; reader, items = pickle.load(open('job', 'rb'));"
        "print(*(reader.read(i) for i in items), *(reader.relative(i.name) for i in items))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "a.jpg a.jpg\n"


# --- URLs as text --------------------------------------------------------------------------------

SIGNED = {
    "https://me:pw@host:8080/a.jpg": "https://host:8080/a.jpg",
    "https://host/a.jpg?X-Amz-Signature=5&X-Amz-Date=1&v=2#part": "https://host/a.jpg?v=2",
    "https://host/a.jpg?Expires=1&Signature=x&Key-Pair-Id=y": "https://host/a.jpg",
    "https://host/a.jpg?sv=1&se=2&sp=r&sig=abc&id=7": "https://host/a.jpg?id=7",
    "https://host/a.jpg?sv=1&id=7": "https://host/a.jpg?sv=1&id=7",
    "https://host/a.jpg?id=7&size=": "https://host/a.jpg?id=7&size=",
    "https://host?id=7": "https://host?id=7",
    "https://me:pw@host?id=7": "https://host?id=7",
    "s3://bucket/a@b?c#d.jpg": "s3://bucket/a@b?c#d.jpg",
    "sftp://me:pw@host/a.jpg": "sftp://host/a.jpg",
}


@pytest.mark.parametrize("url", SIGNED)
def test_names_of_urls_hold_no_credentials(url: str):
    assert shown(url) == SIGNED[url]
    assert shown(shown(url)) == shown(url)


def test_secrets_in_a_query_are_told_apart_by_their_hash():
    one, two = (shown(f"https://host/get?token={word}&x=1") for word in ("alpha", "beta"))
    assert re.fullmatch(r"https://host/get\?token=~[0-9a-f]{8}&x=1", one)
    assert one != two
    assert "alpha" not in without_secrets("failed: 'https://u:alpha@host/get?token=alpha' (403)")


def test_names_in_lists_at_urls():
    cases = {
        ("https://h/d/list.txt?sig=1", "a.jpg"): "https://h/d/a.jpg",
        ("https://h/d/list.txt", "../b/./a.jpg"): "https://h/b/a.jpg",
        ("https://h/d/list.txt", "../../../a.jpg"): "https://h/a.jpg",
        ("https://h/d/list.txt", "/a.jpg"): "https://h/a.jpg",
        ("https://h/list.txt", "12:30.jpg"): "https://h/12:30.jpg",
        ("s3://bucket/d/t.csv", "a?b.jpg"): "s3://bucket/d/a?b.jpg",
        ("s3://bucket/d/t.csv", "https://h/x.jpg"): "https://h/x.jpg",
        ("memory://d/t.csv", "a.jpg"): "memory://d/a.jpg",
    }
    for (base, name), expected in cases.items():
        assert joined(base, name) == expected


@given(st.text(max_size=300))
def test_parts_stay_in_their_folder(text: str):
    part = safe_part(text.replace("/", ""))
    assert part not in ("", ".", "..")
    assert "/" not in part
    assert "\0" not in part
    assert len(part.encode("utf-8", "surrogateescape")) <= 255


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b.jpg", "?", "x" * 300]), max_size=5))
def test_urls_become_paths_below_a_folder(parts: list[str]):
    url = "s3://bucket/" + "/".join(parts)
    path = Path(*parts_of(url))
    assert ".." not in path.parts
    assert not path.is_absolute()
    assert len(path.parts) == 2 + max(len(parts), 1)
    assert is_url(url)
    assert urlsplit(url).scheme == path.parts[0][:-1]


def test_urls_need_no_network_to_be_named():
    found = open_inputs(
        ["s3://b/x/a.jpg", "https://me:pw@h/c.png?sig=1&se=2", "s3://b/x/a.jpg", "d.jpg"]
    )
    assert names(found) == ["s3://b/x/a.jpg", "https://h/c.png", "d.jpg"]
    assert found.reader.slow
    assert [str(found.reader.relative(name)) for name in names(found)] == [
        "s3:/b/x/a.jpg",
        "https:/h/c.png",
        "d.jpg",
    ]
    item = next(iter(found))
    assert found.reader.identity(item) == "s3://b/x/a.jpg"
    same = open_inputs(["s3://b/x/a.jpg", "s3://b/x/y/c.jpg", "s3://b/x/z.jpg"])
    assert [str(same.reader.relative(name)) for name in names(same)] == [
        "a.jpg",
        "y/c.jpg",
        "z.jpg",
    ]
    assert same.root == Path.cwd()
    assert "pw" not in repr(list(found))


def test_wildcards_are_looked_for_in_the_path_only():
    cases = {
        "http://[::1]:80/a.png": None,
        "http://[::1]:80/d/*.png": "http://[::1]:80/d",
        "https://h/a.png?x=*": None,
        "https://h/d/a[1-3].png?v=2": "https://h/d",
        "s3://b/d/a?.png": "s3://b/d",
        "s3://b/**": "s3://b",
    }
    for url, folder in cases.items():
        assert has_pattern(url) == (folder is not None)
        assert folder is None or before_pattern(url) == folder
    assert names(open_inputs(["http://[::1]:80/a.png"])) == ["http://[::1]:80/a.png"]


def test_items_of_the_public_kind():
    assert isinstance(open_inputs(["a.jpg"]).reader, Reader)
    assert not any(isinstance(item, Failure) for item in open_inputs(["a.jpg"]))
    assert list(itertools.islice(open_inputs(["a.jpg"]), 1)) == [Item("a.jpg", "a.jpg")]
    assert np.array(list(open_inputs(["a.jpg", "a.jpg"]))).shape == (1,)
