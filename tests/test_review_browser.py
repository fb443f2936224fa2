"""The review page in a real browser: keys, buttons, filter, and the list that it saves."""

from __future__ import annotations

import csv
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gapcam.review.page as page
from browser import Browser
from gapcam.formats import box_key
from gapcam.review import read_rejected, write_review

PROGRAM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="needs Chromium on PATH: apt install chromium"
)

CODES = {"x": 88, "a": 65, "u": 85}
LABELS = ('cat, "tabby"', "dog")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: Any):
    driven = Browser(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield driven
    driven.close()


@pytest.fixture
def reviewed(tmp_path: Path, monkeypatch: Any, browser: Browser) -> Any:
    """Seven boxes on two pages; a fresh folder, so a fresh store of decisions."""
    monkeypatch.setattr(page, "PAGE_SIZE", 5)
    pixels = np.tile(np.linspace(0, 255, 300, dtype=np.uint8)[None, :, None], (200, 1, 3))
    records = []
    for i in range(7):
        name = tmp_path / ("odd \udcff,\n.jpg" if i == 0 else f"{i}.jpg")
        Image.fromarray(pixels).save(name)
        box = [30.0 + i, 40.0, 240.25, 160.0]
        found = {"label": LABELS[i % 2], "class_id": i % 2, "score": i / 10, "box": box}
        records.append({"path": str(name), "width": 300, "height": 200, "detections": [found]})
    write_review(records, tmp_path, 7)
    keys = [box_key(record["path"], record["detections"][0]) for record in records]
    browser.said.clear()
    browser.open(tmp_path / "review.html")
    yield tmp_path, keys
    assert browser.said == []


def press(browser: Browser, key: str) -> None:
    if key not in CODES:
        browser.press(key)
        return
    event = {"key": key, "code": f"Key{key.upper()}", "windowsVirtualKeyCode": CODES[key]}
    browser.call("Input.dispatchKeyEvent", type="keyDown", text=key, **event)
    browser.call("Input.dispatchKeyEvent", type="keyUp", **event)


def current(browser: Browser) -> Any:
    return browser.run("[...document.querySelectorAll('.tile')].indexOf(document.activeElement)")


def classes(browser: Browser) -> Any:
    return browser.run(
        "[...document.querySelectorAll('.tile')].map((t) => t.classList[1] || '').join(' ')"
    )


def counts(browser: Browser) -> Any:
    return browser.run("document.querySelector('.counts').textContent")


def test_keys_move_and_decide(browser: Browser, reviewed: Any):
    press(browser, "ArrowRight")  # the first key shows where one is
    assert current(browser) == 0
    press(browser, "x")
    press(browser, "a")
    assert (current(browser), classes(browser)) == (2, "rejected accepted   ")
    assert counts(browser) == "2 of 5 decided, 1 rejected"
    for key in ("ArrowLeft", "ArrowLeft", "u"):
        press(browser, key)
    assert (current(browser), classes(browser)) == (0, " accepted   ")
    columns = browser.run(
        "new Set([...document.querySelectorAll('.tile')].map((t) => t.offsetLeft)).size"
    )
    assert columns == 5
    browser.open(reviewed[0] / "review.html", width=500)
    press(browser, "ArrowDown")
    press(browser, "ArrowDown")
    assert current(browser) == 2  # two columns there
    press(browser, "ArrowUp")
    assert current(browser) == 0
    assert classes(browser) == " accepted   "  # decisions outlive the page


def test_the_boxes_are_drawn_where_they_are(browser: Browser, reviewed: Any):
    place = browser.run(
        "(() => { const f = document.querySelector('.frame').getBoundingClientRect();"
        "const b = document.querySelector('.box').getBoundingClientRect();"
        "return [(b.left - f.left) / f.width, (b.top - f.top) / f.height,"
        "(b.right - f.left) / f.width, (b.bottom - f.top) / f.height]; })()"
    )
    assert place == pytest.approx([30 / 300, 40 / 200, 240.25 / 300, 160 / 200], abs=1e-3)
    assert browser.run("document.querySelector('.frame img').naturalWidth") == 240


def test_filters(browser: Browser, reviewed: Any):
    shown = "[...document.querySelectorAll('.tile')].map((t) => Number(!t.hidden)).join('')"
    choose = (
        "document.querySelector('.classes').value = %r;"
        "document.querySelector('.classes').dispatchEvent(new Event('change'))"
    )
    options = browser.run("[...document.querySelectorAll('option')].map((o) => o.textContent)")
    assert options == ["all (5)", 'cat, "tabby" (3)', "dog (2)"]
    browser.run(choose % "dog")
    assert browser.run(shown) == "01010"
    press(browser, "ArrowRight")
    press(browser, "x")
    assert current(browser) == 3
    browser.run("document.querySelector('.open-only').click()")
    assert browser.run(shown) == "00010"
    browser.run(choose % "")
    assert browser.run(shown) == "10111"


def test_the_saved_list_rejects_in_the_next_run(browser: Browser, reviewed: Any, tmp_path: Path):
    folder, keys = reviewed
    downloads = tmp_path / "downloads"
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    assert browser.run("document.querySelector('.save').disabled") is True
    browser.run("document.querySelectorAll('.reject')[0].click()")
    browser.run("document.querySelectorAll('.accept')[1].click()")
    browser.open(folder / "review-2.html")
    browser.run("document.querySelectorAll('.reject')[1].click()")
    assert counts(browser) == "1 of 2 decided, 2 rejected (1 on other pages)"
    browser.run("document.querySelector('.save').click()")
    path = downloads / "rejected.csv"
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert read_rejected([path]) == {keys[0], keys[6]}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], row["x0"], row["x1"]) for row in rows] == [
        (LABELS[0], "30", "240.25"),
        (LABELS[0], "36", "240.25"),
    ]
    assert rows[1]["path"] == str(folder / "6.jpg")
    browser.run("document.querySelectorAll('.reject')[1].click()")  # again: taken back
    assert counts(browser) == "0 of 2 decided, 1 rejected (1 on other pages)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_nothing_is_cut_off_and_nothing_is_fetched(
    browser: Browser, reviewed: Any, width: int, scheme: str
):
    browser.requests.clear()
    browser.open(reviewed[0] / "review.html", width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") == width
    assert all(url.startswith(("file:", "data:")) for url in browser.requests)
    small = "[...document.querySelectorAll('.choice button')].map((b) => b.offsetHeight)"
    assert min(browser.run(small)) >= (44 if width == 320 else 24)
