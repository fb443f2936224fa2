"""What goes wrong on the page is said in plain words, and the page stays usable."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest
from PIL import Image

import gapcam
from gapcam.exporting import export
from gapcam.types import Preprocessing
from head_nets import CLASSES, NETS, SIDE, old_onnx
from page_driving import (
    choose,
    facts,
    open_page,
    press_on,
    seen,
    shown_box,
    text,
    texts,
    where,
)
from serving import serving_here
from web_site import needs_browser

pytest_plugins = ["page_fixtures"]
pytestmark = needs_browser

TOKEN = "a-secret"
FAULT = "document.querySelector('#status').classList.contains('fault')"


@pytest.fixture
def page(page_browser, page_server):
    """The page; what the browser itself logs of refused requests is expected here."""
    page_browser.said.clear()
    yield open_page(page_browser, page_server)
    assert all("Failed to load resource" in said for said in page_browser.said), page_browser.said


def fault(page):
    page.wait_for(FAULT, value=True)
    return text(page, "#message")


def test_what_is_no_picture(page, tmp_path, cat):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    page.choose_file("#file", broken)
    assert fault(page).startswith("broken.jpg: expected a picture (JPEG, PNG,")
    assert text(page, "#lost") == "This one cannot be shown."
    label = "document.querySelector('.thumb').ariaLabel"
    assert page.run(label) == "broken.jpg, failed"
    choose(page, cat)  # and the page goes on
    assert shown_box(page)
    assert not page.run(FAULT)


def test_what_has_no_bytes(page, tmp_path):
    """An empty file, a folder: said before anything is asked of the server."""
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "holiday").mkdir()
    page.drop_files(400, 400, tmp_path / "empty.jpg")
    assert fault(page) == "empty.jpg: the file is empty. Get it again."
    page.drop_files(400, 400, tmp_path / "holiday")
    words = "holiday: a folder, or a file that was moved. Choose picture files."
    page.wait_for("document.querySelector('#message').textContent", words)


def test_a_file_that_only_the_server_can_read(page, tmp_path, cat, localizer):
    path = tmp_path / "cat.tiff"
    with Image.open(cat) as image:
        image.save(path)
    choose(page, path)
    assert "this browser cannot draw this kind of file" in text(page, "#message")
    assert shown_box(page) == pytest.approx(localizer(path).detections[0].box_xyxy, abs=1)


def test_a_drop_or_paste_without_a_file(page):
    page.run("document.body.dispatchEvent(new ClipboardEvent('paste', { bubbles: true }))")
    assert fault(page) == "There is no picture on the clipboard."
    page.run(
        """document.body.dispatchEvent(new DragEvent("drop",
            { dataTransfer: new DataTransfer(), bubbles: true, cancelable: true }))"""
    )
    assert fault(page).startswith("That was no file.")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "navigator.mediaDevices.getUserMedia = async () => {"
            " throw new DOMException('no', 'NotAllowedError'); }",
            "The webcam was refused. Allow it for this page in the browser, then try again.",
        ),
        ("", "This device has no webcam that the browser can find."),
        (
            "Object.defineProperty(navigator, 'mediaDevices', { value: undefined })",
            "The browser opens the webcam only for pages over https or from this computer.",
        ),
    ],
)
def test_a_webcam_that_does_not_open(page, script, words):
    page.run(f"{script or 0}; 0")
    press_on(page, "#drop [data-do=webcam]")
    assert fault(page) == words


def test_a_map_with_nothing_to_show(page, tmp_path, localizer):
    """A class that nothing speaks for gets words, and no heat."""
    path = tmp_path / "grey.png"
    Image.new("RGB", (300, 200), "grey").save(path)
    choose(page, path)
    found = localizer(path, classes=range(1000)).detections
    nothing = next(d for d in found if d.box_xyxy is None)
    press_on(page, "#query")
    page.type_text(nothing.label)
    page.press("Enter")
    assert text(page, "figcaption b") == nothing.label
    assert text(page, ".words") == "No positive evidence: nothing in the picture speaks for it."
    assert facts(page)["Box"] == "none: no positive evidence"
    drawn = page.run(
        """(() => {
            const canvas = document.querySelector(".above");
            const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
            copy.drawImage(canvas, 0, 0);
            return copy.getImageData(0, 0, canvas.width, canvas.height).data.some((x) => x > 0);
        })()"""
    )
    assert not drawn


def test_a_server_with_bounds_and_a_token(page_browser, quick, cat, tmp_path):
    page_browser.said.clear()
    with serving_here(quick, max_bytes=60_000, max_pixels=200_000, token=TOKEN) as server:
        page_browser.open(f"{server.address}/")
        page_browser.wait_for("document.querySelector('#login').open", value=True)
        press_on(page_browser, "#login-cancel")
        assert "asks for a token, and none was given" in fault(page_browser)
        page_browser.open(f"{server.address}/")
        page_browser.wait_for("document.querySelector('#login').open", value=True)
        page_browser.type_text("wrong")
        page_browser.press("Enter")
        refused = "document.querySelector('#login-note').textContent.startsWith('That token was')"
        page_browser.wait_for(refused, value=True)
        page_browser.type_text(TOKEN)
        page_browser.press("Enter")
        page_browser.wait_for("document.querySelector('#message').textContent", "Ready.")
        page_browser.choose_file("#file", cat.with_name("coffee.jpg"))
        message = fault(page_browser)
        assert message.startswith(
            "coffee.jpg: the file has 71,303 bytes, and this server takes at most"
        )
        flat = tmp_path / "large.png"
        Image.new("RGB", (600, 500)).save(flat)
        page_browser.choose_file("#file", flat)
        page_browser.wait_for(
            "document.querySelector('#message').textContent.startsWith('large.png: ')", value=True
        )
        assert "pixels" in fault(page_browser)
        choose(page_browser, cat)
        assert shown_box(page_browser)


def test_a_server_that_is_gone_and_comes_back(page_browser, quick, cat):
    with serving_here(quick) as server:
        page = open_page(page_browser, server)
        choose(page, cat)
    page.choose_file("#file", cat.with_name("coffee.jpg"))
    assert fault(page).startswith("coffee.jpg: the server does not answer. Is it still running?")
    press_on(page, "#thumbs li:first-child .thumb")  # what was looked at stays
    page.wait_for("document.querySelector('#side').hidden", value=False)
    assert shown_box(page)
    press_on(page, "#thumbs li:nth-child(2) .thumb")
    with serving_here(quick, server.port):
        press_on(page, "#retry")
        seen(page, "coffee.jpg")
        assert texts(page, "#classes b")[0] == "espresso"


@contextmanager
def busy_proxy(server, refusals):
    """A proxy that answers the first requests for a picture as a server with too much to do."""
    left = [refusals]

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(httpx.get(f"{server.address}{self.path}", timeout=60))

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if left[0]:
                left[0] -= 1
                error = {"error": {"kind": "busy", "message": "the queue is full"}}
                self.answer(httpx.Response(429, json=error, headers={"Retry-After": "1"}))
                return
            headers = {"Content-Type": self.headers["Content-Type"]}
            url = f"{server.address}{self.path}"
            self.answer(httpx.post(url, content=body, headers=headers, timeout=60))

        def answer(self, answer):
            self.send_response(answer.status_code)
            for name in ("content-type", "retry-after"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *arguments):
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    proxy.address = f"http://127.0.0.1:{proxy.server_port}"
    yield proxy
    proxy.shutdown()
    proxy.server_close()


def test_a_busy_server_is_asked_again(page_browser, page_server, cat):
    with busy_proxy(page_server, refusals=1) as proxy:
        page = open_page(page_browser, proxy)
        page.choose_file("#file", cat)
        words = "cat.jpg: the server is busy; trying again in 1 s."
        page.wait_for("document.querySelector('#message').textContent", words)
        page.wait_for("!document.querySelector('#side').hidden", value=True)


def test_a_head_that_is_not_linear(page_browser, tmp_path, cat):
    """Its maps are not exact, which the page says; other classes' maps are asked for."""
    (tmp_path / "net.onnx").write_bytes(old_onnx(NETS["gap_hidden"]()))
    wants = Preprocessing((SIDE, SIDE), (120.0, 110.0, 100.0), (60.0, 58.0, 56.0))
    labels = [f"class {i}" for i in range(CLASSES)]
    path = tmp_path / "hidden.onnx"
    export(tmp_path / "net.onnx", path, labels=labels, preprocessing=wants)
    ours = gapcam.load(path, threads=1)
    with serving_here(ours) as server:
        page = open_page(page_browser, server)
        assert "Maps not exact" in texts(page, "#badges li")
        choose(page, cat)
        found = ours(cat).detections
        assert texts(page, "#classes b") == [d.label for d in found]
        assert text(page, "#verdict").startswith(
            f"The map and the logit of {found[0].label} differ"
        )
        x, y, width, height = where(page, ".frame")
        page.click(x + width / 2, y + height / 2)
        assert "Averaged" not in text(page, "#point-note")  # which holds for exact maps only
        boxes, first, more = page.run(
            """(async () => {
                const { openSource } = await import("/server_source.js");
                const { createAnswers } = await import("/answers.js");
                const source = await openSource({});
                source.model.max_top = 2;
                const seen = await source.look(await (await fetch("/samples/cat.jpg")).blob(), "");
                const first = seen.maps.size;
                await source.mapsOf(seen, [6, 2]);
                const answers = createAnswers(source.model);
                const boxes = [6, 2].map((id) => answers.place(seen, id,
                    source.model.recipe.threshold).regions.map(({ box }) => box));
                return [boxes, first, [...seen.maps.keys()]];
            })()"""
        )
        assert first == 2
        assert {6, 2} <= set(more)
        for theirs, expected in zip(boxes, ours(cat, classes=[6, 2]).detections, strict=True):
            wanted = [] if expected.box_xyxy is None else [expected.box_xyxy]
            assert len(theirs) == len(wanted)
            assert np.abs(np.subtract(theirs, wanted)).max(initial=0) < 1
