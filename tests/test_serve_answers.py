"""What the server answers is what the library gives, and a reader of it can cut the same boxes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

import gapcam
from gapcam.boxes import find_regions, scale_box
from gapcam.localizer import to_heat
from gapcam.page import page_files
from gapcam.recipes import BEST, PAPER
from gapcam.serve import ServeOptions, create_app
from gapcam.serve.pages import TYPES
from gapcam.serve.schema import LocalizeOut, ModelOut
from gapcam.serve.work import half
from gapcam.types import ArgumentError, ModelError
from head_nets import CLASSES, NETS
from picture_files import encode, smooth_pixels
from serving import array, ask, form, post_picture, refused

SAMPLES = {path.name: path.read_bytes() for path in gapcam.sample_pictures()}
CAT = SAMPLES["cat.jpg"]


@pytest.fixture(scope="module")
def app(quick):
    return create_app(quick)


@pytest.fixture(scope="module")
def bent():
    """A network whose head is not linear."""
    labels = [f"class {i}" for i in range(CLASSES)]
    return gapcam.load(NETS["gap_hidden"](), labels=labels, preprocessing="0..1", threads=1)


def assert_same(shown: dict, found: gapcam.Localization) -> None:
    assert (shown["height"], shown["width"]) == found.size_hw
    assert shown["notes"] == list(found.notes)
    for ours, theirs in zip(shown["detections"], found.detections, strict=True):
        assert (ours["label"], ours["class_id"]) == (theirs.label, theirs.class_id)
        assert ours["score"] == pytest.approx(theirs.score, abs=1e-5)
        np.testing.assert_allclose(ours["box"], theirs.box_xyxy, atol=0.02)
        np.testing.assert_allclose(ours["peak"], theirs.peak_xy, atol=0.006)


@pytest.mark.parametrize("name", SAMPLES)
def test_one_picture_is_answered_as_the_library_does(app, quick, name):
    answer = post_picture(app, SAMPLES[name], "?top=3")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    LocalizeOut.model_validate_json(answer.content)
    assert body["model"] == "efficientnet-lite0"
    assert body["model_sha256"] == quick.engine.fingerprint
    assert body["recipe"] == "default"
    (shown,) = body["results"]
    assert shown["maps"] is None
    assert_same(shown, quick(SAMPLES[name], top=3))


def test_several_pictures_come_back_in_their_order_and_what_cannot_be_read_in_its_place(app, quick):
    grey = encode(gapcam.images.Image.fromarray(smooth_pixels(40, 30)).convert("L"), "PNG")
    files = form(("a/cat.jpg", CAT), ("notes.txt", b"hello"), ("grey.png", grey), ("", b"x"))
    answer = ask(app, "POST", "/v1/localize", files=[*files[:3], ("pictures", ("z", CAT[:999]))])
    assert answer.status_code == 200
    LocalizeOut.model_validate_json(answer.content)
    cat, text, plain, short = answer.json()["results"]
    assert (cat["name"], plain["name"]) == ("a/cat.jpg", "grey.png")
    assert_same(cat, quick(CAT))
    assert_same(plain, quick(grey))
    assert text == {"name": "notes.txt", "error": text["error"]}
    assert text["error"]["kind"] == short["error"]["kind"] == "picture"
    assert text["error"]["message"].startswith("notes.txt: expected a picture (JPEG")
    assert "z: expected a whole picture, but it is broken" in short["error"]["message"]
    assert "<bytes>" not in answer.text


def test_what_the_reader_chose_is_said(app):
    clear = gapcam.images.Image.new("RGBA", (30, 20), (255, 0, 0, 9))
    (shown,) = post_picture(app, encode(clear, "PNG")).json()["results"]
    assert shown["notes"] == ["transparent parts shown on white"]
    assert (shown["name"], shown["width"], shown["height"]) == ("picture", 30, 20)


@pytest.mark.parametrize("name", ["tabby", "281", "Tabby", "n02123045"])
def test_a_class_is_named_in_any_way_that_the_library_knows(app, quick, name):
    (shown,) = post_picture(app, CAT, f"?class={name}&class=goldfish").json()["results"]
    assert [found["class_id"] for found in shown["detections"]] == [281, 1]
    assert_same(shown, quick(CAT, classes=[281, 1]))


def test_long_names_are_found_and_not_kept(app):
    """Memory is bounded, and a name may be as long as an address."""
    kept = app.state.service._kept_id.cache_info
    before = kept().currsize
    for name in ("_" * 5000 + "Tabby", "Tabby" + "+" * 5000):
        (shown,) = post_picture(app, CAT, f"?class={name}").json()["results"]
        assert [found["class_id"] for found in shown["detections"]] == [281]
    assert kept().currsize == before


@pytest.mark.parametrize("maps", ["found", "all"])
def test_maps_are_those_of_the_library(app, quick, maps):
    found = quick(CAT, top=4)
    (shown,) = post_picture(app, CAT, f"?top=4&maps={maps}").json()["results"]
    assert_same(shown, found)
    sent = shown["maps"]
    ids = [d.class_id for d in found.detections]
    out = quick.engine.run(quick.read(CAT).pixels[np.newaxis])
    logits = array(sent["logits"], "<f4", (1000,))
    np.testing.assert_allclose(logits, out.logits[0], atol=1e-4)
    assert sent["size_hw"] == [7, 7]
    if maps == "found":
        assert sent["class_ids"] == ids
        values = array(sent["values"], "<f2", (4, 7, 7)).astype(np.float32)
    else:
        assert sent["class_ids"] is None
        values = array(sent["values"], "<f2", (1000, 7, 7)).astype(np.float32)
        assert np.abs(values.mean((1, 2)) + quick.engine.bias - logits).max() < 0.01
        values = values[ids]
    for ours, theirs in zip(values, found.detections, strict=True):
        np.testing.assert_allclose(ours, theirs.map, rtol=1e-3, atol=1e-3)
    assert sent["finer_size_hw"] is sent["finer_values"] is None
    similar = array(sent["similarity"], "<f2", (196, 196))
    np.testing.assert_allclose(similar, similar.T, atol=1e-3)
    np.testing.assert_allclose(np.diag(similar), 1, atol=1e-3)
    assert similar.min() >= 0


def cubic(near: float) -> float:
    d = abs(near)
    if d <= 1:
        return 1.25 * d**3 - 2.25 * d**2 + 1
    return -0.75 * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0


def enlarged(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic resizing, spelled out: half-pixel centres, edges repeated."""

    def taps(count: int, size: int) -> np.ndarray:
        table = np.zeros((size, count))
        for i in range(size):
            at = (i + 0.5) * count / size - 0.5
            for cell in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
                table[i, min(max(cell, 0), count - 1)] += cubic(at - cell)
        return table

    return taps(plane.shape[0], height) @ plane @ taps(plane.shape[1], width).T


def refined(plane: np.ndarray, similar: np.ndarray, height: int, width: int) -> np.ndarray:
    if plane.max() <= 0:
        return np.zeros((height, width))
    seeds = np.maximum(enlarged(plane, height, width), 0).ravel()
    return (similar @ seeds / similar.sum(1)).reshape(height, width)


def evidence_of(maps: dict, row: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A class's map and its evidence, from the answer alone, as docs/serve.md says."""
    plane = array(maps["values"], "<f2", (count, *maps["size_hw"]))[row].astype(float)
    if maps["similarity"] is None:
        return plane, plane
    height, width = maps["similarity_hw"]
    similar = array(maps["similarity"], "<f2", (height * width,) * 2).astype(float)
    evidence = refined(plane, similar, height, width)
    if maps["finer_values"] is not None:
        finer = array(maps["finer_values"], "<f2", (count, *maps["finer_size_hw"]))[row]
        second = refined(finer.astype(float), similar, height, width)
        evidence = (evidence / (evidence.max() or 1) + second / (second.max() or 1)) / 2
    return plane, evidence


@pytest.mark.parametrize("recipe", [None, BEST, PAPER], ids=["default", "best", "paper"])
def test_a_reader_of_the_maps_cuts_the_same_boxes(quick, recipe):
    localizer = gapcam.Localizer(quick.engine, quick.card, recipe)
    app = create_app(localizer)
    names = [*SAMPLES] if recipe is None else ["cat.jpg", "rocket.jpg"]
    for name in names:
        shown = post_picture(app, SAMPLES[name], "?top=3&maps=all").json()["results"][0]
        size_hw = (shown["height"], shown["width"])
        for found in shown["detections"]:
            plane, evidence = evidence_of(shown["maps"], found["class_id"], 1000)
            heat = to_heat(evidence.astype(np.float32), plane.astype(np.float32), localizer.recipe)
            boxes = [
                scale_box(region.box_xyxy, heat.shape, size_hw)
                for region in find_regions(heat, localizer.recipe)
            ]
            gaps = [np.abs(np.subtract(box, found["box"])).max() for box in boxes]
            assert min(gaps) < 0.5, (name, found, boxes)
    app.state.service.close()


def test_a_head_that_is_not_linear_gives_maps_of_what_is_asked_for(bent):
    app = create_app(bent)
    assert ask(app, "GET", "/v1/model").json()["all_maps"] is False
    message = refused(post_picture(app, CAT, "?maps=all"), 422, "argument")
    assert "every class costs a pass through it; ask for maps=found" in message
    answer = post_picture(app, CAT, "?maps=found&top=7")
    (shown,) = answer.json()["results"]
    found = bent(CAT, top=7)
    assert [d["class_id"] for d in shown["detections"]] == [d.class_id for d in found.detections]
    maps = shown["maps"]
    values = array(maps["values"], "<f2", (7, *maps["size_hw"]))
    for row, one in enumerate(found.detections):
        np.testing.assert_allclose(values[row], one.map, rtol=2e-3, atol=1e-3)
    LocalizeOut.model_validate_json(answer.content)
    ModelOut.model_validate_json(ask(app, "GET", "/v1/model").content)
    with pytest.raises(ArgumentError, match="maps of every class: this head is not linear"):
        bent.see([bent.read(CAT)], 1, every=True)


def test_the_model_says_what_a_page_needs(app, quick):
    answer = ask(app, "GET", "/v1/model", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    plain = ask(app, "GET", "/v1/model", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == answer.content
    ModelOut.model_validate_json(answer.content)
    model = answer.json()
    assert model["name"] == "efficientnet-lite0"
    assert model["version"] == gapcam.__version__
    assert model["labels"] == list(quick.card.labels)
    assert model["aliases"]["281"][0] == "n02123045"
    assert model["recipe"]["input_size_hw"] == model["input_size_hw"] == [224, 224]
    assert model["recipe"]["threshold"] == quick.recipe.threshold
    assert (model["exact"], model["all_maps"], model["scores"]) == (True, True, "softmax")
    assert model["proof"].startswith("efficientnet-lite0: class maps are exact.")
    assert model["largest_gap"] < 1e-4
    np.testing.assert_array_equal(np.float32(model["bias"]), quick.engine.bias)
    assert (model["max_top"], model["placeless"]) == (100, [])
    assert model["limits"]["max_pixels"] == ServeOptions().max_pixels


def test_the_recipes_own_number_of_classes_is_the_default(quick):
    app = create_app(gapcam.Localizer(quick.engine, quick.card, replace(quick.recipe, top=2)))
    assert len(post_picture(app, CAT).json()["results"][0]["detections"]) == 2


def test_requests_at_once_each_get_their_own(app, quick):
    async def asked():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            jobs = [
                client.post("/v1/localize", params={"top": top}, files=form((name, data)))
                for name, data in SAMPLES.items()
                for top in (1, 2, 3)
            ]
            return await asyncio.gather(*jobs)

    wanted = [(name, top) for name in SAMPLES for top in (1, 2, 3)]
    for (name, top), answer in zip(wanted, asyncio.run(asked()), strict=True):
        (shown,) = answer.json()["results"]
        assert shown["name"] == name
        assert_same(shown, quick(SAMPLES[name], top=top))


def test_what_is_counted(quick):
    app = create_app(quick)
    ask(app, "POST", "/v1/localize", files=form(("a", CAT), ("b", CAT), ("c", b"no")))
    ask(app, "GET", "/nothing")
    answer = ask(app, "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if line[0] != "#")
    numbers = {name: float(value) for name, value in lines.items()}
    assert numbers['gapcam_requests_total{route="/v1/localize",status="200"}'] == 1
    assert numbers['gapcam_requests_total{route="/{name}",status="404"}'] == 1
    assert numbers['gapcam_pictures_total{outcome="localized"}'] == 2
    assert numbers['gapcam_pictures_total{outcome="refused"}'] == 1
    assert numbers["gapcam_batch_pictures_sum"] == 3
    assert numbers["gapcam_queue_pictures"] == numbers["gapcam_held_bytes"] == 0
    for stage in ("receive", "wait", "read", "run", "write", "answer"):
        assert numbers[f'gapcam_stage_seconds_count{{stage="{stage}"}}'] >= 1
    again = ask(create_app(quick), "GET", "/metrics").text  # another server counts for itself
    assert 'route="/v1/localize"' not in again


def test_maps_too_large_for_16_bits_are_refused_and_not_infinite():
    np.testing.assert_array_equal(half(np.float32([[65504, -1.5]])), np.float16([[65504, -1.5]]))
    with pytest.raises(ModelError, match=r"maps: a value of 7e\+04 is too large for the 16 bits"):
        half(np.float32([[0, -7e4]]))


def test_the_page_and_the_samples_are_served(app, cat: Path):
    assert ask(app, "GET", "/page.json").json() == {
        "source": "server",
        "api": "v1",
        "samples": [{"name": name, "url": f"samples/{name}"} for name in SAMPLES],
    }
    sample = ask(app, "GET", "/samples/cat.jpg")
    assert sample.content == cat.read_bytes()
    assert sample.headers["content-type"] == "image/jpeg"
    script = ask(app, "GET", "/maps.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.headers["cache-control"] == "no-cache"
    for path in ("/__init__.py", "/samples/README.md", "/samples/..%2Fmaps.js", "/../pages.py"):
        refused(ask(app, "GET", path), 404, "address")


def test_all_of_the_page_is_there(app):
    page = ask(app, "GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for path in page_files():
        answer = ask(app, "GET", f"/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"] == TYPES[path.suffix]
        if path.name == "index.html":
            assert page.content == answer.content


def test_the_description_has_no_reference_to_the_outside(app):
    description = ask(app, "GET", "/openapi.json").json()
    assert set(description["paths"]) == {"/v1/localize", "/v1/model", "/healthz", "/metrics"}
    assert "http" not in json.dumps(description["paths"])
    for path in ("/docs", "/redoc"):
        refused(ask(app, "GET", path), 404, "address")
