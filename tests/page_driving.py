"""What a user does on the page of `gapcam serve`, and what it shows."""

from __future__ import annotations

import base64
import json
import re

import numpy as np


def open_page(browser, server, **options):
    browser.open(f"{server.address}/", **options)
    browser.wait_for("document.querySelector('#message').textContent", "Ready.")
    return browser


def choose(page, path):
    page.choose_file("#file", path)
    seen(page, path.name)


def seen(page, name):
    """Wait until a picture is looked at."""
    start = f"document.querySelector('#message').textContent.startsWith({json.dumps(name + ': ')})"
    page.wait_for(start, value=True)


def text(page, selector):
    return page.run(f"document.querySelector({selector!r}).innerText")


def texts(page, selector):
    return page.run(f"[...document.querySelectorAll({selector!r})].map((e) => e.innerText)")


def facts(page):
    """What `Why here` says: names to words."""
    return dict(row.split("\n") for row in texts(page, "#pairs > div"))


def shown_box(page):
    return [float(number) for number in re.findall(r"[\d.]+", facts(page)["Box"])]


def press_on(page, selector):
    x, y, width, height = where(page, selector)
    page.click(x + width / 2, y + height / 2)


def where(page, selector):
    return page.run(
        f"""(() => {{
            const element = document.querySelector({selector!r});
            element.scrollIntoView({{ block: "nearest" }});
            const {{ x, y, width, height }} = element.getBoundingClientRect();
            return [x, y, width, height];
        }})()"""
    )


def slide(page, selector, value):
    page.run(
        f"(e => {{ e.value = {value}; e.dispatchEvent(new Event('input', {{ bubbles: true }})) }})"
        f"(document.querySelector({selector!r}))"
    )


def drawn(page, index=0):
    """What is drawn above the picture, RGBA."""
    return pixels(page, f"document.querySelectorAll('.above')[{index}]")


def pixels(page, canvas):
    width, height, data = page.run(
        f"""(() => {{
            const from = {canvas};
            const copy = new OffscreenCanvas(from.width, from.height);
            const pen = copy.getContext("2d", {{ willReadFrequently: true }});
            pen.drawImage(from, 0, 0);
            const {{ data }} = pen.getImageData(0, 0, copy.width, copy.height);
            let text = "";
            for (let i = 0; i < data.length; i += 30000) {{
                text += btoa(String.fromCharCode(...data.subarray(i, i + 30000)));
            }}
            return [copy.width, copy.height, text];
        }})()"""
    )
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)
