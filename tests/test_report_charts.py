from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapcam.report.charts import (
    Curve,
    Mark,
    Tick,
    histogram,
    path_data,
    plot,
    share,
    spread,
    thinned,
    whisker,
)
from gapcam.report.words import bare_percent, count, counted, cut, percent, span
from report_results import parse

FRACTIONS = st.floats(0, 1)


def drawn(svg):
    (root,) = parse(svg).children
    return root


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.702, "70.2 %"), (0.0, "0.0 %"), (1.0, "100.0 %"), (0.00049, "0.0 %"), (None, "–")],
)
def test_percent_has_one_decimal(value, text):
    assert percent(value) == text.replace(" ", "\xa0")


def test_numbers_in_words():
    assert bare_percent(-0.0) == "0.0"
    assert span([0.665, 0.7378]) == "66.5\xa0to\xa073.8"
    assert span(None) == ""
    assert counted(1, "row") == "1\xa0row"
    assert counted(1200, "row") == "1,200\xa0rows"
    assert count(12345) == "12,345"
    assert (cut(0.46), cut(None)) == ("0.46", "–")


def test_a_path_goes_through_its_points_upward():
    assert path_data([0, 0.25, 1], [0, 0.75, 1]) == "M0 1000L250 250L1000 0"
    assert path_data([0.1234], [0.5], side=100) == "M12.3 50"


def test_a_missing_value_breaks_the_line():
    assert path_data([0, 0.1, 0.2, 0.3], [1, None, 0.5, 0.5]) == "M0 0M200 500L300 500"
    assert path_data([0, None], [None, 1]) == ""


@given(st.lists(FRACTIONS, max_size=12), st.floats(0.001, 0.2))
def test_spread_keeps_order_and_distance(values, gap):
    placed = spread(values, gap)
    assert all(new >= old for new, old in zip(placed, values, strict=True))
    apart = sorted(placed)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(apart))
    order = sorted(range(len(values)), key=lambda i: values[i])
    assert [placed[i] for i in order] == apart


def test_places_that_are_apart_stay():
    assert spread([0.8, 0.2, 0.5], 0.05) == [0.8, 0.2, 0.5]


@given(st.integers(1, 3000), st.integers(2, 300))
def test_thinning_keeps_the_ends(length, most):
    kept = thinned(length, most)
    assert kept[0] == 0
    assert kept[-1] == length - 1
    assert len(kept) == min(length, most)
    assert kept == sorted(set(kept))


def test_a_whisker_lies_where_its_numbers_say():
    ticks = (Tick("whole picture", 0.494, "whole", False), Tick("none", None, "centred", True))
    svg = drawn(whisker("GT-known", 0.702, [0.665, 0.738], ticks=ticks))
    dot, line, tick = svg.one("circle"), svg.one(class_="interval"), svg.one(class_="tick")
    assert (dot.attributes["cx"], dot.attributes["class"]) == ("70.2%", "dot")
    assert (line.attributes["x1"], line.attributes["x2"]) == ("66.5%", "73.8%")
    assert (tick.attributes["x1"], tick.attributes["class"]) == ("49.4%", "tick whole")
    assert svg.attributes["role"] == "img"
    title = "GT-known: 70.2 %, 95 % interval 66.5 to 73.8; whole picture 49.4 %"
    assert svg.all("title")[0].text == title


def test_an_upper_bound_is_hollow_and_says_so():
    ticks = (Tick("centred box", 0.6, "centred", True),)
    svg = drawn(whisker("MaxBoxAcc", 0.7, None, hollow=True, ticks=ticks))
    assert svg.one("circle").attributes["class"] == "dot hollow"
    assert svg.one(class_="tick").attributes["class"] == "tick centred hollow"
    words = "MaxBoxAcc: 70.0 %, an upper bound; centred box 60.0 %, an upper bound"
    assert svg.all("title")[0].text == words
    assert not svg.all(class_="interval")


def test_a_bar_reaches_from_nothing_to_its_value():
    svg = drawn(whisker("small", 0.0702, [0.01, 0.13], kind="bar"))
    bar = svg.one("rect")
    assert bar.attributes["width"] == "7.02%"
    assert "x" not in bar.attributes


def test_no_score_is_only_the_grid():
    svg = drawn(whisker("Energy", None, None))
    assert [child.tag for child in svg.children] == ["title", *["line"] * 5]
    assert [line.attributes["x1"] for line in svg.all("line")] == [
        "0%",
        "25%",
        "50%",
        "75%",
        "100%",
    ]
    assert svg.one("title").text == "Energy: no score"


def test_a_plot_holds_curves_marks_and_cursor():
    curves = [
        Curve("iou-5", [0, 0.5, 1], [0.5, 0.75, 0], label="IoU ≥ 0.5"),
        Curve("iou-5", [0, 0.5, 1], [0.5, 0.8, 0], dashed=True),
    ]
    marks = [Mark(0.46, 0.7, "chosen", "iou-5", False), Mark(0.5, 0.75, "best", "iou-5", True)]
    svg = drawn(plot("Accuracy", "Highest at 0.5.", curves, marks, ("threshold", "%"), cursor=0.46))
    assert svg.all("title")[0].text == "Accuracy"
    assert svg.one("desc").text == "Highest at 0.5."
    solid, dashed = svg.all("path")
    assert solid.attributes == {"class": "curve iou-5", "d": "M0 500L500 250L1000 1000"}
    assert dashed.attributes["class"] == "curve iou-5 dashed"
    places = [
        (c.attributes["cx"], c.attributes["cy"], c.attributes["class"]) for c in svg.all("circle")
    ]
    assert places == [("46%", "30%", "mark iou-5"), ("50%", "25%", "mark iou-5 hollow")]
    assert svg.one(class_="cursor").attributes["x1"] == "46%"
    (label,) = svg.all(class_="label")
    assert (label.text, label.attributes["y"]) == ("IoU ≥ 0.5", "50%")


def test_without_a_threshold_the_cursor_is_hidden():
    svg = drawn(plot("A", "", [Curve("pixel", [0], [1])], [], ("x", "y")))
    assert svg.one(class_="cursor").attributes["style"] == "display:none"


def test_labels_near_the_floor_stand_above_their_curve():
    low = Curve("iou-7", [0, 1], [0.05, 0], label="low")
    high = Curve("iou-3", [0, 1], [0.9, 0], label="high")
    svg = drawn(plot("A", "", [low, high], [], ("x", "y")))
    assert [int(label.attributes["dy"]) < 0 for label in svg.all(class_="label")] == [True, False]


def test_a_curve_without_values_has_no_label():
    svg = drawn(plot("A", "", [Curve("iou-3", [0, 1], [None, None], label="x")], [], ("x", "y")))
    assert not svg.all(class_="label")
    assert svg.one("path").attributes["d"] == ""


def test_a_histogram_is_split_where_a_box_counts():
    svg = drawn(histogram("IoU", "words", [0, 0.25, 0.5, 0.75, 1.0], [10, 0, 40, 20], 0.5))
    bars = svg.all("rect")
    assert [bar.attributes["x"] for bar in bars] == ["0%", "25%", "50%", "75%"]
    assert [bar.attributes["height"] for bar in bars] == ["25%", "0%", "100%", "50%"]
    assert [bar.attributes["y"] for bar in bars] == ["75%", "100%", "0%", "50%"]
    assert ["pale" in bar.attributes["class"] for bar in bars] == [True, True, False, False]
    assert bars[2].one("title").text == "IoU 0.5 to 0.75: 40 (57.1 %)"
    assert svg.one(class_="split").attributes["x1"] == "50%"


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_every_bar_fits_its_axis(counts):
    edges = [i / len(counts) for i in range(len(counts) + 1)]
    svg = drawn(histogram("IoU", "", edges, counts, 0.5))
    heights = [float(bar.attributes["height"].rstrip("%")) for bar in svg.all("rect")]
    assert max(heights) <= 100
    assert max(heights) >= 50 or not any(counts)


@given(FRACTIONS)
def test_shares_are_exact_to_a_hundredth_of_a_percent(value):
    assert float(share(value).rstrip("%")) == pytest.approx(100 * value, abs=0.0051)


def test_what_is_named_is_escaped():
    assert "<b>" not in whisker("<b>", 0.5, None)
    assert "<b>" not in plot("<b>", "<b>", [], [Mark(0, 0, "<b>", "x", True)], ("<b>", "<b>"))
    assert "<b>" not in histogram("<b>", "<b>", [0, 1], [1], 0.5)
