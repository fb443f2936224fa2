"""The page of `gapcam serve`, used as people do, in a real browser, against a real server."""

from __future__ import annotations

import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from gapcam.boxes import find_regions, scale_box
from page_driving import (
    choose,
    drawn,
    open_page,
    press_on,
    seen,
    shown_box,
    slide,
    text,
    texts,
    where,
)
from web_site import needs_browser

pytest_plugins = ["page_fixtures"]
pytestmark = needs_browser

TAB, DELETE, HOME, END = 9, 46, 36, 35


def test_a_dropped_picture_shows_its_box_in_two_seconds(page, localizer, cat):
    x, y, width, height = where(page, "#drop")
    start = time.monotonic()
    page.drop_files(x + width / 2, y + height / 2, cat)
    page.wait_for("!document.querySelector('#side').hidden", value=True)
    assert time.monotonic() - start < 2
    found = localizer(cat).detections
    assert texts(page, "#classes b") == [d.label for d in found]
    assert shown_box(page) == pytest.approx(found[0].box_xyxy, abs=1)
    assert text(page, "figcaption b") == found[0].label
    assert drawn(page)[..., 3].any()


def test_hovering_shows_a_class_at_once_and_leaving_the_chosen_one(with_cat, localizer, cat):
    page, found = with_cat, localizer(cat).detections
    before = drawn(page)
    x, y, width, height = where(page, "#classes li:nth-child(4)")
    page.move(x + width / 2, y + height / 2)
    page.wait_for("document.querySelector('figcaption b').innerText", found[3].label)
    assert shown_box(page) == pytest.approx(found[3].box_xyxy, abs=1)
    assert not np.array_equal(drawn(page), before)
    page.move(5, 5)
    page.wait_for("document.querySelector('figcaption b').innerText", found[0].label)
    assert np.array_equal(drawn(page), before)


def test_a_redraw_takes_less_than_a_frame(quiet_browser, page_server, cat):
    page = open_page(quiet_browser, page_server, width=1600, height=1300)
    choose(page, cat)
    took = page.run(
        """(async () => {
            const rows = [...document.querySelectorAll("#classes li")];
            const took = [];
            for (let i = 0; i < 60; i++) {
                const start = performance.now();
                const event = new PointerEvent("pointerover", { bubbles: true });
                rows[i % rows.length].dispatchEvent(event);
                took.push(performance.now() - start);
                await new Promise(requestAnimationFrame);
            }
            return took.sort((a, b) => a - b);
        })()"""
    )
    assert page.run("document.querySelector('.above').width") > 900
    assert took[len(took) // 2] < 16


@pytest.mark.parametrize("threshold", [0.2, 0.62])
def test_the_threshold_moves_the_box_live(with_cat, localizer, cat, threshold):
    page = with_cat
    detection = localizer(cat).detections[0]
    slide(page, "#threshold", threshold)
    recipe = replace(localizer.recipe, threshold=threshold)
    region = find_regions(detection.heat, recipe)[0]
    expected = scale_box(region.box_xyxy, detection.heat.shape, detection.size_hw)
    assert shown_box(page) == pytest.approx(expected, abs=1)
    assert text(page, "#threshold-value") == f"{100 * threshold:.0f} %"
    press_on(page, "#reset")
    assert shown_box(page) == pytest.approx(detection.box_xyxy, abs=1)
    assert text(page, "#threshold-value") == "48 %"
    assert page.run("document.querySelector('#reset').disabled")


def test_opacity_and_switches_decide_what_is_drawn(with_cat):
    page = with_cat
    full = drawn(page)
    slide(page, "#opacity", 0.2)
    assert drawn(page)[..., 3].astype(int).sum() < full[..., 3].astype(int).sum()
    for name in ("heat", "box"):
        press_on(page, f"label:has(#show-{name})")
    assert not drawn(page).any()


def test_the_outline_is_the_border_of_the_mask(with_cat, localizer, cat):
    page = with_cat
    for name in ("heat", "box", "outline"):
        press_on(page, f"label:has(#show-{name})")
    white = (drawn(page) > 128).all(-1)
    mask = Image.fromarray(localizer(cat).detections[0].mask).resize(white.shape[::-1])
    inside = np.asarray(mask, np.uint8)
    border = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    border[[0, -1]] |= inside[[0, -1]] > 0  # the picture's own border closes it
    border[:, [0, -1]] |= inside[:, [0, -1]] > 0
    for one, other in ((white, border), (border, white)):
        distance = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, 5)
        assert one.any()
        assert distance[one].max() < 5


def test_the_heat_on_the_canvas_is_the_heat_of_the_library(with_cat, localizer, cat):
    page = with_cat
    press_on(page, "label:has(#show-box)")
    alpha = drawn(page)[..., 3] / 255
    heat = localizer(cat).detections[0].heat
    grid = np.asarray(Image.fromarray(heat).resize(alpha.shape[::-1], Image.Resampling.BILINEAR))
    assert np.abs(alpha - 0.7 * grid**1.5).max() < 0.03


def test_any_class_is_found_by_a_name_and_shown_where_it_would_be(with_cat, localizer, cat):
    page = with_cat
    press_on(page, "#query")
    page.type_text("no such thing")
    assert texts(page, "#matches b") == []
    assert text(page, "#matches") == "No class has that name."
    page.run("document.querySelector('#query').value = ''")
    page.type_text("unicycle")
    assert page.run("document.querySelector('#query').ariaExpanded") == "true"
    page.press("ArrowDown")
    page.wait_for("document.querySelector('figcaption b').innerText", "unicycle")
    active = page.run("document.querySelector('#query').getAttribute('aria-activedescendant')")
    assert page.run(f"document.getElementById({active!r}).ariaSelected") == "true"
    page.press("Enter")
    expected = localizer(cat, classes=["unicycle"]).detections[0]
    assert shown_box(page) == pytest.approx(expected.box_xyxy, abs=1)
    assert texts(page, "#classes b")[-1].startswith("unicycle #")
    assert page.run("document.querySelector('#matches').hidden")


def test_a_class_is_found_by_its_other_names(with_cat):
    page = with_cat
    press_on(page, "#query")
    page.type_text("Carassius")
    assert texts(page, "#matches b") == ["goldfish Carassius auratus"]
    bare = """import("/search.js").then(({ findClasses, makeIndex }) =>
        findClasses(makeIndex({ labels: ["Crème brûlée"] }), "creme BRULEE").length)"""
    assert page.run(bare) == 1
    page.press("Escape")
    assert page.run("document.querySelector('#matches').hidden")


def test_a_click_asks_what_is_strongest_there(with_cat, localizer, cat):
    page = with_cat
    x, y, width, height = where(page, ".frame")
    u, v = 0.75, 0.4
    page.click(x + u * width, y + v * height)
    picture = localizer.read(cat)
    maps = localizer.engine.run_maps(picture.pixels[np.newaxis], np.arange(1000)).maps[0]
    column, row = u * 7 - 0.5, v * 7 - 0.5
    left, top, a, b = int(column), int(row), column % 1, row % 1
    (p, q), (r, s) = maps[:, top : top + 2, left : left + 2].transpose(1, 2, 0)
    there = (1 - b) * ((1 - a) * p + a * q) + b * ((1 - a) * r + a * s)
    best = np.argsort(-there)[:6]
    assert texts(page, "#point-classes b") == [localizer.card.labels[i] for i in best]
    said = [float(number.replace("−", "-")) for number in texts(page, "#point-classes span")]
    assert said == pytest.approx(there[best], abs=0.1)
    assert "logit" in text(page, "#point-note")
    press_on(page, "#point-classes li:nth-child(2)")
    assert text(page, "figcaption b") == localizer.card.labels[best[1]]
    press_on(page, "#unpoint")
    assert page.run("document.querySelector('#point').hidden")


def test_two_classes_side_by_side_move_together(with_cat, localizer, cat):
    page, found = with_cat, localizer(cat).detections
    press_on(page, "label:has(#compare)")
    assert texts(page, "figcaption b") == [found[0].label, found[1].label]
    press_on(page, "#classes li:nth-child(4)")  # the second view is the active one
    assert texts(page, "figcaption b") == [found[0].label, found[3].label]
    assert texts(page, "#classes em:not([hidden])") == ["A", "B"]
    tops = "[...document.querySelectorAll('.pane')].map((e) => e.getBoundingClientRect().top)"
    page.run("document.querySelector('.pane .words').textContent = 'a long caption '.repeat(9)")
    assert len(set(page.run(tops))) == 1
    press_on(page, ".letter")
    press_on(page, "#classes li:nth-child(3)")
    assert texts(page, "figcaption b") == [found[2].label, found[3].label]
    before = [drawn(page, index) for index in (0, 1)]
    slide(page, "#threshold", 0.7)
    x, y, width, height = where(page, ".frame")
    page.click(x + width / 2, y + height / 2)
    for index in (0, 1):
        assert not np.array_equal(drawn(page, index), before[index])
    press_on(page, "label:has(#compare)")
    assert texts(page, "figcaption b")[0] == found[2].label
    assert page.run("document.querySelectorAll('.pane')[1].hidden")


def test_the_page_says_whether_maps_are_exact_and_where_pictures_go(with_cat, localizer, cat):
    page = with_cat
    assert "Exact maps" in texts(page, "#badges li")
    assert "Your pictures: sent to this server" in texts(page, "#badges li")
    mean, bias, both, logit = [float(s.split("\n")[1]) for s in texts(page, "#sum > div")]
    class_id = localizer(cat).detections[0].class_id
    out = localizer.engine.run_maps(localizer.read(cat).pixels[np.newaxis], np.array([class_id]))
    assert mean == pytest.approx(out.maps.mean(), abs=0.006)
    assert bias == pytest.approx(localizer.engine.bias[class_id], abs=0.006)
    assert both == pytest.approx(logit, abs=0.011)
    assert logit == pytest.approx(out.logits[0, class_id], abs=0.006)
    assert text(page, "#verdict").startswith("Exact: ")
    page.run("document.querySelector('details').open = true")
    assert text(page, "#proof").startswith("efficientnet-lite0: class maps are exact.")


def test_pictures_make_a_strip(page, localizer, cat):
    names = ("cat.jpg", "coffee.jpg", "rocket.jpg")
    for name in names:
        choose(page, cat.with_name(name))
    choose_again = cat.with_name("coffee.jpg")
    page.choose_file("#file", choose_again)
    seen(page, "coffee (2).jpg")
    thumbs = "[...document.querySelectorAll('.thumb')].map((e) => e.ariaLabel)"
    assert page.run(thumbs) == [*names, "coffee (2).jpg"]
    page.run("document.querySelector('#thumbs').style.width = '150px'")  # has room for two
    press_on(page, "#thumbs li:nth-child(3) .thumb")
    assert (
        texts(page, "#classes b")[0] == localizer(cat.with_name("rocket.jpg")).detections[0].label
    )
    page.press("ArrowLeft")
    assert texts(page, "#classes b")[0] == "espresso"
    page.choose_file("#file", cat.with_name("astronaut.jpg"))
    seen(page, "astronaut.jpg")
    assert page.run("document.querySelector('#thumbs').scrollLeft") > 100  # the new one is seen
    press_on(page, "#thumbs li:last-child .remove")
    page.wait_for("document.activeElement.ariaLabel", "coffee (2).jpg")
    press_on(page, "#thumbs li:nth-child(2) .thumb")
    page.strike("Delete", DELETE)
    page.wait_for(f"{thumbs}.join()", "cat.jpg,rocket.jpg,coffee (2).jpg")
    for _ in range(3):
        press_on(page, ".remove")
    assert page.run("document.body.classList.contains('empty')")


def test_a_picture_is_pasted(page):
    page.run(
        """(async () => {
            const blob = await (await fetch("/samples/rocket.jpg")).blob();
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([blob], "image.png", { type: "image/png" }));
            const options = { clipboardData, bubbles: true };
            document.body.dispatchEvent(new ClipboardEvent("paste", options));
        })()"""
    )
    seen(page, "image.png")
    assert "missile" in texts(page, "#classes b")


def test_a_sample_is_one_click(page, localizer, cat):
    page.wait_for("document.querySelectorAll('#samples button').length", value=4)
    press_on(page, "#samples li:nth-child(2) button")
    seen(page, "cat.jpg")
    assert texts(page, "#classes b")[0] == localizer(cat).detections[0].label


def test_the_webcam_gives_one_still(page):
    """A real media stream, out of a canvas: this machine has no camera."""
    page.run(
        """(async () => {
            const blob = await (await fetch("/samples/coffee.jpg")).blob();
            const image = await createImageBitmap(blob);
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [600, 400];
            const pen = canvas.getContext("2d");
            globalThis.stream = canvas.captureStream(30);
            navigator.mediaDevices.getUserMedia = async () => globalThis.stream;
            setInterval(() => pen.drawImage(image, 0, 0), 30);
        })()"""
    )
    press_on(page, "#drop [data-do=webcam]")
    page.wait_for("document.querySelector('#video').videoWidth", value=600)
    press_on(page, "#snap")
    seen(page, "webcam.jpg")
    assert texts(page, "#classes b")[0] == "espresso"
    assert page.run("globalThis.stream.getTracks().every((t) => t.readyState === 'ended')")


def test_all_of_it_works_with_the_keyboard_alone(with_cat, localizer, cat):
    page, found = with_cat, localizer(cat).detections
    reached = set()
    for _ in range(40):
        page.strike("Tab", TAB)
        reached.add(page.run("document.activeElement.id || document.activeElement.className"))
        if page.run("document.activeElement.id") == "classes":
            break
    controls = {"threshold", "opacity", "show-heat", "show-outline", "show-box", "compare"}
    assert controls | {"frame", "thumb", "save-png", "save-json", "save-coco"} <= reached
    page.press("ArrowDown")
    page.press("ArrowDown")
    assert text(page, "figcaption b") == found[2].label
    page.strike("End", END)
    assert text(page, "figcaption b") == found[-1].label
    page.strike("Home", HOME)
    assert page.run("document.querySelector('#classes [aria-selected=true] b').innerText") == (
        found[0].label
    )
    page.run("document.querySelector('.frame').focus()")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.press(key)
    label = "document.querySelector('.frame').ariaLabel"
    assert "Crosshair at 52.0 % across, 52.0 % down." in page.run(label)
    page.strike("ArrowLeft", 37, shift=True)
    assert "Crosshair at 42.0 % across" in page.run(label)
    page.wait_for(
        "document.querySelector('#live').textContent.startsWith('Strongest here: ')", value=True
    )
    page.press("Escape")
    assert page.run("document.querySelector('#point').hidden")
