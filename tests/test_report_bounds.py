"""Upper bounds are marked wherever they stand."""

from __future__ import annotations

import pytest

from report_results import bounds, boxes_result, names_of, picture, section, shown, threshold


def test_upper_bounds_are_marked_wherever_they_stand():
    page = shown(boxes_result(), [picture()])
    scores = section(page, "scores")
    rows = scores.all("tr")
    marked = names_of([row for row in rows if bounds(row)])
    expected = ["Centred box", *(f"MaxBoxAcc, IoU ≥ {iou}" for iou in ("0.3", "0.5", "0.7"))]
    assert marked == [*expected, "MaxBoxAccV2"]
    hollow = names_of([row for row in rows if row.all("circle", class_="hollow")])
    assert hollow == marked
    rows = section(page, "thresholds").one("tbody").all("tr")
    assert [bounds(row) for row in rows] == [0, 0, 0, 1]
    assert [len(row.all("circle", class_="hollow")) for row in rows] == [0, 0, 0, 1]
    assert bounds(page.one(class_="lead")) == 1
    assert bounds(section(page, "curves")) == 2  # any box, and the oracle's threshold
    for name in ("scores", "where"):
        assert bounds(section(page, name).one("ul", class_="key")) == 1  # the centred box's tick
    for row in section(page, "where").all("tr"):
        assert {t.attributes["class"] for t in row.all("line", class_="centred")} <= {
            "tick centred hollow"
        }


def test_every_badge_leads_to_the_explanation():
    page = shown(boxes_result())
    badges = page.all("a", class_="badge")
    assert {badge.attributes["href"] for badge in badges} == {"#note-upper-bound"}
    assert all("new pictures will do worse" in badge.attributes["title"] for badge in badges)
    assert page.one(id="note-upper-bound").text == "Upper bound"


def test_a_centred_box_that_was_chosen_elsewhere_is_no_upper_bound():
    result = boxes_result(upper_bounds=["max_box_acc", "max_box_acc_v2", "thresholds.oracle"])
    result["baselines"]["centred_box"]["upper_bound"] = False
    page = shown(result)
    assert "; a centred box gets 63.3 %, the whole picture" in page.one(class_="lead").text
    assert bounds(section(page, "scores").row("Centred box")) == 0
    assert bounds(section(page, "where")) == 0


@pytest.mark.parametrize("said_by", ["row", "key"])
def test_what_rests_on_an_oracle_threshold_is_an_upper_bound_too(said_by):
    result = boxes_result()
    result["thresholds"] = [threshold("oracle", 0.42, 0.7016, headline=True)]
    if said_by == "key":
        result["thresholds"][0]["upper_bound"] = False
    else:
        result["upper_bounds"].remove("thresholds.oracle")
    page = shown(result)
    scores = section(page, "scores")
    for name in ("GT-known Loc", "Top-1 Loc", "Top-5 Loc", "Mean IoU"):
        assert bounds(scores.row(name)) == 1, name
        assert scores.row(name).all("circle", class_="hollow"), name
    for name in ("Top-1", "Pointing game", "Energy"):
        assert bounds(scores.row(name)) == 0, name
    first, second, _ = page.one(class_="lead").all("p")
    assert "70.2 % upper bound (66.5 to 73.8)" in first.text
    assert "58.2 % upper bound" in second.text
    titles = section(page, "where").all("h3")
    assert [bounds(title) for title in titles] == [1, 1, 1]
    assert bounds(section(page, "classes")) == 1
    figure = section(page, "curves").one("svg", class_="plot")
    assert {"hollow" in m.attributes["class"] for m in figure.all("circle")} == {True}
