from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gapcam.images import load_picture, resize_picture
from gapcam.types import PICTURE_SUFFIXES, ArgumentError, PictureError

if TYPE_CHECKING:
    from pathlib import Path
from picture_files import (
    ORIENTATION,
    PIXELS,
    STORED_FROM_UPRIGHT,
    difference,
    encode,
    png_file,
    smooth_pixels,
    with_orientation,
)

# --- sources -----------------------------------------------------------------------------------


def test_every_source_gives_the_same_pixels(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    sources = [
        (str(path), str(path)),
        (str(path), path),
        ("<bytes>", path.read_bytes()),
        ("<image>", Image.fromarray(PIXELS)),
        ("<array>", PIXELS),
    ]
    for name, source in sources:
        picture = load_picture(source)
        assert picture.name == name
        assert picture.size_hw == (30, 40)
        assert picture.notes == ()
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.flags.c_contiguous
        np.testing.assert_array_equal(picture.pixels, PIXELS)


@pytest.mark.parametrize("suffix", sorted(PICTURE_SUFFIXES))
def test_every_listed_suffix_can_be_read(suffix: str, tmp_path: Path):
    kinds = {".jfif": "JPEG", ".jpe": "JPEG", ".pnm": "PPM", ".apng": "PNG"}
    path = tmp_path / f"a{suffix}"
    image = Image.fromarray(PIXELS)
    image = image.convert("L") if suffix == ".pgm" else image
    image = image.convert("1") if suffix == ".pbm" else image
    image.save(path, kinds.get(suffix))
    picture = load_picture(path)
    assert picture.size_hw == (30, 40)
    expected = np.asarray(image.convert("RGB"))
    assert difference(picture.pixels, expected) < (12 if suffix == ".gif" else 6)


def test_a_pil_image_is_left_as_it_was(tmp_path: Path):
    data = with_orientation(PIXELS, "PNG", 6)
    (tmp_path / "a.png").write_bytes(data)
    with Image.open(tmp_path / "a.png") as image:
        picture = load_picture(image, at_least_hw=(2, 2))
        assert picture.size_hw == (40, 30)
        assert image.size == (40, 30)
        assert image.getexif()[ORIENTATION] == 6
        np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_a_pil_image_is_taken_at_the_frame_it_stands_on():
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    with Image.open(BytesIO(data)) as image:
        image.seek(1)
        assert load_picture(image).pixels[0, 0].tolist() == [0, 0, 255]
        assert image.tell() == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1)])
def test_extreme_shapes(shape: tuple[int, int]):
    pixels = smooth_pixels(*shape)
    for kind in ("PNG", "JPEG"):
        picture = load_picture(encode(Image.fromarray(pixels), kind), at_least_hw=(8, 8))
        assert picture.size_hw == shape
        assert picture.pixels.shape == (*shape, 3)
        assert resize_picture(picture.pixels, (224, 224)).shape == (224, 224, 3)


# --- orientation -------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 99),
    orientation=st.sampled_from(sorted(STORED_FROM_UPRIGHT)),
    kind=st.sampled_from(["PNG", "TIFF", "WEBP"]),
)
def test_exif_rotation_equals_numpy(
    height: int, width: int, seed: int, orientation: int, kind: str
):
    upright = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stored = STORED_FROM_UPRIGHT[orientation](upright)
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = load_picture(with_orientation(stored, kind, orientation, **options))
    assert picture.size_hw == (height, width)
    assert picture.notes == ()
    np.testing.assert_array_equal(picture.pixels, upright)


@pytest.mark.parametrize("orientation", [0, 9, 4711])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int):
    picture = load_picture(with_orientation(PIXELS, "PNG", orientation))
    np.testing.assert_array_equal(picture.pixels, PIXELS)


def test_broken_exif_is_noted_and_the_picture_shown():
    data = encode(Image.fromarray(PIXELS), "PNG", exif=b"Exif\0\0II*\0garbage, no offsets")
    picture = load_picture(data)
    np.testing.assert_array_equal(picture.pixels, PIXELS)
    assert picture.notes == ("unreadable EXIF data ignored, shown as stored",)


# --- smaller decoding --------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    asked=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    orientation=st.integers(1, 8),
)
def test_draft_is_never_smaller_than_asked(
    size: tuple[int, int], asked: tuple[int, int], orientation: int
):
    stored = STORED_FROM_UPRIGHT[orientation](smooth_pixels(*size))
    picture = load_picture(with_orientation(stored, "JPEG", orientation), at_least_hw=asked)
    assert picture.size_hw == size
    for side, original, least in zip(picture.pixels.shape[:2], size, asked, strict=True):
        assert min(original, least) <= side <= original


def test_draft_saves_pixels_and_shows_the_whole_picture():
    upright = smooth_pixels(800, 1200)
    stored = STORED_FROM_UPRIGHT[6](upright)
    data = with_orientation(stored, "JPEG", 6, quality=95)
    small = load_picture(data, at_least_hw=(100, 150))
    assert small.pixels.shape == (100, 150, 3)
    assert small.size_hw == (800, 1200)
    assert difference(small.pixels, resize_picture(upright, (100, 150))) < 3
    assert load_picture(data, at_least_hw=(101, 150)).pixels.shape == (200, 300, 3)
    assert load_picture(data, at_least_hw=(100, 301)).pixels.shape == (400, 600, 3)
    assert load_picture(data).pixels.shape == (800, 1200, 3)


def test_a_size_below_one_is_a_wrong_argument():
    with pytest.raises(ArgumentError, match=r"at_least_hw: expected two sides of 1 or more.*0"):
        load_picture(PIXELS, at_least_hw=(0, 5))
    with pytest.raises(ArgumentError, match=r"size_hw: expected two sides of 1 or more.*-1"):
        resize_picture(PIXELS, (4, -1))


# --- colours -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_modes_as_pillow_converts_them(mode: str):
    image = Image.fromarray(PIXELS).convert(mode)
    picture = load_picture(image)
    np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGB")))
    assert picture.notes == ()


def test_lab_white_is_white():
    picture = load_picture(Image.new("LAB", (2, 2), (255, 128, 128)))
    assert picture.pixels.min() > 250


def test_a_cmyk_jpeg_keeps_its_colours():
    data = encode(Image.fromarray(PIXELS).convert("CMYK"), "JPEG", quality=95)
    assert difference(load_picture(data).pixels, PIXELS) < 6


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (128, 127), (255, 0)])
def test_transparency_is_white(mode: str, alpha: int, expected: int):
    grey = mode in ("LA", "La")
    image = Image.new("LA" if grey else "RGBA", (3, 2), (0, alpha) if grey else (0, 0, 0, alpha))
    image = image.convert({"PA": "RGBA"}.get(mode, mode))
    if mode == "PA":
        image = Image.new("PA", (3, 2), (0, alpha))
        image.putpalette([0, 0, 0])
    picture = load_picture(image)
    assert np.abs(picture.pixels.astype(int) - expected).max() <= 1
    assert picture.notes == (() if alpha == 255 else ("transparent parts shown on white",))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_colour_in_a_file_is_white(mode: str):
    image = Image.new(mode, (4, 4), 0)
    if mode == "P":
        image.putpalette([9, 9, 9, 200, 0, 0])
    image.putpixel((0, 0), (200, 0, 0) if mode == "RGB" else 1)
    key = (0, 0, 0) if mode == "RGB" else 0
    picture = load_picture(encode(image, "PNG", transparency=key))
    assert picture.pixels[3, 3].tolist() == [255, 255, 255]
    assert (
        picture.pixels[0, 0].tolist()
        == {"1": [255] * 3, "L": [1] * 3, "P": [200, 0, 0], "RGB": [200, 0, 0]}[mode]
    )
    assert picture.notes == ("transparent parts shown on white",)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_by_the_full_range(kind: str):
    values = np.array([[0, 128, 129, 257], [1000, 32768, 65406, 65535]], np.uint16)
    picture = load_picture(encode(Image.fromarray(values), kind))
    expected = np.round(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(picture.pixels, np.repeat(expected[..., None], 3, axis=2))
    assert picture.notes == ("16-bit values scaled to 8",)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bit_modes(mode: str):
    values = np.array([[0, 257], [25700, 65535]])
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (2, 2), values.astype(dtype).tobytes())
    assert load_picture(image).pixels[..., 0].tolist() == [[0, 1], [100, 255]]


def test_16_bit_grey_is_turned_too():
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257
    picture = load_picture(with_orientation(values, "PNG", 6))
    np.testing.assert_array_equal(picture.pixels[..., 0], np.rot90(values, -1) // 257)


def test_16_bit_rgb_png():
    values = np.random.default_rng(0).integers(0, 65536, (5, 6, 3))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    picture = load_picture(png_file(6, 5, 16, rows))
    assert np.abs(picture.pixels - values / 257).max() <= 1.0


def test_values_without_a_fixed_range_are_refused():
    with pytest.raises(PictureError, match=r"<image>.*32-bit floats.*scale it to 0\.\.255"):
        load_picture(Image.new("F", (2, 2)))
    with pytest.raises(PictureError, match=r"<bytes>.*integers from 0 to 65536; scale it"):
        load_picture(encode(Image.fromarray(np.array([[0, 65536]], np.int32)), "TIFF"))
    with pytest.raises(PictureError, match=r"integers from -1 to 0"):
        load_picture(Image.fromarray(np.array([[0, -1]], np.int32)))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_shown_and_noted(kind: str):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    picture = load_picture(data)
    assert picture.notes == ("first of 3 frames",)
    assert (picture.pixels == (255, 0, 0)).all()


def test_the_extras_of_a_phone_picture_are_not_frames():
    image = Image.fromarray(PIXELS)
    data = encode(image, "MPO", save_all=True, append_images=[image])
    assert load_picture(data).notes == ()


# --- arrays ------------------------------------------------------------------------------------


def test_arrays_of_every_shape():
    grey = PIXELS[..., 0]
    for array in (grey, grey[..., None]):
        np.testing.assert_array_equal(load_picture(array).pixels, np.stack([grey] * 3, axis=2))
    rgba = np.dstack([PIXELS, np.full((30, 40), 255, np.uint8)])
    np.testing.assert_array_equal(load_picture(rgba).pixels, PIXELS)
    rgba[..., 3] = 0
    picture = load_picture(rgba)
    assert picture.pixels.min() == 255
    assert picture.notes == ("transparent parts shown on white",)
    assert load_picture(PIXELS).pixels is PIXELS
    flipped = load_picture(PIXELS[:, ::-1]).pixels
    assert flipped.flags.c_contiguous
    np.testing.assert_array_equal(flipped, PIXELS[:, ::-1])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5, 3)), r"uint8.*float64.*multiply by 255"),
        (np.zeros((4, 5), np.uint16), r"got uint16.*// 257"),
        (np.zeros((4, 5), bool), r"got bool.*\* 255"),
        (np.zeros((4, 5), np.int64), r"got int64.*scale it to 0\.\.255"),
        (np.zeros((3, 4, 5), np.uint8), r"\[3, 4, 5\].*transpose\(1, 2, 0\)"),
        (np.zeros((3, 4, 5), np.float32), r"\[3, 4, 5\].*transpose\(1, 2, 0\)"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"\[2, 4, 5, 3\].*one by one"),
        (np.zeros(4, np.uint8), r"\[4\].*channels last"),
        (np.zeros((4, 5, 2), np.uint8), r"\[4, 5, 2\].*channels last"),
        (np.zeros((0, 5, 3), np.uint8), r"at least one pixel.*\[0, 5, 3\]"),
    ],
)
def test_wrong_arrays(array: np.ndarray, words: str):
    with pytest.raises(PictureError, match=f"<array>: expected.*{words}"):
        load_picture(array)


@pytest.mark.parametrize("source", [None, 7, [1, 2], bytearray(b"x"), object()])
def test_other_objects_are_told_what_is_accepted(source: object):
    with pytest.raises(
        PictureError, match=r"expected a path.*bytes, a PIL image or a uint8.*got .*permute"
    ):
        load_picture(source)


# --- resizing ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    shrink=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 99),
)
def test_resize_keeps_the_mean(size: tuple[int, int], shrink: tuple[int, int], seed: int):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size[0] * shrink[0], size[1] * shrink[1], 3), dtype=np.uint8)
    # A flat frame, because the filter is cut off (and so weighs more) at the very edge.
    (rows, columns) = (2 * shrink[0], 2 * shrink[1])
    framed = np.pad(
        pixels, ((rows, rows), (columns, columns), (0, 0)), mode="constant", constant_values=128
    )
    resized = resize_picture(framed, (size[0] + 4, size[1] + 4))
    assert resized.shape == (size[0] + 4, size[1] + 4, 3)
    assert resized.dtype == np.uint8
    assert abs(resized.mean() - framed.mean()) < 0.5


def test_resize_keeps_a_ramp_on_half_pixel_centres():
    ramp = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], 3, axis=2)
    ramp = np.repeat(ramp, 12, axis=0)
    for width in (60, 40, 30):
        scale = 120 / width
        centres = (np.arange(width) + 0.5) * scale - 0.5
        row = resize_picture(ramp, (5, width))[2, :, 0].astype(float)
        np.testing.assert_allclose(row[2:-2], 2 * centres[2:-2], atol=0.51)


def test_resize_is_symmetric():
    resized = resize_picture(PIXELS, (13, 17))
    flipped = resize_picture(np.ascontiguousarray(PIXELS[::-1, ::-1]), (13, 17))
    assert np.abs(resized.astype(int) - flipped[::-1, ::-1].astype(int)).max() <= 1


def test_resize_to_the_same_size_returns_the_input():
    assert resize_picture(PIXELS, (30, 40)) is PIXELS
    view = PIXELS[:, ::-1]
    resized = resize_picture(view, (30, 40))
    assert resized.flags.c_contiguous
    np.testing.assert_array_equal(resized, view)
