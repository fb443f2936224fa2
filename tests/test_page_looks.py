"""The page's looks, names, weight and the files that it gives, against a real server."""

from __future__ import annotations

import base64
import io
import json
import time

import numpy as np
import pytest
from PIL import Image, ImageOps

from gapcam.formats import read_records, to_record, write_coco
from gapcam.page import page_files
from page_driving import (
    choose,
    open_page,
    pixels,
    press_on,
    shown_box,
    slide,
    where,
)
from web_site import needs_browser

pytest_plugins = ["page_fixtures"]
pytestmark = needs_browser


def test_everything_that_can_be_used_has_a_name(with_cat):
    page = with_cat
    unnamed = page.run(
        """[...document.querySelectorAll("button, input, [tabindex='0']")].filter((e) =>
            e.checkVisibility() && !(e.ariaLabel || e.labels?.length || e.innerText.trim()
            || e.getAttribute("aria-labelledby"))).map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    assert page.run("document.querySelector('#message').role") == "status"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_reach_wcag_aa(quiet_browser, page_server, cat, scheme):
    page = open_page(quiet_browser, page_server, scheme=scheme)
    choose(page, cat)
    names = ["ground", "panel", "sunken", "ink", "soft", "accent", "on-accent", "wash", "good"]
    names += ["fair", "fault", "strong"]
    colours = page.run(
        f"""Object.fromEntries({names}.map((name) =>
            [name, getComputedStyle(document.documentElement).getPropertyValue(`--${{name}}`)]))"""
    )
    grounds = ("ground", "panel", "sunken")
    texts_on = [(name, on) for name in ("ink", "soft", "accent", "fault") for on in grounds]
    texts_on += [("good", "panel"), ("good", "ground"), ("fair", "panel"), ("fair", "ground")]
    texts_on += [("on-accent", "accent"), ("ink", "wash"), ("accent", "wash"), ("soft", "wash")]
    for name, on in texts_on:
        assert contrast(colours[name], colours[on]) >= 4.5, (name, on)
    for on in grounds:
        assert contrast(colours["strong"], colours[on]) >= 3, on


def contrast(one, other):
    """The ratio of WCAG 2.2, 1.4.3."""

    def light(colour):
        channels = np.array([int(colour.strip()[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("width", "scheme", "light"),
    [(320, "light", True), (375, "dark", False), (800, "dark", False), (1280, "light", True)],
)
def test_no_width_scrolls_sideways(quiet_browser, page_server, cat, scheme, light, width):
    page = open_page(quiet_browser, page_server, width=width, height=800, scheme=scheme)
    assert page.run("document.documentElement.scrollWidth") == width
    choose(page, cat)
    press_on(page, "label:has(#compare)")
    assert page.run("document.documentElement.scrollWidth") == width
    corner = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))[-4:, :4]
    assert (corner.mean() > 128) == light


def test_the_picture_stays_in_sight_on_a_phone(quiet_browser, page_server, cat):
    page = open_page(quiet_browser, page_server, width=375, height=812)
    choose(page, cat)
    page.run("window.scrollTo(0, 500)")
    _, top, _, height = page.run(
        "(({ x, y, width, height }) => [x, y, width, height])"
        "(document.querySelector('.frame').getBoundingClientRect())"
    )
    assert top >= 0
    assert top + height < 0.5 * 812


@pytest.mark.parametrize("size", [(1600, 90), (60, 1500), (3, 2)])
def test_pictures_of_any_shape_fit(page, tmp_path, size):
    path = tmp_path / "odd shape.png"
    Image.effect_noise(size, 80).convert("RGB").save(path)
    choose(page, path)
    x, _, width, height = where(page, ".frame")
    assert x >= 0
    assert x + width <= 1280
    assert width / height == pytest.approx(size[0] / size[1], rel=0.1)
    assert page.run("document.documentElement.scrollWidth") == 1280


def test_a_turned_photograph_is_shown_and_boxed_upright(page, localizer, cat, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    with Image.open(cat.with_name("coffee.jpg")) as image:
        image.save(path, exif=exif, quality=95)
    choose(page, path)
    found = localizer(path)
    _, _, width, height = where(page, ".frame")
    assert height / width == pytest.approx(found.size_hw[0] / found.size_hw[1], rel=0.01)
    assert height > width
    assert shown_box(page) == pytest.approx(found.detections[0].box_xyxy, abs=1)
    below = pixels(page, "document.querySelector('.below')")[..., :3]
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).resize(below.shape[1::-1])
    assert np.abs(below.astype(int) - np.asarray(upright)).mean() < 6


def test_the_page_weighs_less_than_200_kb_before_the_first_picture(quiet_browser, page_server):
    quiet_browser.run("performance.clearResourceTimings()")
    page = open_page(quiet_browser, page_server)
    loaded = page.run(
        """(async () => {
            const urls = performance.getEntriesByType("resource").map(({ name }) => name);
            return Promise.all([location.href, ...urls].map(async (url) =>
                [url, (await (await fetch(url)).arrayBuffer()).byteLength]));
        })()"""
    )
    names = {url.rpartition("/")[2] for url, _ in loaded if not url.startswith("data:")}
    assert {"app.js", "page.css", "model"} <= names
    assert sum(size for _, size in loaded) < 200_000
    assert sum(path.stat().st_size for path in page_files()) < 200_000


def test_the_small_samples_show_the_samples(page, cat):
    names = page.run("[...document.querySelectorAll('#samples img')].map((e) => `${e.alt}.jpg`)")
    assert names == sorted(path.name for path in cat.parent.glob("*.jpg"))
    urls = page.run("[...document.querySelectorAll('#samples img')].map((e) => e.src)")
    for name, url in zip(names, urls, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as small:
            shown = np.asarray(small.convert("RGB"), int)
        with Image.open(cat.with_name(name)) as sample:
            fitted = ImageOps.fit(sample.convert("RGB"), shown.shape[1::-1])
        assert np.abs(shown - np.asarray(fitted)).mean() < 8


def test_the_downloads_are_python_s(with_cat, localizer, cat, tmp_path):
    page = with_cat
    page.save_downloads(tmp_path)
    choose(page, cat.with_name("coffee.jpg"))
    for kind in ("json", "coco", "png"):
        press_on(page, f"#save-{kind}")
    names = {"coffee.json", "annotations.json", "coffee_cam.png"}
    end = time.monotonic() + 20
    while {path.name for path in tmp_path.iterdir()} != names:
        assert time.monotonic() < end, list(tmp_path.iterdir())
        time.sleep(0.05)
    ours = [to_record(localizer(cat.with_name(name))) for name in ("cat.jpg", "coffee.jpg")]
    for record in ours:
        record["path"] = record["path"].rpartition("/")[2]
    assert_alike(list(read_records(tmp_path / "coffee.json")), [ours[1]])
    folder = tmp_path / "ours"
    folder.mkdir()
    write_coco(ours, localizer.card.labels, folder / "coco.json")
    expected = json.loads((folder / "coco.json").read_text("utf-8"))
    assert_alike(json.loads((tmp_path / "annotations.json").read_text("utf-8")), expected)
    overlay, original = opened(tmp_path / "coffee_cam.png"), opened(cat.with_name("coffee.jpg"))
    assert overlay.shape == original.shape
    x0, y0, x1, y1 = (round(side) for side in ours[1]["detections"][0]["box"])
    change = np.abs(overlay.astype(int) - original).mean(-1)
    outside = np.ones(change.shape, bool)
    outside[max(y0 - 40, 0) : y1 + 8, max(x0 - 8, 0) : x1 + 8] = False
    assert change[outside].mean() < 0.3 * change[y0:y1, x0:x1].mean()


def opened(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def assert_alike(theirs, ours):
    """Equal, but for rounding: boxes to a pixel, areas to the pixels along their sides."""
    assert type(theirs) is type(ours) or {type(theirs), type(ours)} == {int, float}
    if isinstance(ours, dict):
        assert set(theirs) == set(ours)
        for key, value in ours.items():
            if key == "area":
                assert theirs[key] == pytest.approx(value, rel=0.02)
            else:
                assert_alike(theirs[key], value)
    elif isinstance(ours, list):
        assert len(theirs) == len(ours)
        for one, other in zip(theirs, ours, strict=True):
            assert_alike(one, other)
    elif isinstance(ours, float):
        assert theirs == pytest.approx(ours, abs=1)
    else:
        assert theirs == ours


def test_a_record_says_that_its_threshold_is_another(with_cat, tmp_path):
    page = with_cat
    page.save_downloads(tmp_path)
    slide(page, "#threshold", 0.3)
    press_on(page, "#save-json")
    end = time.monotonic() + 20
    while not (tmp_path / "cat.json").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    (record,) = read_records(tmp_path / "cat.json")
    assert record["notes"] == ["cut at 0.3 instead of the recipe's 0.48"]
