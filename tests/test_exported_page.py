"""The exported folder as a user meets it: `python -m http.server`, a browser, no network."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time

import pytest

from gapcam.exporting_web import export_web
from web_site import RUNTIME, in_page, needs_browser, needs_runtime, offline_browser, served

pytestmark = [needs_browser, needs_runtime]

READY = "document.querySelector('#message').textContent"
LABELS = "[...document.querySelectorAll('#classes [role=option]')].map(e => e.innerText)"
BOX = "document.querySelector('#pairs').innerText"


@contextlib.contextmanager
def python_server(folder, log):
    """The command that the export's report names, on a free port; its log is every request."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory"]
    with log.open("w") as out:
        process = subprocess.Popen([*command, folder, str(port)], stdout=out, stderr=out)
        try:
            end = time.monotonic() + 20
            while time.monotonic() < end:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="module")
def root(quick, tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    export_web(quick.engine.path, root / "under" / "a path", runtime=RUNTIME)
    return root


def test_the_page_alone_gives_gapcams_boxes(root, tmp_path, quick, cat):
    log = tmp_path / "log.txt"
    with python_server(root, log) as address, offline_browser(tmp_path) as browser:
        page = f"{address}under/a%20path/"
        browser.open(page)
        browser.wait_for(READY, "Ready.")
        for path in (cat, cat.with_name("coffee.jpg")):
            browser.run(f"document.querySelector('#samples img[alt={path.stem}]').click()")
            ours = quick(path).detections
            browser.wait_for(f"{LABELS}[0]?.split('\\n')[0]", ours[0].label)
            assert [text.split("\n")[0] for text in browser.run(LABELS)] == [d.label for d in ours]
            sides = re.search(r"Box\n([\d.]+), ([\d.]+) to ([\d.]+), ([\d.]+)\n", browser.run(BOX))
            assert [float(side) for side in sides.groups()] == pytest.approx(
                ours[0].box_xyxy, abs=1
            )
        assert "Exact" in browser.run("document.querySelector('#verdict').textContent")
        assert browser.said == []
        asked = [url for url in browser.requests if not url.startswith(("blob:", "data:"))]
        assert asked
        assert all(url.startswith(page) for url in asked)
    lines = re.findall(r'"GET (\S+) HTTP/1.1" (\d+)', log.read_text())
    assert {"/under/a%20path/model.onnx", "/under/a%20path/browser_worker.js"} <= dict(lines).keys()
    assert {code for _, code in lines} <= {"200", "304"}


def test_a_folder_that_lacks_its_model_says_so(root, tmp_path):
    model = root / "under" / "a path" / "model.onnx"
    model.rename(root / "aside.onnx")
    try:
        with (
            python_server(root, tmp_path / "log.txt") as address,
            offline_browser(tmp_path) as browser,
        ):
            browser.open(f"{address}under/a%20path/")
            browser.wait_for(f"{READY}.startsWith('The page cannot start: ')", value=True)
            words = "model.onnx: not there (404). Write the folder again: gapcam export MODEL --web"
            assert words in browser.run(READY)
    finally:
        (root / "aside.onnx").rename(model)


def test_a_server_that_isolates_its_pages_gets_threads(root, tmp_path, quick, cat):
    headers = {
        "Cross_Origin_Opener_Policy": "same-origin",
        "Cross_Origin_Embedder_Policy": "require-corp",
    }
    with served(root, **headers) as site, offline_browser(tmp_path) as browser:
        browser.open(f"{site.address}bare.html")
        found = in_page(
            browser,
            """
            const { openSource } = await import("/under/a path/browser_source.js");
            const settings = await (await fetch("/under/a path/page.json")).json();
            const source = await openSource(settings);
            const photo = await (await fetch("/under/a path/samples/cat.jpg")).blob();
            const { scores } = await source.look(photo, "cat.jpg");
            return [crossOriginIsolated, navigator.hardwareConcurrency, [...scores]];
            """,
        )
        assert browser.said == []
    isolated, cores, scores = found
    assert isolated
    best = quick(cat).detections[0]
    assert scores[best.class_id] == pytest.approx(best.score, abs=1e-3)
    starts = [path for path in site.asked if path.endswith("ort.wasm.bundle.min.js")]
    assert len(starts) >= min(cores, 2)  # once for the worker, and again for its threads
