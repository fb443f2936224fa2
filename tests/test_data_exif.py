"""Annotations are in stored pixels; examples are in pixels of the picture as it is shown."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from data_sets import (
    ORIENTATION,
    coco_content,
    coco_set,
    edit,
    voc_set,
    write_lines,
    write_mask,
    write_picture,
    yolo_set,
)
from gapcam.data import Dataset, Target, load_mask, read_dataset
from gapcam.data.masks import turn_pixels
from gapcam.data.pictures import read_stamp, turn_box
from gapcam.images import load_picture

ALL = range(1, 9)
SIDEWAYS = (5, 6, 7, 8)
HEADER = "image,class,width,height,x0,y0,x1,y1"
WRITTEN = "image,class_id,class,width,height,x0,y0,x1,y1,score"


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """What Pillow makes of stored pixels when it shows them."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return np.asarray(ImageOps.exif_transpose(Image.open(file)))


def painted(box: tuple[int, int, int, int], size_wh: tuple[int, int]) -> np.ndarray:
    pixels = np.zeros(size_wh[::-1], np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    return pixels


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def csv(root: Path, orientation: int, size_wh: tuple[int, int], header: str = HEADER) -> Dataset:
    """A stored picture of 40x30 with a box (1, 2, 12, 9)."""
    write_picture(root / "images" / "a.jpg", (40, 30), orientation)
    width, height = size_wh
    row = {"image": "a.jpg", "class": "cat", "class_id": 0, "width": width, "height": height}
    row |= {"x0": 1, "y0": 2, "x1": 12, "y1": 9, "score": 1}
    write_lines(root / "boxes.csv", header, ",".join(str(row[name]) for name in header.split(",")))
    return read_dataset(root / "images", root / "boxes.csv")


sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(sizes, st.data(), st.sampled_from(ALL))
def test_boxes_and_pixels_turn_as_pillow_turns_pictures(size_wh, data, orientation: int):
    width, height = size_wh
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = (x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)))
    expected = turned(painted(box, size_wh), orientation)
    assert turn_box(box, size_wh, orientation) == bounds(expected)
    assert np.array_equal(turn_pixels(painted(box, size_wh), orientation), expected)


@pytest.mark.parametrize("orientation", ALL)
def test_stored_pixels_become_shown_pixels(tmp_path: Path, orientation: int):
    dataset = csv(tmp_path, orientation, (40, 30))
    (example,) = dataset.examples
    shown = load_picture(example.path)
    assert (example.orientation, example.size_wh) == (orientation, shown.size_hw[::-1])
    expected = bounds(turned(painted((1, 2, 12, 9), (40, 30)), orientation))
    assert example.targets[0].boxes == (expected,)
    assert dataset.notes == ()


@pytest.mark.parametrize("orientation", SIDEWAYS)
def test_a_size_that_is_swapped_means_shown_pixels(tmp_path: Path, orientation: int):
    dataset = csv(tmp_path, orientation, (30, 40))
    assert dataset.examples[0].targets[0].boxes == ((1, 2, 12, 9),)
    assert dataset.examples[0].size_wh == (30, 40)
    assert dataset.notes == (
        "1 box in pixels of the picture as it is shown, as its size there says",
    )


@pytest.mark.parametrize("orientation", [1, 3])
def test_a_size_that_is_swapped_is_wrong_without_a_turn(tmp_path: Path, orientation: int):
    (problem,) = csv(tmp_path, orientation, (30, 40)).problems
    assert "40x30 pixels, got 30x40" in problem.what


@pytest.mark.parametrize("orientation", ALL)
def test_what_localize_wrote_is_in_shown_pixels(tmp_path: Path, orientation: int):
    size = (30, 40) if orientation in SIDEWAYS else (40, 30)
    dataset = csv(tmp_path, orientation, size, WRITTEN)
    assert dataset.examples[0].targets[0].boxes == ((1, 2, 12, 9),)
    assert dataset.notes == ()


@pytest.mark.parametrize("orientation", SIDEWAYS)
def test_even_there_the_size_decides(tmp_path: Path, orientation: int):
    dataset = csv(tmp_path, orientation, (40, 30), WRITTEN)
    expected = bounds(turned(painted((1, 2, 12, 9), (40, 30)), orientation))
    assert dataset.examples[0].targets[0].boxes == (expected,)


def test_coco_and_voc_are_in_stored_pixels_unless_gapcam_wrote_them(tmp_path: Path):
    coco_set(tmp_path / "coco")
    write_picture(tmp_path / "coco" / "val2017" / "000139.jpg", (40, 30), 3)
    content = coco_content()
    args = (tmp_path / "coco" / "val2017", tmp_path / "coco" / "annotations")
    assert read_dataset(*args).examples[0].targets[1].boxes == ((32, 0, 40, 30),)
    content["info"]["description"] = "gapcam"
    coco_set(tmp_path / "coco", content)
    write_picture(tmp_path / "coco" / "val2017" / "000139.jpg", (40, 30), 3)
    assert read_dataset(*args).examples[0].targets[1].boxes == ((0, 0, 8, 30),)

    voc_set(tmp_path / "voc")
    write_picture(tmp_path / "voc" / "JPEGImages" / "000001.jpg", (40, 30), 3)
    assert read_dataset(None, tmp_path / "voc").examples[0].targets[1].boxes == ((20, 0, 32, 28),)
    path = tmp_path / "voc" / "Annotations" / "000001.xml"
    edit(path, "The VOC2007 Database", "gapcam")
    assert read_dataset(None, tmp_path / "voc").examples[0].targets[1].boxes == ((8, 2, 20, 30),)


def test_yolo_is_in_fractions_of_the_shown_picture(tmp_path: Path):
    write_picture(yolo_set(tmp_path) / "images" / "val" / "a.jpg", (40, 30), 6)
    example = read_dataset(None, tmp_path).examples[1]
    assert example.size_wh == (30, 40)
    assert example.targets[0].boxes == ((7.5, 10, 22.5, 30),)


def test_edges_are_those_of_the_size_that_is_meant(tmp_path: Path):
    root = tmp_path / "set"
    write_picture(root / "images" / "a.jpg", (40, 30), 6)
    rows = ("a.jpg,cat,40,30,0,0,40,30", "a.jpg,dog,30,40,0,0,40,30")
    write_lines(root / "boxes.csv", HEADER, *rows)
    (problem,) = read_dataset(root).problems
    assert problem.where == "boxes.csv, line 3"
    assert "inside the picture, 30x40 pixels" in problem.what


# --- where the orientation hides ---------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif"])
@pytest.mark.parametrize("orientation", ALL)
def test_stamps_agree_with_the_pictures_as_they_are_shown(
    tmp_path: Path, suffix: str, orientation: int
):
    path = write_picture(tmp_path / f"a{suffix}", (40, 30), orientation)
    stamp = read_stamp(path)
    height, width = load_picture(path).size_hw
    assert stamp.shown_wh == (width, height)
    assert (stamp.size_wh, stamp.orientation) == ((40, 30), orientation)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_png_with_exif_after_its_pixels(tmp_path: Path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = write_picture(tmp_path / "a.png")
    data = path.read_bytes()
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    path.write_bytes(data[:-12] + png_chunk(b"eXIf", body) + data[-12:])
    assert read_stamp(path).orientation == 6
    assert load_picture(path).size_hw == (40, 30)


def test_a_png_without_exif_is_not_decoded(tmp_path: Path):
    path = write_picture(tmp_path / "a.png")
    data = path.read_bytes()
    at = data.index(b"IDAT")
    path.write_bytes(data[: at + 6])  # its pixels are missing
    assert read_stamp(path).size_wh == (40, 30)


def test_orientation_in_xmp(tmp_path: Path):
    path = tmp_path / "a.jpg"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="8"/></x:xmpmeta>'
    Image.new("RGB", (40, 30)).save(path, xmp=xmp)
    height, width = load_picture(path).size_hw
    assert read_stamp(path).shown_wh == (width, height) == (30, 40)


def test_broken_exif_counts_as_none(tmp_path: Path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (40, 30)).save(path, exif=b"Exif\0\0broken")
    assert read_stamp(path).orientation == 1
    assert load_picture(path).size_hw == (30, 40)


def test_an_orientation_that_there_is_not(tmp_path: Path):
    assert read_stamp(write_picture(tmp_path / "a.jpg", orientation=9)).orientation == 1


# --- masks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ALL)
def test_a_mask_is_turned_like_its_picture(tmp_path: Path, orientation: int):
    write_picture(tmp_path / "images" / "crack" / "1.jpg", (40, 30), orientation)
    write_mask(tmp_path / "masks" / "crack" / "1.png", (1, 2, 12, 9))
    (example,) = read_dataset(tmp_path / "images", masks=tmp_path / "masks").examples
    mask, ignore = load_mask(example.targets[0], example)
    assert mask.dtype == np.bool_
    assert np.array_equal(mask, turned(painted((1, 2, 12, 9), (40, 30)), orientation) > 0)
    assert mask.shape == example.size_wh[::-1]
    assert ignore is None


@pytest.mark.parametrize("orientation", SIDEWAYS)
def test_a_mask_of_the_shown_size_is_not_turned(tmp_path: Path, orientation: int):
    write_picture(tmp_path / "images" / "crack" / "1.jpg", (40, 30), orientation)
    write_mask(tmp_path / "masks" / "crack" / "1.png", (1, 2, 12, 9), (30, 40))
    dataset = read_dataset(tmp_path / "images", masks=tmp_path / "masks")
    (example,) = dataset.examples
    assert bounds(load_mask(example.targets[0], example)[0]) == (1, 2, 12, 9)
    assert dataset.notes == ()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", ALL)
def test_a_mask_with_an_orientation_of_its_own(tmp_path: Path, orientation: int, suffix: str):
    write_picture(tmp_path / "images" / "crack" / "1.jpg", (40, 30), orientation)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / "masks" / "crack" / f"1{suffix}"
    path.parent.mkdir(parents=True)
    Image.fromarray(painted((1, 2, 12, 9), (40, 30))).save(path, exif=exif)
    (example,) = read_dataset(tmp_path / "images", masks=tmp_path / "masks").examples
    mask, _ = load_mask(example.targets[0], example)
    assert np.array_equal(mask, turned(painted((1, 2, 12, 9), (40, 30)), orientation) > 0)


def test_targets_without_boxes(tmp_path: Path):
    write_picture(tmp_path / "images" / "crack" / "1.jpg")
    path = write_mask(tmp_path / "masks" / "crack" / "1.png", (1, 2, 12, 9))
    (example,) = read_dataset(tmp_path / "images", masks=tmp_path / "masks").examples
    assert example.targets == (Target(("crack",), (), (path,)),)
