from __future__ import annotations

import base64
import hashlib
import re
from itertools import pairwise
from pathlib import Path

import pytest

import gapcam.report
from gapcam.report import render_report, write_report
from gapcam.types import OutputError
from report_results import boxes_result, class_row, parse, picture, section, shown

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{7*7}}"


# --- safe, sound and small ---------------------------------------------------------------------


def hostile_page():
    result = boxes_result(by_class=[class_row(HOSTILE, 0, 1, 0.5)], command=HOSTILE)
    result["data"] |= {"name": HOSTILE, "left_out": [{"where": HOSTILE, "what": HOSTILE}]}
    result["model"]["name"] = result["recipe"]["chosen_on"] = HOSTILE
    result["protocol"][HOSTILE] = HOSTILE
    result["thresholds"][0] |= {"words": HOSTILE}
    result["baselines"]["whole_image"]["words"] = HOSTILE
    result["by_size"][0]["bin"] = HOSTILE
    labels = {"truth_label": HOSTILE, "predicted_label": HOSTILE, "note": HOSTILE}
    return render_report(result, [picture(name=HOSTILE, **labels)])


def test_labels_and_names_are_text_whatever_they_hold():
    page = parse(hostile_page())
    assert len(page.all("script")) == 1
    assert "alert" not in page.one("script").text
    assert section(page, "classes").one("tbody").one("th").text == HOSTILE
    assert page.one("h1").text == HOSTILE
    assert page.one("figure", class_="shot").one("img").attributes["alt"].startswith(HOSTILE)
    for element in page.all():
        assert not [name for name in element.attributes if name.startswith("on")]


def test_nothing_is_loaded_from_anywhere():
    for html in (render_report(boxes_result(), [picture()]), hostile_page()):
        for element in parse(html).all():
            for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                value = element.attributes.get(name)
                assert value is None or value.startswith(("data:", "#")), (element.tag, value)
        assert not parse(html).all("iframe")
    style = (Path(gapcam.report.__file__).parent / "report.css").read_text(encoding="utf-8")
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_allows_this_very_script_alone():
    html = render_report(boxes_result(), [])
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = parse(html).one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert html.index("Content-Security-Policy") < html.index("<style>") < html.index("<script>")
    assert "\r" not in script


def test_bytes_of_odd_file_names_are_shown_as_escapes(tmp_path):
    item = picture(name="caf\udce9.jpg")
    write_report(tmp_path / "report.html", boxes_result(), [item])
    page = parse((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.one(class_="file").text == r"caf\udce9.jpg"


def test_a_thousand_classes_stay_small():
    rows = [class_row(f"a class with a long name {i}", i, i % 7, i / 1000) for i in range(1000)]
    result = boxes_result(by_class=rows)
    result["curves"]["thresholds"] = [i / 1000 for i in range(1000)]
    for kind in ("single", "multi"):
        for iou in result["curves"][kind]:
            result["curves"][kind][iou] = [i / 1234 for i in range(1000)]
    assert len(render_report(result, []).encode()) < 300_000


def test_the_same_input_gives_the_same_page():
    assert render_report(boxes_result(), [picture()]) == render_report(boxes_result(), [picture()])


def test_the_report_is_written_whole(tmp_path):
    path = tmp_path / "new" / "report.html"
    write_report(path, boxes_result(), [picture()])
    assert path.read_text(encoding="utf-8") == render_report(boxes_result(), [picture()])
    assert list(path.parent.iterdir()) == [path]


def test_a_report_that_cannot_be_written_says_why(tmp_path):
    with pytest.raises(OutputError, match=f"{tmp_path}: cannot be written"):
        write_report(tmp_path, boxes_result(), [])


def test_tables_and_drawings_can_be_read_aloud():
    page = shown(boxes_result(), [picture()])
    for table in page.all("table"):
        assert table.one("caption").text
        for head in table.all("th"):
            assert head.attributes["scope"] in ("col", "row", "rowgroup")
    for svg in page.all("svg"):
        silent = svg.attributes.get("aria-hidden") == "true" or "viewbox" in svg.attributes
        assert silent or svg.all("title")
    for region in page.all(role="region"):
        assert region.attributes["tabindex"] == "0"
        assert region.attributes.get("aria-label") or region.attributes["aria-labelledby"]
    levels = [int(e.tag[1]) for e in page.all() if re.fullmatch(r"h\d", e.tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))


def themes():
    style = (Path(gapcam.report.__file__).parent / "report.css").read_text(encoding="utf-8")
    blocks = re.findall(r"\{([^{}]*--ground:[^{}]*)\}", style)
    assert len(blocks) == 3
    light, *dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in blocks)
    assert dark[0] == dark[1]
    return {"light": light, "dark": dark[0]}


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "ground", "least"),
    [
        *(("ink", ground, 4.5) for ground in ("ground", "panel", "wash")),
        *(("soft", ground, 4.5) for ground in ("ground", "panel", "wash")),
        *(("accent", ground, 4.5) for ground in ("ground", "panel", "wash")),
        *((series, "panel", 4.5) for series in ("third", "half", "high")),
        ("bound", "bound-ground", 4.5),
        ("bound", "ground", 3),
        ("alarm", "alarm-ground", 4.5),
    ],
)
def test_contrast_is_enough_for_everyone(theme, ink, ground, least):
    """WCAG 2.2, 1.4.3 and 1.4.11: text 4.5 to 1, marks 3 to 1."""
    colours = themes()[theme]
    light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= least
