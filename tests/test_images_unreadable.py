from __future__ import annotations

import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gapcam.images import Limits, load_picture
from gapcam.types import Picture, PictureError

if TYPE_CHECKING:
    from pathlib import Path
from picture_files import PIXELS, as_plain_user, encode, open_folder, png_file, with_orientation

# --- files that cannot be read -----------------------------------------------------------------


def test_files_that_are_not_pictures(tmp_path: Path):
    (tmp_path / "text.jpg").write_text("hello, world")
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    cases = {
        "text.jpg": r"expected a picture \(JPEG, PNG.*starts with b'hello, world'.*convert it",
        "empty.jpg": r"empty \(0 bytes\)",
        "missing.jpg": r"no such file; check the path",
        "text.jpg/x.jpg": r"no such file",
        "pipe.jpg": r"pipe or device; save it",
        "zero\0.jpg": r"cannot be read.*null byte",
        "n" * 300: r"cannot be read.*too long",
    }
    for name, words in cases.items():
        with pytest.raises(PictureError, match=words) as caught:
            load_picture(tmp_path / name)
        assert name in str(caught.value) or "\0" in name
    with pytest.raises(PictureError, match=rf"{re.escape(str(tmp_path))}: .*this is a folder"):
        load_picture(str(tmp_path))
    with pytest.raises(PictureError, match=r"empty \(0 bytes\)"):
        load_picture(b"")
    with pytest.raises(PictureError, match="''"):
        load_picture("")


def test_programs_are_never_started_for_a_picture():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(PictureError, match="expected a picture"):
        load_picture(eps)


def test_no_permission():
    with open_folder() as folder:
        path = folder / "a.png"
        Image.fromarray(PIXELS).save(path)
        path.chmod(0)
        with as_plain_user(), pytest.raises(PictureError, match=r"a\.png: no permission.*change"):
            load_picture(path)


def test_too_large_is_refused_before_it_is_read(tmp_path: Path):
    with pytest.raises(PictureError, match=r"<bytes>: .*too many pixels") as caught:
        load_picture(png_file(50_000, 50_000, 8, b""))
    assert caught.value.__cause__ is not None
    with pytest.raises(PictureError, match=r"at most 1,199 pixels.*40x30.*make it smaller"):
        load_picture(encode(Image.fromarray(PIXELS), "PNG"), limits=Limits(max_pixels=1199))
    with pytest.raises(PictureError, match=r"at most 1,199 pixels"):
        load_picture(Image.fromarray(PIXELS), limits=Limits(max_pixels=1199))
    with (tmp_path / "big.jpg").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(PictureError, match=r"big\.jpg.*at most 536,870,912 bytes.*1,099,511,627"):
        load_picture(tmp_path / "big.jpg")
    with pytest.raises(PictureError, match=r"at most 9 bytes, it has 10; "):
        load_picture(b"0123456789", limits=Limits(max_bytes=9))
    assert load_picture(PIXELS, limits=Limits(max_pixels=1)).size_hw == (30, 40)


def test_an_empty_or_closed_pil_image():
    with pytest.raises(PictureError, match="at least one pixel"):
        load_picture(Image.new("RGB", (0, 4)))
    image = Image.fromarray(PIXELS)
    image.close()
    with pytest.raises(PictureError, match=r"<image>: .*broken"):
        load_picture(image)


def load_or_refuse(data: bytes) -> Picture | None:
    try:
        return load_picture(data, limits=Limits(max_pixels=10**6))
    except PictureError:
        return None


def whole_files() -> dict[str, bytes]:
    image = Image.fromarray(PIXELS)
    files = {kind: encode(image, kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "PPM", "AVIF")}
    files["TIFF"] = encode(image, "TIFF", compression="tiff_lzw")
    files["raw TIFF"] = encode(image, "TIFF")
    files["WEBP"] = encode(image, "WEBP", lossless=True)
    files["progressive"] = encode(image, "JPEG", progressive=True)
    files["exif"] = with_orientation(PIXELS, "JPEG", 6)
    frames = [Image.new("P", (8, 6), colour) for colour in (1, 2)]
    files["animation"] = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    return files


WHOLE = whole_files()


@pytest.mark.parametrize("kind", sorted(WHOLE))
@pytest.mark.parametrize("strict", [True, False])
def test_a_file_cut_short_is_an_error_or_still_whole(kind: str, strict: bool):
    data = WHOLE[kind]
    whole = load_picture(data).pixels
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        for length in range(1, len(data), 7):
            picture = load_or_refuse(data[:length])
            refused += picture is None
            assert picture is None or np.array_equal(picture.pixels, whole)
    assert refused > len(data) // 7 * 0.9 or kind == "animation"


def test_a_file_cut_short_says_so():
    for kind in ("JPEG", "PNG"):
        data = WHOLE[kind]
        with pytest.raises(PictureError, match=r"broken or cut short.*again") as caught:
            load_picture(data[: len(data) // 2 + 300])
        assert caught.value.__cause__ is not None


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(
        st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=4)), max_size=4
    ),
    cut=st.none() | st.integers(0, 5000),
    strict=st.booleans(),
)
def test_mutated_files_raise_nothing_but_picture_errors(
    kind: str, changes: list[tuple[int, bytes]], cut: int | None, strict: bool
):
    data = bytearray(WHOLE[kind])
    for place, new in changes:
        start = place % len(data)
        data[start : start + len(new)] = new
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        picture = load_or_refuse(bytes(data[:cut]))
    assert picture is None or picture.pixels.shape == (*picture.size_hw, 3)


@settings(max_examples=100, deadline=None)
@given(
    start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0"]),
    rest=st.binary(max_size=200),
)
def test_random_bytes_raise_nothing_but_picture_errors(start: bytes, rest: bytes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_or_refuse(start + rest)


def test_threads_agree():
    data = WHOLE["exif"]
    expected = load_picture(data, at_least_hw=(10, 10)).pixels
    with ThreadPoolExecutor(4) as threads:
        for picture in threads.map(lambda d: load_picture(d, at_least_hw=(10, 10)), [data] * 40):
            np.testing.assert_array_equal(picture.pixels, expected)
