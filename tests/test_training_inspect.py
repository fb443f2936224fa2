from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gapcam.training import duplicates
from gapcam.training.duplicates import near_duplicates
from gapcam.training.inspect import Inspection, difference_hash, inspect_pictures
from gapcam.training.labelled import LabelledSet
from picture_files import smooth_pixels


def labelled(root: Path, count: int) -> LabelledSet:
    names = tuple(f"{i}.png" for i in range(count))
    paths = tuple(root / name for name in names)
    targets = np.eye(2, dtype=bool)[np.arange(count) % 2]
    return LabelledSet(root, names, paths, ("a", "b"), targets, single=True, given=None)


def inspected(root: Path, *pictures: np.ndarray) -> Inspection:
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(root / f"{i}.png")
    return inspect_pictures(labelled(root, len(pictures)), lambda *_: None)


def test_the_bits_of_a_hash():
    grey = np.zeros((8, 9), np.uint8)
    grey[0] = (0, 9, 3, 4, 5, 5, 1, 2, 3)  # + - + + = - + +
    grey[7] = np.arange(9) * 10
    pixels = np.repeat(grey[:, :, None], 3, axis=2)
    assert difference_hash(pixels) == (0b10110011 << 56) | 0xFF
    assert (
        difference_hash(np.kron(pixels, np.ones((6, 5, 1), np.uint8))) == (0b10110011 << 56) | 0xFF
    )
    assert difference_hash(np.full((20, 20, 3), 77, np.uint8)) == 0


def test_unreadable_pictures_are_named_and_the_rest_is_read(tmp_path):
    data = labelled(tmp_path, 40)
    for i, path in enumerate(data.paths):
        Image.fromarray(smooth_pixels(50, 60, i)).save(path)
    data.paths[3].write_bytes(b"")
    data.paths[7].write_bytes(data.paths[8].read_bytes()[:400])
    data.paths[39].unlink()
    calls = []
    seen = inspect_pictures(data, lambda *call: calls.append(call))
    assert sorted(seen.unreadable) == [3, 7, 39]
    assert "empty (0 bytes)" in seen.unreadable[3]
    assert str(data.paths[39]) in seen.unreadable[39]
    assert calls == [("reading pictures", i + 1, 40) for i in range(40)]
    assert seen.hashes[11] == difference_hash(smooth_pixels(50, 60, 11))
    assert seen.thumbnails.shape == (40, 16, 16, 3)
    assert near_duplicates(seen) == ()


def test_copies_are_found_and_others_are_not(tmp_path):
    pixels = smooth_pixels(120, 160, 1)
    small = np.array(Image.fromarray(pixels).resize((70, 60)))
    bright = np.clip(pixels * 0.8 + 30, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.jpg", quality=40)
    squeezed = np.array(Image.open(tmp_path / "x.jpg"))
    others = [smooth_pixels(120, 160, seed) for seed in range(2, 30)]
    seen = inspected(tmp_path, others[0], pixels, *others[1:], small, bright, squeezed)
    assert near_duplicates(seen) == ((1, 29, 30, 31),)


def test_flat_pictures_are_told_apart_by_colour(tmp_path):
    def flat(*colour: int) -> np.ndarray:
        return np.full((30, 30, 3), colour, np.uint8)

    colours = [(200, 0, 0), (0, 102, 0), (90, 90, 90), (0, 102, 1), (91, 90, 90), (250, 250, 250)]
    seen = inspected(tmp_path, *(flat(*colour) for colour in colours))
    assert set(seen.hashes.tolist()) == {0}
    assert near_duplicates(seen) == ((1, 3), (2, 4))


def test_unreadable_pictures_are_no_duplicates():
    zeros = np.zeros(3, np.uint64), np.zeros((3, 16, 16, 3), np.uint8)
    assert near_duplicates(Inspection(*zeros, {0: "broken", 1: "broken"})) == ()
    assert near_duplicates(Inspection(*zeros, {1: "broken"})) == ((0, 2),)


def slow_groups(seen: Inspection) -> tuple[tuple[int, ...], ...]:
    """Every pair, by the words of the rule; then whatever can be reached."""

    def alike(i: int, j: int) -> bool:
        if bin(int(seen.hashes[i]) ^ int(seen.hashes[j])).count("1") > 7:
            return False
        a, b = (seen.thumbnails[k].astype(float).ravel() for k in (i, j))
        if (a.std() < 4) != (b.std() < 4):
            return False
        if a.std() < 4:
            return np.sqrt(((a - b) ** 2).mean()) <= 3
        return np.corrcoef(a, b)[0, 1] >= 0.98

    left = [i for i in range(len(seen.hashes)) if i not in seen.unreadable]
    groups = []
    while left:
        group, new = set(), {left[0]}
        while new:
            group |= new
            new = {j for j in left if j not in group and any(alike(i, j) for i in new)}
        left = [i for i in left if i not in group]
        groups.append(tuple(sorted(group)))
    return tuple(sorted(group for group in groups if len(group) > 1))


def look_alikes(seed: int, count: int) -> Inspection:
    """Copies of a few pictures with 0 to 9 bits flipped and some noise; a third are flat."""
    rng = np.random.default_rng(seed)
    kinds = 6
    hashes = rng.integers(0, 2**64, kinds, dtype=np.uint64)
    base = rng.integers(0, 256, (kinds, 16, 16, 3)).astype(float)
    base[::3] = rng.integers(0, 256, (2, 1, 1, 3))
    kind = rng.integers(0, kinds, count)
    flips = np.zeros(count, np.uint64)
    for i in range(count):
        for bit in rng.choice(64, rng.integers(0, 10), replace=False):
            flips[i] |= np.uint64(1) << np.uint64(bit)
    noise = (
        rng.normal(0, 1, (count, 16, 16, 3))
        * rng.choice([0.3, 2, 12, 18], count)[:, None, None, None]
    )
    thumbnails = np.clip(np.rint(base[kind] + noise), 0, 255).astype(np.uint8)
    return Inspection(
        hashes[kind] ^ flips, thumbnails, dict.fromkeys(range(0, count, 17), "broken")
    )


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(2, 70))
def test_groups_are_those_of_comparing_all_pairs(seed, count):
    seen = look_alikes(seed, count)
    assert near_duplicates(seen) == slow_groups(seen)


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch):
    seen = look_alikes(5, 80)
    whole = near_duplicates(seen)
    assert whole
    monkeypatch.setattr(duplicates, "_PAIRS", 7)
    monkeypatch.setattr(duplicates, "_THUMBNAIL_PAIRS", 3)
    assert near_duplicates(seen) == whole


def test_fewer_bits_where_too_many_hashes_are_alike(monkeypatch: pytest.MonkeyPatch):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    pixels = np.repeat(pixels, 3, axis=0)
    pixels[:, 0, 0, 0] = (1, 2, 3)
    seen = Inspection(np.array([0, 0b111, 0b1111111 << 30], np.uint64), pixels, {})
    assert near_duplicates(seen) == ((0, 1, 2),)
    monkeypatch.setattr(duplicates, "_MOST_PAIRS", 1)
    assert near_duplicates(seen) == ((0, 1),)
