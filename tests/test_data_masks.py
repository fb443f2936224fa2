"""The layout `masks`, the masks of `wsol`, and `load_mask`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_sets import (
    csv_set,
    edit,
    masks_set,
    write_mask,
    write_picture,
    wsol_masks_set,
)
from gapcam.data import Dataset, load_mask, read_dataset
from gapcam.types import ArgumentError, DataError, PictureError


def read(root: Path) -> Dataset:
    return read_dataset(root / "test", masks=root / "test-masks")


def read_wsol(root: Path) -> Dataset:
    return read_dataset(root / "images", root / "metadata" / "test", masks=root / "masks")


def said(dataset: Dataset) -> list[str]:
    return [str(problem) for problem in dataset.problems]


def test_class_folders(tmp_path: Path):
    dataset = read(masks_set(tmp_path))
    assert (dataset.name, dataset.layout, dataset.problems) == ("test", "masks", ())
    names = [example.name for example in dataset.examples]
    assert names == ["break/deep/1.jpg", "crack/1.jpg", "crack/2.png"]
    assert [example.targets[0].class_names[0] for example in dataset.examples] == [
        "break",
        "crack",
        "crack",
    ]
    assert [example.where for example in dataset.examples] == [
        "break/deep/1.bmp",
        "crack/1.png",
        "crack/2_mask.png",
    ]
    assert dataset.notes == ("class 'free' has no masks: 2 pictures left out",)
    masks = [load_mask(example.targets[0], example)[0] for example in dataset.examples]
    assert [int(mask.sum()) for mask in masks] == [1, 17 * 5, 40 * 30]
    assert masks[1][4:9, 3:20].all()


def test_what_does_not_match(tmp_path: Path):
    masks_set(tmp_path)
    write_picture(tmp_path / "test" / "crack" / "bare.jpg")
    write_picture(tmp_path / "test" / "crack" / "1.png")
    write_picture(tmp_path / "test" / "lost.jpg")
    write_picture(tmp_path / "test" / "crack" / "two.jpg")
    for name in ("crack/gone.png", "new/1.png", "crack/two.png", "crack/two.bmp"):
        write_mask(tmp_path / "test-masks" / name, (0, 0, 5, 5))
    dataset = read(tmp_path)
    masks = tmp_path / "test-masks"
    assert sorted(said(dataset)) == [
        "crack/1.png: expected one picture of that name, crack/1.jpg is another",
        f"crack/bare.jpg: expected one mask crack/bare.png below {masks}, there is none",
        "crack/gone.png: expected a picture crack/gone with this mask, there is none",
        f"crack/two.jpg: expected one mask crack/two.png below {masks}, there are crack/two.bmp "
        "and crack/two.png",
        f"lost.jpg: expected a file in a class folder below {tmp_path}/test, it is in none",
        "new/1.png: expected a picture new/1 with this mask, there is none",
    ]
    assert [example.name for example in dataset.examples] == ["break/deep/1.jpg", "crack/2.png"]


def test_nothing_has_a_mask(tmp_path: Path):
    masks_set(tmp_path)
    with pytest.raises(DataError, match=r"there is none \(class 'break' has no masks: 1 picture"):
        read_dataset(
            tmp_path / "test", masks=write_picture(tmp_path / "none" / "x.txt", format="PNG").parent
        )


def bad_mask(root: Path, image: Image.Image, name: str = "1.png") -> str:
    """What is said of a set whose first mask is this one."""
    (masks_set(root) / "test-masks" / "crack" / "1.png").unlink()
    image.save(root / "test-masks" / "crack" / name)
    dataset = read(root)
    assert "crack/1.jpg" not in [example.name for example in dataset.examples]
    (problem,) = dataset.problems
    assert problem.where == f"crack/{name}"
    return problem.what.removeprefix(f"{root}/test-masks/crack/{name}: ")


SAVE = "save it as 8-bit grey, background 0 and foreground 255"


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (
            Image.new("L", (40, 31), 255),
            "expected the size of its picture, 40x30 pixels, got 40x31; save the mask at that size",
        ),
        (
            Image.new("L", (20, 15), 255),
            "expected the size of its picture, 40x30 pixels, got 20x15; save the mask at that size",
        ),
        (
            Image.new("L", (40, 30), 127),
            "expected foreground, grey values above 127, the highest is 127; save foreground as "
            "white (255), or leave out what is empty",
        ),
        (
            Image.new("I;16", (40, 30), 65535),
            f"expected a mask of 8 bits a channel or 1 bit, it has mode I;16; {SAVE}",
        ),
        (
            Image.new("RGBA", (40, 30), (255, 255, 255, 0)),
            f"expected a mask without transparent parts, it has some; {SAVE}",
        ),
    ],
)
def test_a_bad_mask(tmp_path: Path, image: Image.Image, what: str):
    assert bad_mask(tmp_path, image) == what


def test_a_mask_that_is_broken(tmp_path: Path):
    path = masks_set(tmp_path) / "test-masks" / "crack" / "1.png"
    path.write_bytes(path.read_bytes()[:60])
    (problem,) = read(tmp_path).problems
    assert problem.what.startswith(f"{path}: expected a whole picture, it cannot be read (")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_modes_of_masks(tmp_path: Path, mode: str):
    path = masks_set(tmp_path) / "test-masks" / "crack" / "1.png"
    write_mask(path, (3, 4, 20, 9), mode=mode)
    example = read(tmp_path).examples[1]
    mask, _ = load_mask(example.targets[0], example)
    assert mask[4:9, 3:20].all()
    assert mask.sum() == 17 * 5


def test_foreground_begins_at_128(tmp_path: Path):
    path = masks_set(tmp_path) / "test-masks" / "crack" / "1.png"
    values = np.full((30, 40), 127, np.uint8)
    values[3, 5] = 128
    Image.fromarray(values).save(path)
    example = read(tmp_path).examples[1]
    assert np.argwhere(load_mask(example.targets[0], example)[0]).tolist() == [[3, 5]]


# --- wsol --------------------------------------------------------------------------------------


def test_instances_are_united_and_ignored_pixels_are_not_in_them(tmp_path: Path):
    dataset = read_wsol(wsol_masks_set(tmp_path))
    assert dataset.problems == ()
    (example,) = dataset.examples
    (target,) = example.targets
    folder = tmp_path / "masks" / "test" / "01226z"
    assert (target.class_names, target.boxes) == ((3,), ())
    assert target.mask_paths == (
        folder / "7af7_m01226z_6554.png",
        folder / "7af7_m01226z_8856.png",
    )
    assert target.ignore_path == folder / "7af7_ignore.png"
    assert example.where == "localization.txt, line 1"
    assert dataset.notes == ("2 masks of another size than the picture, scaled to it",)
    mask, ignore = load_mask(target, example)
    expected = np.zeros((30, 40), bool)
    expected[2:10, 2:10] = expected[20:30, 20:30] = True
    assert np.array_equal(mask, expected)
    left = np.zeros((30, 40), bool)
    left[:, :20] = True
    assert ignore is not None
    assert np.array_equal(ignore, left & ~expected)


def test_masks_are_looked_for_beside_the_pictures_without_a_folder(tmp_path: Path):
    wsol_masks_set(tmp_path)
    (tmp_path / "masks" / "test" / "01226z").rename(tmp_path / "moved")
    for path in (tmp_path / "moved").iterdir():
        path.rename(tmp_path / "images" / "test" / "01226z" / path.name)
    assert len(read_dataset(tmp_path / "images", tmp_path / "metadata").examples) == 1


def test_scaling_takes_the_value_at_each_pixels_centre(tmp_path: Path):
    wsol_masks_set(tmp_path)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 2, (23, 31), dtype=np.uint8) * 255  # 31x23 is 40x30 to one pixel
    Image.fromarray(pixels).save(tmp_path / "masks" / "test" / "01226z" / "7af7_m01226z_6554.png")
    edit(tmp_path / "metadata" / "test" / "localization.txt", "8856", "6554")
    dataset = read_wsol(tmp_path)
    assert said(dataset) == [
        "localization.txt, line 2: expected every row once, localization.txt, line 1 says the "
        "same; delete one (one counts)"
    ]
    (example,) = dataset.examples
    mask, _ = load_mask(example.targets[0], example)
    for row in range(30):
        for column in range(40):
            there = pixels[int((row + 0.5) * 23 / 30), int((column + 0.5) * 31 / 40)]
            assert mask[row, column] == (there > 0)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("6554.png", "gone.png", "{masks}/test/01226z/7af7_m01226z_gone.png: expected a picture"),
        ("7af7_ignore", "none", "{masks}/test/01226z/none.png: expected a picture file, there is"),
        (
            "test/01226z/7af7_m01226z_6554.png",
            "../x.png",
            "'../x.png': expected a path below {masks}, this one leads out of it",
        ),
        (
            "test/01226z/7af7_ignore.png",
            "/x.png",
            "'/x.png': expected the path of a file below {masks}",
        ),
    ],
)
def test_bad_mask_lines(tmp_path: Path, old: str, new: str, what: str):
    edit(wsol_masks_set(tmp_path) / "metadata" / "test" / "localization.txt", old, new)
    dataset = read_wsol(tmp_path)
    (problem,) = dataset.problems
    assert problem.where == "localization.txt, line 1"
    assert problem.what.startswith(what.format(masks=tmp_path / "masks"))
    assert dataset.examples == ()


def test_one_file_of_ignored_pixels_a_picture(tmp_path: Path):
    path = wsol_masks_set(tmp_path) / "metadata" / "test" / "localization.txt"
    edit(path, "8856.png,", "8856.png,test/01226z/7af7_ignore.png")
    assert said(read_wsol(tmp_path)) == [
        "localization.txt, line 2: expected one file of ignored pixels a picture, got "
        f"{tmp_path}/masks/test/01226z/7af7_ignore.png too"
    ]


def test_ignored_pixels_may_be_none_but_have_a_size(tmp_path: Path):
    path = wsol_masks_set(tmp_path) / "masks" / "test" / "01226z" / "7af7_ignore.png"
    write_mask(path, (0, 0, 0, 0), (20, 15))
    (example,) = read_wsol(tmp_path).examples
    _, ignore = load_mask(example.targets[0], example)
    assert ignore is not None
    assert not ignore.any()
    write_mask(path, (0, 0, 1, 1), (20, 20))
    assert said(read_wsol(tmp_path)) == [
        f"localization.txt, line 1: {path}: expected the size of its picture, 40x30 pixels, or "
        "another size with that aspect, got 20x20; save the mask at that size"
    ]


# --- load_mask ---------------------------------------------------------------------------------


def test_load_mask_names_the_file_that_went(tmp_path: Path):
    example = read(masks_set(tmp_path)).examples[1]
    path = example.targets[0].mask_paths[0]
    Image.new("L", (9, 9)).save(path)
    with pytest.raises(DataError, match=f"{path}: expected the size of its picture, 40x30 pixels"):
        load_mask(example.targets[0], example)
    path.unlink()
    with pytest.raises(PictureError, match=f"{path}: expected a picture file, there is none"):
        load_mask(example.targets[0], example)


def test_load_mask_bounds_pixels_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    example = read(masks_set(tmp_path)).examples[1]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(PictureError, match="too many pixels"):
        load_mask(example.targets[0], example)


def test_load_mask_wants_a_mask(tmp_path: Path):
    example = read_dataset(csv_set(tmp_path)).examples[0]
    with pytest.raises(ArgumentError, match=r"a.jpg: expected a target with masks, this one"):
        load_mask(example.targets[0], example)
