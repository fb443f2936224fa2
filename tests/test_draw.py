from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from PIL import Image

from gapcam import draw
from gapcam.draw import draw_localization
from gapcam.sheet import contact_sheet, contact_sheet_from_tiles, tile_image
from gapcam.types import (
    ArgumentError,
    Box,
    ByteArray,
    Detection,
    Failure,
    FloatArray,
    Localization,
    PictureError,
)

if TYPE_CHECKING:
    from pathlib import Path

PAPER, INK = (255, 255, 255), (24, 24, 27)
BARE = {"labels": False, "scale": False}
COLD = np.zeros((7, 7), np.float32)


def noise(height: int, width: int) -> ByteArray:
    return np.random.default_rng(0).integers(30, 220, (height, width, 3), np.uint8)


def detection(
    box: Box | None, heat: FloatArray = COLD, *, label: str = "tabby", class_id: int = 1
) -> Detection:
    size = (0, 0)
    peak = None if box is None else (1.0, 1.0)
    return Detection(
        label, class_id, 0.83, box, peak, heat, heat, 0.3, size, lambda: np.zeros(size, bool)
    )


def localization(pixels: ByteArray, *detections: Detection, name: str = "cat.jpg") -> Localization:
    size = (pixels.shape[0], pixels.shape[1])
    return Localization(name, size, detections, "m", "r", (), pixels)


def drawn(found: Localization, **options: object) -> ByteArray:
    return np.asarray(draw_localization(found, **options))  # type: ignore[arg-type]


def test_cold_parts_are_the_photograph() -> None:
    pixels = noise(400, 640)
    heat = np.zeros((10, 10), np.float32)
    heat[:, 7:] = 1
    before = pixels.copy()
    result = drawn(localization(pixels, detection((448, 0, 640, 400), heat)), boxes=False, **BARE)
    assert result.shape == pixels.shape
    assert np.array_equal(result[:, : 5 * 64], pixels[:, : 5 * 64])
    assert (result[:, 9 * 64 :] != pixels[:, 9 * 64 :]).any(axis=2).mean() > 0.95
    assert np.array_equal(pixels, before)


def test_heat_is_blended_by_opacity_and_colour() -> None:
    pixels, full = noise(320, 320), np.ones((4, 4), np.float32)
    found = localization(pixels, detection((0, 0, 320, 320), full))
    hot = cv2.applyColorMap(np.full((1, 1), 255, np.uint8), cv2.COLORMAP_INFERNO)[0, 0, ::-1]
    for opacity in (0.0, 0.25, 1.0):
        expected = np.rint(pixels * (1 - opacity) + hot * opacity)
        result = drawn(found, boxes=False, opacity=opacity, **BARE)
        assert np.abs(result - expected).max() <= 1


def test_heat_lies_where_its_cell_lies() -> None:
    heat = np.zeros((8, 8), np.float32)
    heat[2, 5] = 1
    result = drawn(
        localization(np.zeros((400, 800, 3), np.uint8), detection((0, 0, 9, 9), heat)),
        boxes=False,
        **BARE,
    )
    y, x = np.argwhere(result.sum(axis=2) == result.sum(axis=2).max()).mean(axis=0) + 0.5
    assert (y, x) == pytest.approx((2.5 * 50, 5.5 * 100), abs=0.5)


@pytest.mark.parametrize("box", [(100, 50, 300, 250), (0, 0, 640, 400), (639, 399, 640, 400)])
def test_box_lines_lie_at_the_box_edge(box: Box) -> None:
    x0, y0, x1, y1 = (int(v) for v in box)
    result = drawn(localization(noise(400, 640), detection(box)), **BARE)
    light = (result == PAPER).all(axis=2)
    assert light[y0, x0:x1].all()
    assert light[y1 - 1, x0:x1].all()
    assert light[y0:y1, x0].all()
    assert light[y0:y1, x1 - 1].all()
    assert not light[:y0].any()
    assert not light[:, :x0].any()
    assert not light[y1:].any()
    assert not light[:, x1:].any()


def test_box_line_is_light_between_dark_lines_and_leaves_the_inside() -> None:
    pixels = noise(400, 640)
    result = drawn(localization(pixels, detection((100, 50, 300, 250))), **BARE)
    row = [tuple(int(v) for v in result[150, x]) for x in range(98, 104)]
    assert row[1:5] == [INK, PAPER, PAPER, INK]
    assert np.array_equal(result[60:240, 110:290], pixels[60:240, 110:290])
    assert np.array_equal(result[:40], pixels[:40])


def test_all_boxes_of_the_shown_class_and_no_other() -> None:
    boxes: list[Box] = [(20, 20, 120, 120), (200, 200, 300, 300), (400, 100, 500, 200)]
    found = localization(
        noise(400, 640),
        detection(boxes[0]),
        detection(boxes[2], class_id=2),
        detection(boxes[1]),
    )
    light = (drawn(found, **BARE) == PAPER).all(axis=2)
    assert light[20, 20]
    assert light[200, 200]
    assert not light[100, 400]
    assert (drawn(found, index=1, **BARE) == PAPER).all(axis=2)[100, 400]


def test_box_scales_with_the_canvas() -> None:
    result = drawn(localization(noise(800, 1600), detection((400, 200, 800, 600))), max_side=400)
    assert result.shape == (200, 400, 3)
    light = (result == PAPER).all(axis=2)
    assert light[60:150, 100].all()
    assert light[149, 100:200].all()


@pytest.mark.parametrize(
    ("size_hw", "max_side", "expected_wh"),
    [
        ((400, 640), None, (640, 400)),
        ((48, 64), None, (448, 336)),
        ((32, 32), None, (320, 320)),
        ((1, 1), None, (320, 320)),
        ((48, 64), 200, (192, 144)),
        ((20, 4000), None, (4000, 20)),
        ((3, 4000), 1000, (1000, 1)),
        ((400, 640), 64, (64, 40)),
        ((400, 640), 1, (1, 1)),
    ],
)
def test_canvas_size(
    size_hw: tuple[int, int], max_side: int | None, expected_wh: tuple[int, int]
) -> None:
    found = localization(noise(*size_hw), detection((0, 0, size_hw[1], size_hw[0])))
    assert draw_localization(found, max_side=max_side).size == expected_wh


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 4000), (4000, 3), (20, 900), (900, 20), (64, 48)])
@pytest.mark.parametrize("label", ["tabby", "x" * 3000, "日本\n\ud800 é", ""])
def test_odd_sizes_and_labels_are_drawn(size_hw: tuple[int, int], label: str) -> None:
    height, width = size_hw
    heat = np.eye(7, dtype=np.float32)
    box = (width * 0.1, height * 0.1, width * 0.9, height * 0.9)
    some = localization(noise(*size_hw), detection(box, heat, label=label))
    none = localization(noise(*size_hw), detection(None, label=label))
    for found in (some, none, localization(noise(*size_hw))):
        image = draw_localization(found)
        assert image.mode == "RGB"
        assert image.width >= width


def test_tag_stays_inside_the_picture() -> None:
    pixels = np.full((400, 640, 3), 100, np.uint8)
    for box in [(600.0, 390.0, 640.0, 400.0), (0.0, 0.0, 640.0, 400.0), (630.0, 0.0, 640.0, 9.0)]:
        found = localization(pixels, detection(box, label="a very long label " * 9))
        plain = drawn(found, **BARE)
        changed = drawn(found, scale=False) != plain
        rows, columns = changed.any(axis=(1, 2)), changed.any(axis=(0, 2))
        assert 18 < rows.sum() < 40
        assert 300 < columns.sum() <= 640


def test_no_positive_evidence_leaves_the_photo_and_says_so() -> None:
    pixels = noise(400, 640)
    found = localization(pixels, detection(None, np.ones((7, 7), np.float32)))
    assert np.array_equal(drawn(found, labels=False), pixels)
    result = drawn(found)
    assert np.array_equal(result[60:], pixels[60:])
    assert (result[:60] != pixels[:60]).any()
    text = draw.tag_text(found.detections[0], 0)
    assert "".join(text) == "tabby 83 %: no positive evidence"


def test_no_detections_gives_the_photo_and_a_note() -> None:
    pixels = noise(400, 640)
    result = drawn(localization(pixels))
    assert np.array_equal(result[60:], pixels[60:])
    assert (result[:60] != pixels[:60]).any()
    assert np.array_equal(drawn(localization(pixels), labels=False), pixels)


def test_scale_hides_no_box_where_a_corner_is_free() -> None:
    pixels = np.full((400, 640, 3), 100, np.uint8)
    found = localization(pixels, detection((300, 200, 640, 400)))
    changed = (drawn(found) != drawn(found, scale=False)).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert rows.min() > 300
    assert columns.max() < 300


@pytest.mark.parametrize(
    ("score", "text"),
    [(0, "0 %"), (0.001, "<1 %"), (0.83, "83 %"), (0.994, "99 %"), (0.999, ">99 %"), (1, "100 %")],
)
def test_scores_are_not_rounded_to_certainty(score: float, text: str) -> None:
    assert draw._percent(score) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": 1}, "index (of cat.jpg): expected 0 to 0, got 1; give a value in that range"),
        ({"index": -1}, "index (of cat.jpg): expected 0 to 0, got -1; give a value in that range"),
        ({"opacity": 1.5}, "opacity: expected 0 to 1, got 1.5; give a value in that range"),
        ({"max_side": 0}, "max_side: expected at least 1, got 0; give a value in that range"),
    ],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        drawn(localization(noise(40, 40), detection((0, 0, 9, 9))), **options)
    assert str(caught.value) == message


def test_a_picture_that_changed_is_refused() -> None:
    found = Localization("cat.jpg", (40, 50), (), "m", "r", (), noise(40, 40))
    with pytest.raises(PictureError) as caught:
        draw_localization(found)
    assert str(caught.value) == (
        "cat.jpg: expected 50x40 pixels as when it was localized, got 40x40; localize it again"
    )


def test_draw_method_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    pixels = noise(400, 640)
    Image.fromarray(pixels).save(path)
    found = Localization(str(path), (400, 640), (), "m", "r", (), path)
    assert np.array_equal(np.asarray(found.draw(labels=False)), pixels)


def test_tiles_have_one_size() -> None:
    sizes = {
        tile_image(item, 96).size
        for item in (
            localization(noise(40, 60), detection((0, 0, 9, 9))),
            localization(noise(60, 3), detection(None)),
            localization(noise(6, 3)),
            Failure("broken.jpg", PictureError("broken.jpg: cut short " + "w" * 400)),
        )
    }
    assert len(sizes) == 1
    assert next(iter(sizes))[0] == 96


def test_a_picture_that_is_gone_gives_the_failure_tile(tmp_path: Path) -> None:
    gone = Localization("gone.jpg", (40, 40), (), "m", "r", (), tmp_path / "gone.jpg")
    tile = np.asarray(tile_image(gone, 128))
    assert tuple(tile[2, 2]) == (228, 228, 231)


def test_contact_sheet_counts_and_streams() -> None:
    live = 0

    def stream() -> object:
        nonlocal live
        for number in range(9):
            live = number
            yield localization(noise(40, 60), name=f"{number}.jpg")

    sheet = contact_sheet(stream(), tile=64, columns=2, max_tiles=4)  # type: ignore[arg-type]
    assert live == 8
    whole = contact_sheet(
        [localization(noise(40, 60), name=f"{number}.jpg") for number in range(4)],
        tile=64,
        columns=2,
    )
    assert sheet.width == whole.width == 2 * (64 + 4) + 4
    assert sheet.height > whole.height
    note = np.asarray(sheet)[whole.height - 2 :]
    assert (note != 255).any()


def test_sheet_from_tiles_places_every_tile() -> None:
    tiles = [Image.new("RGB", (64, 80), (number, 0, 0)) for number in range(7)]
    sheet = np.asarray(contact_sheet_from_tiles(tiles, columns=3))
    for number in range(7):
        row, column = divmod(number, 3)
        corner = sheet[4 + row * 84, 4 + column * 68]
        assert tuple(corner) == (number, 0, 0)
    assert sheet.shape == (3 * 84 + 4, 3 * 68 + 4, 3)


def test_empty_sheet_says_so() -> None:
    assert (np.asarray(contact_sheet([])) != 255).any()


@pytest.mark.parametrize("name", ["columns", "max_tiles", "tile"])
def test_bad_sheet_options(name: str) -> None:
    least = 32 if name == "tile" else 1
    with pytest.raises(ArgumentError) as caught:
        contact_sheet([localization(noise(4, 4))], **{name: 0})
    assert str(caught.value) == (
        f"{name}: expected at least {least}, got 0; give a value in that range"
    )
