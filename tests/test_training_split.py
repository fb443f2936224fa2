from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapcam.training import duplicates
from gapcam.training.inspect import Inspection
from gapcam.training.labelled import LabelledSet
from gapcam.training.split import make_split
from gapcam.training.split_file import read_split, write_split
from gapcam.types import ArgumentError, DataError


def labelled(targets: np.ndarray, parts: list[int] | None = None) -> LabelledSet:
    count, classes = targets.shape
    names = tuple(f"{i}.jpg" for i in range(count))
    single = bool((targets.sum(axis=1) == 1).all())
    return LabelledSet(
        Path("data"),
        names,
        tuple(map(Path, names)),
        tuple("abcdefghijklmnop"[:classes]),
        targets.astype(bool),
        single,
        None if parts is None else np.array(parts, np.int8),
    )


def single(*sizes: int, parts: list[int] | None = None) -> LabelledSet:
    return labelled(np.eye(len(sizes))[np.repeat(np.arange(len(sizes)), sizes)], parts)


def seen(count: int, groups: tuple[tuple[int, ...], ...] = (), broken: tuple[int, ...] = ()):
    """Pictures that differ, but for those of each group."""
    rng = np.random.default_rng(9)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    thumbnails = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    for group in groups:
        hashes[list(group)] = hashes[group[0]]
        thumbnails[list(group)] = thumbnails[group[0]]
    return Inspection(hashes, thumbnails, {i: f"{i}.jpg: broken" for i in broken})


def check_parts(data, split, broken=()):
    train, validation = set(split.train.tolist()), set(split.validation.tolist())
    assert not train & validation
    assert train | validation == set(range(len(data.names))) - set(broken)
    assert split.train.tolist() == sorted(train)
    for part in (split.train, split.validation):
        assert data.targets[part].any(axis=0).all()


@given(
    st.lists(st.integers(2, 60), min_size=2, max_size=8), st.floats(0.05, 0.95), st.integers(0, 99)
)
def test_every_class_has_its_share(sizes, share, seed):
    data = single(*sizes)
    split = make_split(data, seen(sum(sizes)), share, seed)
    check_parts(data, split)
    there = data.targets[split.validation].sum(axis=0)
    for size, got in zip(sizes, there, strict=True):
        assert got == min(max(int(size * share + 0.5), 1), size - 1)


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.floats(0.1, 0.5))
def test_near_duplicates_stay_together(seed, share):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(8, 40, 4)
    count = int(sizes.sum())
    data = single(*sizes)
    order = rng.permutation(count)  # groups across classes too, each class keeps some single ones
    pool = [int(i) for i in order if i not in {*np.cumsum(sizes) - 1, *np.cumsum(sizes) - 2}]
    ends = np.cumsum(rng.integers(2, 6, 6))
    groups = tuple(tuple(sorted(part)) for part in np.split(pool, ends)[:-1] if len(part) > 1)
    broken = (pool[-1],) if pool[-1] not in {i for group in groups for i in group} else ()
    split = make_split(data, seen(count, groups, broken), share, seed)
    check_parts(data, split, broken)
    assert split.duplicates == tuple(sorted(groups))
    validates = np.isin(np.arange(count), split.validation)
    assert all(len(set(validates[list(group)].tolist())) == 1 for group in groups)


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_multi_label_classes_are_on_both_sides(seed):
    rng = np.random.default_rng(seed)
    targets = rng.random((300, 6)) < (0.5, 0.3, 0.1, 0.05, 0.03, 0.4)
    targets[:12] |= np.tile(np.eye(6, dtype=bool), (2, 1))
    data = labelled(targets)
    split = make_split(data, seen(300), 0.25, seed)
    check_parts(data, split)
    share = targets[split.validation].sum(axis=0) / targets.sum(axis=0)
    assert np.abs(share - 0.25).max() < 0.25
    assert abs(len(split.validation) / 300 - 0.25) < 0.06


def test_a_seed_gives_one_split_and_another_seed_another():
    data, looks = single(50, 50), seen(100)
    first, same, other = (make_split(data, looks, 0.2, seed) for seed in (1, 1, 2))
    assert first.validation.tolist() == same.validation.tolist()
    assert first.validation.tolist() != other.validation.tolist()


def test_words():
    data = single(10, 10)
    split = make_split(data, seen(20, ((0, 1), (2, 3, 12)), broken=(7,)), 0.3, 0)
    train, validation = len(split.train), len(split.validation)
    assert split.words == (
        f"{train} pictures train and {validation} validate, chosen by class at random; "
        "1 picture cannot be read and is left out; 2 groups of near-duplicate pictures, all kept "
        "together; 1 group of near-duplicate pictures with different labels, worth a look "
        "(2.jpg: a and 12.jpg: b)"
    )


def test_a_coarser_search_for_near_duplicates_is_said(monkeypatch: pytest.MonkeyPatch):
    assert "missed" not in make_split(single(5, 5), seen(10), 0.2, 0).words
    monkeypatch.setattr(duplicates, "_MOST_PAIRS", 1)
    words = make_split(single(5, 5), seen(10), 0.2, 0).words
    assert "hashes differ in 3 bits of 64 at most, and some may have been missed" in words


def test_a_given_split_is_kept_and_its_leaks_are_said():
    data = single(3, 3, parts=[0, 0, 1, 0, 1, 1])
    split = make_split(data, seen(6, ((0, 2), (4, 5)), broken=(1,)), 0.5, 0)
    assert split.train.tolist() == [0, 3]
    assert split.validation.tolist() == [2, 4, 5]
    assert "as the data says" in split.words
    assert "1 group of near-duplicate pictures in both training and validation" in split.words
    assert "(0.jpg, 2.jpg)" in split.words


@pytest.mark.parametrize(
    ("data", "looks", "message"),
    [
        (single(4, 3), seen(7, ((4, 5, 6),)), "all pictures of 'b' are near-duplicates"),
        (single(4, 2), seen(6, (), (4,)), r"class 'b' 1 cannot be read \(4.jpg: broken\)"),
        (single(4, 5), seen(9, (), (4, 5, 6, 7, 8)), "5 cannot be read .*and 2 more"),
        (single(2, 2, parts=[0, 1, 0, 1]), seen(4, (), (3,)), "in training and in validation, of"),
        (labelled(np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]])), seen(3), "no way was found"),
    ],
)
def test_a_class_that_cannot_be_on_both_sides(data, looks, message):
    with pytest.raises(DataError, match=message):
        make_split(data, looks, 0.2, 0)


def test_a_share_out_of_range():
    with pytest.raises(ArgumentError, match="share"):
        make_split(single(2, 2), seen(4), 1.0, 0)


def test_a_written_split_is_read_back(tmp_path):
    data = single(12, 12)
    odd = ("a, b.jpg", 'say "x".jpg', "two\nlines.jpg", "\udce9.jpg", *data.names[4:])
    data = dataclasses.replace(data, names=odd)
    looks = seen(24, ((0, 5), (13, 14, 20)), broken=(8,))
    split = make_split(data, looks, 0.25, 3)
    write_split(tmp_path / "run" / "split.csv", data, split, looks)
    again = read_split(tmp_path / "run" / "split.csv", data)
    assert again.train.tolist() == split.train.tolist()
    assert again.validation.tolist() == split.validation.tolist()
    assert (again.words, again.duplicates) == (split.words, split.duplicates)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["split.csv"]


def test_the_file_is_a_table(tmp_path):
    data = labelled(np.array([[1, 1], [1, 0], [0, 1], [1, 1], [0, 0]]), [0, 0, 0, 1, 1])
    looks = seen(5, ((0, 3),), broken=(4,))
    write_split(tmp_path / "s.csv", data, make_split(data, looks, 0.5, 0), looks)
    assert (tmp_path / "s.csv").read_text().splitlines() == [
        "image,labels,part,near_duplicates",
        *("0.jpg,a;b,train,1", "1.jpg,a,train,", "2.jpg,b,train,", "3.jpg,a;b,validation,1"),
        "4.jpg,,unreadable,",
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (single(6, 7), "12 pictures then and 13 now"),
        (single(7, 5), r"'6.jpg' \(b\) then, '6.jpg' \(a\) now"),
        (single(6, 5), "12 pictures then and 11 now"),
    ],
)
def test_a_split_of_other_data_is_refused(tmp_path, changed, message):
    data, looks = single(6, 6), seen(12)
    write_split(tmp_path / "s.csv", data, make_split(data, looks, 0.5, 0), looks)
    with pytest.raises(DataError, match=f"changed since this run began.*{message}.*start a new"):
        read_split(tmp_path / "s.csv", changed)


@pytest.mark.parametrize(
    "text", ["", "image,label\na,b\n", "image,labels,part,near_duplicates\na,b,dev,\n"]
)
def test_a_file_that_is_no_split(tmp_path, text):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(DataError, match="this is not one"):
        read_split(tmp_path / "s.csv", single(2, 2))
