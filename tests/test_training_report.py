from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from browser import Browser
from gapcam.training.plan import EpochRecord, TrainOptions
from gapcam.training.report import MOST_SHEETS, write_training_report
from gapcam.training.report_curves import nice_steps
from gapcam.training.report_tables import MOST_CLASSES
from gapcam.training.run_config import run_config
from gapcam.training.run_contents import read_run
from gapcam.training.run_data import data_facts
from gapcam.training.run_folder import RunFolder
from gapcam.training.run_tables import HeadPoint
from gapcam.training.validation import validate
from gapcam.types import DataError, ModelError, Preprocessing
from report_results import parse, section

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{7*7}}"
PROGRAM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
CLASSES = ("tench", "church", "golf ball")


def asked(tmp_path, classes, method, single, **more):
    return run_config(
        TrainOptions(method=method, epochs=12),
        data=tmp_path / "imagenette",
        model="efficientnet-lite0",
        classes=classes,
        single=single,
        preprocessing=Preprocessing((224, 224), (127.0,) * 3, (128.0,) * 3),
        trunk="all of it",
        versions={"gapcam": "0.1.0", "torch": "2.13.0", "lightning": "2.6.1"},
        **more,
    )


def judged(classes, n=90, single=True, names=None, right=0.8):
    rng = np.random.default_rng(0)
    ids = np.arange(n) % len(classes)
    targets = np.eye(len(classes), dtype=bool)[ids]
    said = np.where(rng.random(n) < right, ids, (ids + 1) % len(classes))
    rest = 0.4 / (len(classes) - 1)
    probabilities = np.where(np.eye(len(classes), dtype=bool)[said], 0.6, rest)
    names = names or [f"{classes[i]}/{k}.jpg" for k, i in enumerate(ids)]
    return validate(probabilities, targets, classes, names, single=single)


def epochs(n, first=0):
    return [
        EpochRecord(
            e,
            2.0 / (e + 1) if e else None,
            0.5 + 0.03 * e if e else None,
            2.5 / (e + 1),
            0.9 - 0.004 * (e - 9) ** 2,
            0.01 * (1 - e / n),
            60.0,
        )
        for e in range(first, n + 1)
    ]


def run(path, *, classes=CLASSES, method="finetune", single=True, sheets=(), name=None, **more):
    """A finished run of 12 epochs, or of a head; its folder stays open for more."""
    folder = RunFolder.create(path / "run", asked(path, classes, method, single, **more))
    found = judged(classes, single=single, names=[name] * 90 if name else None)
    n = len(classes)
    targets = np.eye(n, dtype=bool)[np.arange(300) % n]
    names = [f"{name or 'p'}{i}" for i in range(300)]
    parts = np.arange(90, 300), np.arange(90)
    words = {"split": name or "made here, seed 0", "duplicates": [(1, 2)], "notes": [name or "hm"]}
    folder.write_data(data_facts(names, classes, targets, *parts, **words))
    folder.write_unreadable([(name or "broken.jpg", name or "truncated")])
    if method == "finetune":
        for row in epochs(12):
            folder.record(row)
    else:
        points = [
            HeadPoint(10.0**k, 0.1, 0.2 + 0.1 * abs(k), 0.9 - 0.01 * k, k == 0) for k in (-1, 0, 1)
        ]
        folder.write_head_path(points)
    folder.sample(0).parent.mkdir()
    for epoch in sheets:
        Image.new("RGB", (60, 40), (20 * epoch, 0, 0)).save(folder.sample(epoch))
    folder.write_validation(found)
    return folder, found


def page(folder):
    return parse(write_training_report(folder.path).read_text(encoding="utf-8"))


def finished(tmp_path, **options):
    folder, found = run(tmp_path, **options)
    with folder:
        folder.finish({"best_epoch": 9} if options.get("method") != "head-only" else {})
        return page(folder), found


def text(element):
    return " ".join(element.text.replace("\N{NO-BREAK SPACE}", " ").split())


# --- the numbers -------------------------------------------------------------------------------


def test_the_headline_is_the_score_its_interval_and_how_it_was_chosen(tmp_path):
    shown, found = finished(tmp_path)
    said = [text(line) for line in shown.one("div", class_="lead").all("p")]
    low, high = found.interval
    assert said[0] == (
        f"{100 * found.right / 90:.1f} % of 90 validation pictures are named right "
        f"({found.right} of them; 95 % interval {100 * low:.1f} to {100 * high:.1f} %)."
    )
    assert said[1] == "Always naming the commonest class (tench) would be right for 33.3 %."
    assert said[2].startswith(
        "Epoch 9 of 12 is kept, chosen by validation accuracy: class labels only, no boxes were "
        "used."
    )
    assert shown.one("h1").text == "imagenette"


def test_the_curves_hold_the_records(tmp_path):
    shown, _ = finished(tmp_path)
    loss, accuracy, rate = section(shown, "curves").all("figure")
    assert [f.one("h3").text for f in (loss, accuracy, rate)] == [
        "Loss",
        "Accuracy",
        "Learning rate",
    ]
    rows = {cell.attributes["data-name"]: cell for cell in accuracy.all("td")}
    values = rows["validation"].attributes["data-values"].split()
    assert [float(v) for v in values] == pytest.approx(
        [row.validation_accuracy for row in epochs(12)], abs=1e-4
    )
    assert text(rows["validation"]) == "90.0 %"  # at the kept epoch
    assert rows["training"].attributes["data-values"].split()[0] == "-"
    assert rows["epoch"].text == "9"
    (mark,) = accuracy.all("circle")
    assert mark.attributes["cx"] == "75%"
    assert text(mark) == "validation, epoch 9: 90.0 %"
    assert not rate.all("circle")


def test_the_confusion_matrix_sums_to_the_pictures(tmp_path):
    shown, found = finished(tmp_path)
    (table,) = [
        t
        for t in section(shown, "errors").all("table")
        if "matrix" in t.attributes.get("class", "")
    ]
    cells = [[int(td.text or 0) for td in tr.all("td")] for tr in table.one("tbody").all("tr")]
    np.testing.assert_array_equal(cells, found.confusion)
    assert sum(map(sum, cells)) == 90
    assert [th.text for th in table.one("tbody").all("th")] == list(CLASSES)
    rows = section(shown, "classes").one("tbody").all("tr")
    for row, score in zip(rows, found.classes, strict=True):
        assert row.one("th").text == score.label
        assert [td.text for td in row.all("td")] == [
            "70",
            "30",
            *(f"{100 * v:.1f}" for v in (score.precision, score.recall, score.f1)),
        ]


def test_many_classes_show_pairs_alone(tmp_path):
    shown, found = finished(tmp_path, classes=[f"c{i}" for i in range(MOST_CLASSES + 1)])
    tables = section(shown, "errors").all("table")
    assert not [t for t in tables if "matrix" in t.attributes.get("class", "")]
    first = tables[0].one("tbody").all("tr")[0]
    off = found.confusion - np.diag(np.diag(found.confusion))
    assert int(first.all("td")[1].text) == off.max()


def test_a_head_shows_its_regularization(tmp_path):
    shown, _ = finished(tmp_path, method="head-only", sheets=(0, 1))
    said = text(shown.one("div", class_="lead"))
    assert "Weight decay 1 of 3 tried is kept, chosen by validation loss: class labels only" in said
    (figure,) = section(shown, "curves").all("figure")
    marks = figure.all("circle")
    assert ["hollow" in m.attributes["class"] for m in marks] == [True, False, True]
    assert [text(m) for m in marks] == ["0.1: 0.3", "1: 0.2", "10: 0.3"]
    assert [text(td) for td in figure.all("td")] == ["1", "0.1", "0.2", "90.0 %"]
    assert "before training" in text(section(shown, "samples"))


def test_several_labels_have_average_precision_and_no_interval(tmp_path):
    shown, found = finished(tmp_path, single=False)
    said = text(shown.one("div", class_="lead"))
    assert f"{100 * found.accuracy:.1f} % mean average precision over the 3 classes" in said
    assert "interval" not in said
    assert "Confusion" not in text(section(shown, "errors"))
    head = [text(th) for th in section(shown, "classes").one("thead").all("th")]
    assert head[-1] == "average precision, %"


# --- a run that is not done --------------------------------------------------------------------


def test_a_run_that_goes_on_and_one_that_failed(tmp_path):
    folder = RunFolder.create(tmp_path / "run", asked(tmp_path, CLASSES, "finetune", True))
    assert "No validation score yet." in text(page(folder).one("div", class_="lead"))
    for row in epochs(3):
        folder.record(row)
        shown = page(folder)
    assert read_run(folder.path).best_epoch == 3
    assert text(shown.one(class_="banner")).startswith("Running 3 epochs so far")
    assert "after epoch 3, the best so far" in text(shown.one("div", class_="lead"))
    with pytest.raises(ModelError), folder:
        raise ModelError("the loss is not a number.")
    shown = page(folder)
    assert text(shown.one(class_="banner")) == "Stopped the loss is not a number. Done: 3 epochs."
    assert "--resume" in text(section(shown, "next"))


def test_one_epoch_is_seen(tmp_path):
    with RunFolder.create(tmp_path / "run", asked(tmp_path, CLASSES, "finetune", True)) as folder:
        folder.record(epochs(1, first=1)[0])
        loss = section(page(folder), "curves").all("figure")[0]
        assert len(loss.all("circle")) == 2


def test_a_perfect_net_has_an_axis_too(tmp_path):
    with RunFolder.create(tmp_path / "run", asked(tmp_path, CLASSES, "finetune", True)) as folder:
        for row in epochs(2, first=1):
            folder.record(dataclasses.replace(row, train_accuracy=1.0, validation_accuracy=1.0))
        accuracy = section(page(folder), "curves").all("figure")[1]
    (mark,) = accuracy.all("circle")
    assert mark.attributes["cy"] == "0%"
    assert "100" in [t.text for t in accuracy.all("text")]


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(DataError, match="no run is here"):
        write_training_report(tmp_path)


def test_tables_without_their_last_file_are_not_shown(tmp_path):
    folder, _ = run(tmp_path)
    with folder:
        (folder.path / "validation.json").unlink()
        found = read_run(folder.path)
    assert found.confusion is None
    assert not found.classes
    assert not found.mistakes


# --- sheets ------------------------------------------------------------------------------------


def test_sheets_are_embedded_as_they_are(tmp_path):
    shown, _ = finished(tmp_path, sheets=(0, 3, 9))
    part = section(shown, "samples")
    images = part.all("img")
    for image, epoch in zip(images, (0, 3, 9), strict=True):
        jpeg = base64.b64decode(image.attributes["src"].removeprefix("data:image/jpeg;base64,"))
        assert jpeg == (tmp_path / "run" / "samples" / f"epoch_{epoch:03d}.jpg").read_bytes()
        assert Image.open(io.BytesIO(jpeg)).size == (60, 40)
    chosen = [radio for radio in part.all("input") if "checked" in radio.attributes]
    assert [radio.attributes["id"] for radio in chosen] == ["sheet-9"]
    assert "embedded" not in text(part)


def test_of_many_sheets_some_are_embedded_and_the_page_says_so(tmp_path):
    shown, _ = finished(tmp_path, sheets=range(13))
    part = section(shown, "samples")
    at = [radio.attributes["id"] for radio in part.all("input")]
    assert len(at) <= MOST_SHEETS
    assert {at[0], at[-1]} == {"sheet-0", "sheet-12"}
    assert "sheet-9" in at
    assert f"{len(at)} of 13 sheets are embedded; all are in samples/." in text(part)


def test_a_sheet_that_cannot_be_read_is_told(tmp_path):
    folder, _ = run(tmp_path, sheets=(0,))
    with folder:
        folder.sample(1).write_bytes(b"half")
        part = section(page(folder), "samples")
    assert len(part.all("img")) == 1
    assert "epoch_001.jpg: cannot be read as a JPEG picture" in text(part)


# --- safe and sound ----------------------------------------------------------------------------


def test_names_are_text_and_nothing_is_loaded(tmp_path):
    shown, _ = finished(
        tmp_path, classes=(HOSTILE, "b"), name=HOSTILE, command=HOSTILE, sheets=(0, 1)
    )
    assert len(shown.all("script")) == 1
    assert "alert" not in shown.one("script").text
    assert section(shown, "classes").one("tbody").all("th")[0].text == HOSTILE
    for element in shown.all():
        assert not [name for name in element.attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = element.attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (element.tag, value)


def test_the_policy_allows_this_very_script_alone(tmp_path):
    shown, _ = finished(tmp_path)
    html = (tmp_path / "run" / "training.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = shown.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_odd_file_names_are_shown_as_escapes_and_the_page_repeats(tmp_path):
    folder, _ = run(tmp_path, name="caf\udce9.jpg")
    with folder:
        assert r"caf\udce9.jpg" in text(section(page(folder), "errors"))
        first = folder.report.read_bytes()
        write_training_report(folder.path)
        assert folder.report.read_bytes() == first


def test_tables_and_drawings_can_be_read_aloud(tmp_path):
    shown, _ = finished(tmp_path, sheets=(0, 1))
    for table in shown.all("table"):
        assert table.one("caption").text
        for head in table.all("th"):
            assert head.attributes["scope"] in ("col", "row")
    for image in shown.all("img"):
        assert image.attributes["alt"]
    ids = [element.attributes["id"] for element in shown.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for link in shown.all("a"):
        assert link.attributes["href"].removeprefix("#") in ids


@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium on PATH: apt install chromium")
def test_in_a_browser(tmp_path):
    finished(tmp_path, sheets=(0, 3, 9), classes=("a" * 60, HOSTILE, *CLASSES))
    driven = Browser(PROGRAM, tmp_path / "profile")
    shown = "[...document.querySelectorAll('.sheets figure')].map(f => f.offsetHeight > 0)"
    try:
        for width in (400, 1280):
            driven.open(tmp_path / "run" / "training.html", width=width)
            assert driven.run("document.documentElement.dataset.ready") == "true"
            assert driven.run("document.documentElement.scrollWidth") == width
            assert driven.run(shown) == [False, False, True]
        driven.run("document.querySelector('label[for=sheet-0]').click()")
        assert driven.run(shown) == [True, False, False]
        loss = "document.querySelector('figure.read')"
        slide = "(s => { s.value = 0; s.dispatchEvent(new Event('input')); })"
        driven.run(f"{slide}({loss}.querySelector('input'))")
        values = driven.run(f"[...{loss}.querySelectorAll('td')].map(c => c.textContent)")
        assert values == ["0", "–", "2.5"]
        assert driven.said == []
        assert {url.split(":")[0] for url in driven.requests} <= {"file", "data"}
    finally:
        driven.close()


# --- axes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "steps"),
    [
        (0, 2.3, [0, 0.5, 1, 1.5, 2, 2.5]),
        (0.92, 0.97, [0.92, 0.93, 0.94, 0.95, 0.96, 0.97]),
        (0, 0.01, [0, 0.002, 0.004, 0.006, 0.008, 0.01]),
        (0.5, 0.5, [0.5, 0.55]),
        (1.0, 1.0, [1.0, 1.1]),
        (0, 0, [0, 0.0001]),
    ],
)
def test_axes_end_at_round_numbers(low, high, steps):
    assert nice_steps(low, high) == pytest.approx(steps)


def test_whole_steps_of_epochs():
    assert nice_steps(0, 12, whole=True, most=8) == [0, 2, 4, 6, 8, 10, 12]
    assert nice_steps(0, 2, whole=True, most=8) == [0, 1, 2]
