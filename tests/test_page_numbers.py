"""The page's numbers are Python's: maps, heat and boxes of many classes, recipes, thresholds."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from gapcam.boxes import find_regions, scale_box
from gapcam.localizer import Localizer
from gapcam.recipes import DEFAULT, RECIPES
from gapcam.refine import similarity
from gapcam.resample import resample
from serving import serving_here
from web_site import needs_browser

pytest_plugins = ["page_fixtures"]
pytestmark = needs_browser

THRESHOLDS = (0.1, 0.3, 0.48, 0.7)
ROUNDING = 0.001
"""Of heat, by maps of 16-bit numbers."""
MODULES = """
    const { openSource } = await import("/server_source.js");
    const { createAnswers } = await import("/answers.js");
    const { rank } = await import("/scores.js");
    const { evidenceOf, heatOf, valueAt } = await import("/maps.js");
    const { findRegions } = await import("/boxes.js");
"""


@pytest.fixture(scope="module", params=["default", "best", "paper"])
def served(request, page_browser, page_server, quick):
    """A page of a server with a recipe, and the same localizer in Python."""
    ours = Localizer(quick.engine, quick.card, RECIPES[request.param])
    with serving_here(ours) if request.param != "default" else nullcontext() as own:
        yield at_server(page_browser, own or page_server), ours


@pytest.fixture
def page(page_browser, page_server):
    return at_server(page_browser, page_server)


def at_server(browser, server):
    """At an address of the server that does nothing by itself."""
    browser.open(f"{server.address}/page.json")
    return browser


def in_page(page, body):
    return page.run(f"(async () => {{ {MODULES} {body} }})()")


def seen_by_both(served, path, ids):
    """What page and library make of a picture: the page's answer, `Seen`, and its size."""
    page, ours = served
    found = in_page(
        page,
        f"""
        const blob = await (await fetch("/samples/{path.name}")).blob();
        const source = await openSource({{}});
        const seen = await source.look(blob, "{path.name}");
        const answers = createAnswers(source.model);
        const boxes = {list(THRESHOLDS)}.map((threshold) => {ids}.map((classId) =>
            answers.place(seen, classId, threshold).regions.map(({{ box }}) => box)));
        return {{
            boxes,
            said: [...seen.boxes].map(([classId, boxes]) => [classId, boxes,
                answers.place(seen, classId, source.model.recipe.threshold).regions]),
            maps: {ids}.map((classId) => [...seen.maps.get(classId).data]),
            heat: {ids[:20]}.map((classId) => [...answers.heat(seen, classId).data]),
            equal: {ids}.map((classId) => answers.proof(seen, classId).equal),
            best: rank(seen.logits).slice(0, 20),
            size: [seen.height, seen.width], count: seen.maps.size,
        }};
        """,
    )
    picture = ours.read(path)
    return found, ours.see([picture], np.array(ids)), picture.size_hw


def test_boxes_are_python_s_within_a_pixel(served, cat):
    """Of 60 classes (40 of recipes that refine), at four thresholds.

    Maps travel as 16-bit numbers. Where the library's own box jumps when the threshold moves by
    what they round, there is no box to agree with; such cases must be few.
    """
    path = cat.with_name("astronaut.jpg")
    best = [d.class_id for d in served[1](path, top=20).detections]
    count = 40 if served[1].recipe.refine == "none" else 20
    others = np.random.default_rng(1).choice(1000, count, replace=False).tolist()
    ids = list(dict.fromkeys([*best, *others]))
    found, seen, size_hw = seen_by_both(served, path, ids)
    assert tuple(found["size"]) == size_hw
    assert found["count"] == 1000
    assert found["best"] == list(dict.fromkeys(best))
    assert all(found["equal"])
    assert np.abs(np.array(found["maps"]) - seen.maps[0].reshape(len(ids), -1)).max() < 0.02
    heat = seen.heat[0].reshape(len(ids), -1)
    assert np.abs(np.array(found["heat"]) - heat[: len(found["heat"])]).max() < ROUNDING
    checked = jumping = 0
    for threshold, theirs in zip(THRESHOLDS, found["boxes"], strict=True):
        recipe = replace(served[1].recipe, threshold=threshold)
        for plane, boxes in zip(seen.heat[0], theirs, strict=True):
            expected = boxes_of(plane, recipe, size_hw)
            if jumps(plane, recipe, size_hw):
                jumping += 1
                continue
            assert len(boxes) == len(expected)
            assert np.abs(np.subtract(boxes, expected)).max(initial=0) < 1
            checked += len(boxes)
    assert checked > 2.5 * len(ids)
    assert jumping < 0.1 * checked


def boxes_of(heat, recipe, size_hw):
    regions = find_regions(heat, recipe)
    return [scale_box(region.box_xyxy, heat.shape, size_hw) for region in regions]


def jumps(heat, recipe, size_hw):
    """Whether the boxes change abruptly next to this threshold."""
    low, high = (
        boxes_of(heat, replace(recipe, threshold=recipe.threshold + step), size_hw)
        for step in (-ROUNDING, ROUNDING)
    )
    return len(low) != len(high) or np.abs(np.subtract(low, high)).max(initial=0) > 4


def test_the_server_s_own_boxes_are_the_page_s(served, cat):
    found, _, _ = seen_by_both(served, cat.with_name("coffee.jpg"), [0])
    expected = served[1](cat.with_name("coffee.jpg"))
    assert [classId for classId, _, _ in found["said"]] == list(
        dict.fromkeys(d.class_id for d in expected.detections)
    )
    for _, boxes, regions in found["said"]:
        for box, region in zip(boxes, regions, strict=True):
            assert region["box"] == pytest.approx(box, abs=1)


@pytest.mark.parametrize("components", ["largest", "all", "instances", "released"])
def test_every_component_rule_is_python_s(page, components):
    """On smooth noise, which has many regions, holes, ties and borders."""
    rng = np.random.default_rng(2)
    cases, expected = [], []
    for i in range(8 if components == "released" else 60):
        coarse = rng.normal(size=tuple(rng.integers(3, 15, 2))).astype(np.float32)
        heat = np.clip(resample(coarse, (56, 56) if i % 2 else (40, 61), "bicubic"), 0, None)
        heat = heat / heat.max()
        threshold = float(rng.uniform(0.05, 0.17 if components == "released" else 0.8))
        recipe = replace(DEFAULT, components=components, threshold=threshold)
        cases.append([heat.astype(float).ravel().tolist(), *heat.shape, threshold])
        expected.append([(*r.box_xyxy, *r.peak_xy, r.area) for r in find_regions(heat, recipe)])
    found = in_page(
        page,
        f"""
        return {json.dumps(cases)}.map(([data, height, width, threshold]) => findRegions(
            {{ data: Float32Array.from(data), height, width }},
            {{ components: "{components}", threshold, min_area_share: {DEFAULT.min_area_share},
               prominence: {DEFAULT.prominence} }},
        ).regions.map(({{ box, peak, area }}) => [...box, ...peak, area]));
        """,
    )
    for theirs, ours in zip(found, expected, strict=True):
        assert len(theirs) == len(ours)
        assert np.abs(np.subtract(theirs, ours)).max(initial=0) < 1e-6


@pytest.mark.parametrize(
    "changes",
    [
        *({"normalize": "max"}, {"normalize": "ivr"}, {"upsample": "bilinear"}, {"refine": "none"}),
        *({"evidence_size_hw": (448, 448), "refine": "none"}, {"evidence_size_hw": (320, 320)}),
    ],
)
def test_every_way_to_heat_is_python_s(page, quick, cat, changes):
    ours = Localizer(quick.engine, quick.card, replace(DEFAULT, **changes))
    picture = ours.read(cat)
    out = quick.engine.run_maps(picture.pixels[np.newaxis], np.arange(12))
    finer = None
    if picture.evidence_pixels is not None:
        finer = quick.engine.run_maps(picture.evidence_pixels[np.newaxis], np.arange(12)).maps[0]
    alike = similarity(out.fine_features, ours.recipe.centring)
    facts = {
        "maps": [plane(a) for a in out.maps[0]],
        "finer": None if finer is None else [plane(a) for a in finer],
        "similarity": plane(alike[0]) | {"height": 14, "width": 14},
        "recipe": {k: getattr(ours.recipe, k) for k in ours.recipe.__slots__},
    }
    heat = in_page(
        page,
        f"""
        const {{ maps, finer, similarity, recipe }} = {json.dumps(facts)};
        const byId = (planes) => planes && new Map(planes.map((plane, i) => [i, plane]));
        const seen = {{ maps: byId(maps), finer: byId(finer), similarity }};
        return maps.map((map, i) => [...heatOf(evidenceOf(seen, i, recipe), map, recipe).data]);
        """,
    )
    expected = ours.see([picture], np.arange(12)).heat[0]
    assert np.abs(np.array(heat) - expected.reshape(12, -1)).max() < 1e-4


def plane(values):
    height, width = values.shape
    return {"data": values.astype(float).ravel().tolist(), "height": height, "width": width}


def test_a_map_with_no_positive_value_is_never_a_hot_spot(page):
    heat = in_page(
        page,
        """
        const map = { data: new Float32Array(49).fill(-1), height: 7, width: 7 };
        map.data[0] = -0.01;
        const alike = { data: new Float32Array(196 * 196).fill(1), height: 14, width: 14 };
        const seen = { maps: new Map([[0, map]]), finer: null, similarity: alike };
        const { recipe } = (await openSource({})).model;
        return [...heatOf(evidenceOf(seen, 0, recipe), map, recipe).data];
        """,
    )
    assert not np.any(heat)


def test_a_point_is_read_between_the_cells(page):
    rng = np.random.default_rng(3)
    coarse = rng.normal(size=(5, 7)).astype(np.float32)
    large = resample(coarse, (20, 28), "bilinear")
    values = in_page(
        page,
        f"""
        const plane = {{ data: {coarse.astype(float).ravel().tolist()}, height: 5, width: 7 }};
        return [...Array(20 * 28).keys()].map((i) =>
            valueAt(plane, ((i % 28) + 0.5) / 28, (Math.floor(i / 28) + 0.5) / 20));
        """,
    )
    assert np.abs(np.reshape(values, (20, 28)) - large).max() < 1e-5
