"""The report in a real browser: the script runs under its policy, and the tools do their work."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from browser import Browser
from gapcam.report import GalleryItem, write_report
from report_results import boxes_result, class_row, masks_result

PROGRAM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="needs Chromium on PATH: apt install chromium"
)

CLASSES = [
    class_row("zebra", 10, 2, 0.5),
    class_row("<script>alert(1)</script>", 9, 30, None),
    class_row("apple", 2, 4, 1.0),
    class_row("Äsche", 100, 1, 0.25),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driven = Browser(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield driven
    driven.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    image = Image.fromarray(np.tile(np.arange(240, dtype=np.uint8)[None, :, None], (180, 1, 3)))
    facts = {"truth_label": "cat", "predicted_label": "dog", "predicted_score": 0.5, "iou": 0.25}
    gallery = [GalleryItem("best", f"{name}.jpg", image, **facts) for name in "abc"]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, boxes_result(by_class=CLASSES), gallery)
    return path


@pytest.fixture(autouse=True)
def nothing_to_complain_about(request):
    yield
    if "browser" in request.fixturenames:
        driven = request.getfixturevalue("browser")
        assert driven.said == []
        assert {url.split(":")[0] for url in driven.requests} <= {"file", "data"}


def names(browser):
    return browser.run(
        "[...document.querySelectorAll('#class-table tbody th')].map(e => e.innerText)"
    )


def test_the_script_runs_under_its_policy(browser, report):
    browser.open(report)
    assert browser.run("document.documentElement.dataset.ready") == "true"
    assert browser.run("document.querySelector('#class-filter').offsetHeight") > 0


@pytest.mark.parametrize("width", [360, 390, 800, 1280, 2000])
@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_the_page_never_scrolls_sideways(browser, report, tmp_path, width, kind):
    path = report
    if kind == "masks":
        path = tmp_path / "masks.html"
        result = masks_result(partial=True)
        result["data"]["name"] = "a" * 200
        write_report(path, result, [])
    browser.open(path, width=width)
    assert browser.run("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize(("scheme", "light"), [("light", True), ("dark", False)])
def test_a_picture_of_it(browser, report, scheme, light):
    browser.open(report, width=700, height=500, scheme=scheme)
    pixels = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("L"))
    assert pixels.shape == (500, 700)
    assert pixels.std() > 10
    assert (np.median(pixels) > 128) == light


def test_the_theme_can_be_changed_and_is_kept(browser, report):
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(report, scheme="dark")
    dark = browser.run(ground)
    assert browser.run("document.querySelector('.theme').innerText") == "Light theme"
    browser.run("document.querySelector('.theme').click()")
    assert browser.run(ground) != dark
    assert browser.run("document.querySelector('.theme').innerText") == "Dark theme"
    browser.open(report, scheme="dark")
    assert browser.run(ground) != dark
    browser.run("localStorage.clear()")


def test_classes_are_sorted_by_any_column(browser, report):
    browser.open(report)
    heads = "document.querySelectorAll('#class-table thead th')"
    sorts = f"[...{heads}].map(e => e.getAttribute('aria-sort'))"
    script = "<script>alert(1)</script>"
    browser.run(f"{heads}[1].querySelector('button').click()")  # numbers: the largest first
    assert names(browser) == ["Äsche", "zebra", script, "apple"]
    assert browser.run(sorts)[:3] == ["none", "descending", "none"]
    browser.run(f"{heads}[1].querySelector('button').click()")
    assert names(browser) == ["apple", script, "zebra", "Äsche"]
    assert browser.run(sorts)[1] == "ascending"
    browser.run(f"{heads}[5].querySelector('button').click()")  # a gap comes last either way
    assert names(browser) == ["apple", "zebra", "Äsche", script]
    browser.run(f"{heads}[5].querySelector('button').click()")
    assert names(browser) == ["Äsche", "zebra", "apple", script]
    assert browser.run(sorts)[1] == "none"
    browser.run(f"{heads}[0].querySelector('button').click()")  # names: from A on
    assert names(browser) == [script, "apple", "Äsche", "zebra"]


def test_classes_are_filtered_by_name(browser, report):
    browser.open(report)
    browser.run(
        "(f => { f.value = 'E '.trim(); f.dispatchEvent(new Event('input')); })"
        "(document.querySelector('#class-filter'))"
    )
    shown = (
        "[...document.querySelectorAll('#class-table tbody tr')].filter(r => r.offsetHeight).length"
    )
    assert browser.run(shown) == 4
    browser.run(
        "(f => { f.value = ' ZEB'; f.dispatchEvent(new Event('input')); })"
        "(document.querySelector('#class-filter'))"
    )
    assert browser.run(shown) == 1
    assert browser.run("document.querySelector('#class-status').innerText") == "1 of 4 classes"


def test_the_pointer_reads_the_curves(browser, report):
    browser.open(report)
    browser.run("document.querySelector('figure.read').scrollIntoView({behavior: 'instant'})")
    legend = "[...document.querySelectorAll('figure.read td')].map(e => e.innerText)"
    at_first = browser.run(legend)
    assert at_first[:3] == ["0.46", "90.2\xa0%", "70.2\xa0%"]
    x, y, width = browser.run(
        "(r => [r.left, r.top, r.width])(document.querySelector('.plot').getBoundingClientRect())"
    )
    browser.move(x + 0.74 * width, y + 30)
    browser.wait_for(f"{legend}.slice(0, 3)", ["0.75", "50.0\xa0%", "40.0\xa0%"])
    assert browser.run("document.querySelector('.cursor').getAttribute('x1')") == "75%"
    browser.move(5, 5)
    browser.wait_for(legend, at_first)
    assert browser.run("document.querySelector('.cursor').getAttribute('x1')") == "46%"


def test_the_keyboard_reads_the_curves(browser, report):
    browser.open(report)
    browser.run("document.querySelector('figure.read input').focus()")
    browser.press("ArrowRight")
    browser.wait_for("document.querySelector('figure.read td').innerText", "0.75")
    spoken = browser.run(
        "document.querySelector('figure.read input').getAttribute('aria-valuetext')"
    )
    assert spoken.startswith("threshold 0.75, IoU ≥ 0.3, one box 50.0\xa0%")


def test_pictures_are_enlarged_by_keyboard(browser, report):
    browser.open(report)
    dialog = "document.querySelector('dialog')"
    browser.run("document.querySelector('.shot button').focus()")
    browser.press("Enter")
    browser.wait_for(f"{dialog}.open", value=True)
    browser.wait_for(f"{dialog}.querySelector('.file').innerText", "a.jpg")
    for key, name in (("ArrowLeft", "c.jpg"), ("ArrowRight", "a.jpg"), ("ArrowRight", "b.jpg")):
        browser.press(key)
        browser.wait_for(f"{dialog}.querySelector('.file').innerText", name)
    browser.wait_for(f"{dialog}.querySelector('img').naturalWidth", 240)
    browser.wait_for(f"{dialog}.querySelector('.place').innerText", "2 of 3")
    browser.press("Escape")
    browser.wait_for(f"{dialog}.open", value=False)
    browser.wait_for("document.activeElement.getAttribute('aria-label')", "Enlarge b.jpg")


def test_without_script_everything_is_there_to_read(browser, report):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(report)
        assert browser.run("document.documentElement.dataset.ready") is None
        assert browser.run("document.querySelector('#class-table').offsetHeight") > 100
        assert browser.run("document.querySelector('.plot').getBoundingClientRect().height") > 100
        tools = "[...document.querySelectorAll('.needs-js')].filter(e => e.offsetHeight).length"
        assert browser.run(tools) == 0
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
