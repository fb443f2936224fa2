"""`browser_source.js`: what the page gets from a model file in the browser is what gapcam gives."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace

import numpy as np
import onnx
import pytest
from PIL import Image

import gapcam
from gapcam.exporting import export
from gapcam.exporting_web import export_web
from gapcam.models.model_file import card_to_metadata
from gapcam.recipes import RECIPES
from gapcam.types import Preprocessing
from head_nets import CLASSES, NETS, SIDE, old_onnx
from web_site import RUNTIME, in_page, needs_browser, needs_runtime, offline_browser, served

pytestmark = [needs_browser, needs_runtime]

WANTS = Preprocessing((SIDE, SIDE), (120.0, 110.0, 100.0), (60.0, 58.0, 56.0))

OPEN = """
    const { openSource } = await import("/deep/site/browser_source.js");
    const { bestClasses } = await import("/deep/site/network.js");
    const { evidenceOf, heatOf } = await import("/deep/site/maps.js");
    const { findRegions, scaleBox } = await import("/deep/site/boxes.js");
    const settings = await (await fetch("/deep/site/page.json")).json();
    const told = [];
    const open = (more = {}) => openSource({ ...settings, ...more }, (text) => told.push(text));
    const blobOf = async (url) => (await fetch(url)).blob();
    const boxesOf = (seen, classId, { recipe, placeless }) => {
        if (placeless.includes(classId)) return [];
        const heat = heatOf(evidenceOf(seen, classId, recipe), seen.maps.get(classId), recipe);
        return findRegions(heat, recipe).regions.map(({ box }) => scaleBox(box, heat, seen));
    };
    const fault = (promise) => promise.then(() => "no error", (error) => error.message);
"""
LOOK = """
    const look = async (source, url, asked) => {
        const seen = await source.look(await blobOf(url), "a.jpg");
        const atOnce = source.model.all_maps ? null : [...seen.maps.keys()];
        const classes = asked ?? bestClasses(seen.logits, source.model.recipe.top);
        await source.mapsOf(seen, classes);
        return {
            logits: [...seen.logits], scores: [...seen.scores], classes, gap: seen.gap, atOnce,
            size: [seen.height, seen.width], notes: seen.notes, finer: seen.finer?.size ?? 0,
            maps: classes.map((id) => [...seen.maps.get(id).data]),
            boxes: classes.map((id) => boxesOf(seen, id, source.model)),
        };
    };
"""


@pytest.fixture(scope="module")
def site(quick, tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    export_web(quick.engine.path, root / "deep" / "site", runtime=RUNTIME)
    with served(root) as site:
        yield site


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    with offline_browser(tmp_path_factory.mktemp("browser")) as driven:
        yield driven


@pytest.fixture(scope="module")
def opened(driven, site):
    """A page with the export's policy that has opened its source."""
    driven.open(f"{site.address}bare.html")
    in_page(driven, f"{OPEN} Object.assign(globalThis, {{ source: await open(), told }});")
    return driven


@pytest.fixture
def page(opened, site):
    """That page; after the test it has complained of nothing, and asked no other server."""
    yield opened
    said, opened.said[:] = list(opened.said), []
    assert said == []
    assert all(url.startswith((site.address, "blob:", "data:")) for url in opened.requests)


@pytest.fixture
def here(site, request):
    """A folder of the test's own that is served, and its address in the page."""
    folder = site.root / "deep" / request.node.name.partition("[")[0]
    folder.mkdir(exist_ok=True)
    yield folder
    shutil.rmtree(folder)


def look(page, url, asked=None):
    """What the page's source sees in a picture of the site."""
    return in_page(page, f"{OPEN}{LOOK} return look(source, url, asked);", url=url, asked=asked)


def assert_as_gapcam(found, ours, scores=1e-3):
    """Classes, scores, maps and boxes of a `Localization`, the boxes to a pixel."""
    assert found["size"] == list(ours.size_hw)
    boxes = {}
    for d in ours.detections:
        boxes.setdefault(d.class_id, []).append(d)
    assert found["classes"] == list(boxes)
    for class_id, theirs, data in zip(
        *(found[k] for k in ("classes", "boxes", "maps")), strict=True
    ):
        detections = boxes[class_id]
        assert found["scores"][class_id] == pytest.approx(detections[0].score, abs=scores)
        kept = [d.box_xyxy for d in detections if d.box_xyxy is not None]
        assert len(theirs) == len(kept)
        for box, expected in zip(theirs, kept, strict=True):
            assert box == pytest.approx(expected, abs=1)
        change = np.abs(np.array(data) - detections[0].map.ravel()).max()
        assert change <= 0.02 * np.ptp(detections[0].map)


@pytest.mark.parametrize("name", ["default", "paper", "best"])
def test_its_boxes_are_gapcams_to_a_pixel(page, quick, name):
    localizer = gapcam.Localizer(quick.engine, quick.card, RECIPES[name])
    in_page(page, "source.model.recipe = recipe;", recipe=asdict(RECIPES[name]))
    for path in gapcam.sample_pictures():
        found = look(page, f"/deep/site/samples/{path.name}")
        assert_as_gapcam(found, localizer(path))
        assert found["gap"]["exact"]
        assert found["gap"]["largest_gap"] < 1e-4
    in_page(page, "source.model.recipe = recipe;", recipe=asdict(RECIPES["default"]))


def test_any_class_has_a_map(page, quick, cat):
    everything = list(range(1000))
    found = look(page, "/deep/site/samples/cat.jpg", everything)
    ours = quick(cat, classes=everything)
    maps = np.stack([d.map.ravel() for d in ours.detections])
    assert np.abs(np.array(found["maps"]) - maps).max() <= 0.02 * np.ptp(maps)
    nowhere = [d.box_xyxy is None for d in ours.detections]
    assert any(nowhere)
    none = [not boxes for boxes in found["boxes"]]
    assert np.mean(np.equal(none, nowhere)) > 0.99
    size, ids, three = in_page(
        page,
        OPEN
        + """
        const seen = await source.look(await blobOf("/deep/site/samples/cat.jpg"), "cat.jpg");
        const { maps } = seen;
        const odd = [maps.has(-1), maps.has(1000), maps.has(1.5), maps.get(1000) === undefined];
        let last = null;
        maps.forEach((map, id) => { last = [id, map === maps.get(id)]; });
        const same = [...maps.values()].every((map, id) => map === maps.get(id));
        return [maps.size, [...maps.keys()], [...odd, ...last, same, new Map(maps).size]];
        """,
    )
    assert (size, ids) == (1000, everything)
    assert three == [False, False, False, True, 999, True, True, 1000]


def export_of(net, path, **sizes):
    """A small network's model file, made from what PyTorch's older exporter writes."""
    (path.parent / "net.onnx").write_bytes(old_onnx(NETS[net](), **sizes))
    labels = [f"class {i}" for i in range(CLASSES)]
    export(path.parent / "net.onnx", path, labels=labels, preprocessing=WANTS)
    return gapcam.load(path, threads=1)


def with_card(localizer, path, **changes):
    """A copy of its model file that says other things of itself."""
    proto = onnx.load(localizer.engine.path)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, card_to_metadata(replace(localizer.card, **changes)))
    onnx.save(proto, path)
    return gapcam.load(path, threads=1)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_head_that_is_not_linear(page, site, here, passes, cat):
    """Maps of the best classes at once, of others when asked; they do not add up to the scores."""
    ours = export_of("gap_hidden", here / "hidden.onnx")
    evidence_hw = (SIDE, SIDE) if passes == 2 else None
    recipe = replace(ours.recipe, evidence_size_hw=evidence_hw, top=2)
    ours = gapcam.Localizer(ours.engine, ours.card, recipe)
    Image.open(cat).save(here / "cat.png")
    model, found, more = in_page(
        page,
        f"""{OPEN}{LOOK}
        const source = await open({{ ...changes, proof: undefined }});
        source.model.max_top = 2;
        const found = [await look(source, url), await look(source, url, [6, 2])];
        source.close();
        return [source.model, ...found];
        """,
        changes={"model": site.path_of(here / "hidden.onnx"), "recipe": asdict(recipe)},
        url=f"{site.path_of(here)}/cat.png",
    )
    for shown, expected in (
        (found, ours(here / "cat.png")),
        (more, ours(here / "cat.png", classes=[6, 2])),
    ):
        assert_as_gapcam(shown, expected)
        maps = [d.map.ravel() for d in expected.detections]
        np.testing.assert_allclose(shown["maps"], maps, atol=2e-3 * np.ptp(maps))
        assert shown["atOnce"] == found["classes"]
        assert not shown["gap"]["exact"]
    assert found["finer"] == (2 if passes == 2 else 0)
    assert more["finer"] == (len({*found["classes"], 6, 2}) if passes == 2 else 0)
    assert (model["all_maps"], model["exact"], model["head"]) == (False, False, "gap-hidden")
    assert model["proof"] == "Maps of gap-hidden heads are first-order or the paper's, NOT exact."


def test_sigmoid_scores_and_a_class_without_a_place(page, site, here, quick, cat):
    best = quick(cat).detections[0].class_id
    ours = with_card(quick, here / "sigmoid.onnx", scores="sigmoid", placeless=(best,))
    found = in_page(
        page,
        f"{OPEN}{LOOK} const source = await open({{ model }}); "
        "const found = await look(source, '/deep/site/samples/cat.jpg'); source.close(); "
        "return found;",
        model=site.path_of(here / "sigmoid.onnx"),
    )
    assert_as_gapcam(found, ours(cat), scores=1e-2)
    assert found["boxes"][0] == []
    assert all(found["boxes"][1:])
    assert sum(found["scores"]) > 2


def test_it_says_what_a_server_says_of_a_model(page, quick):
    model, place, told = in_page(page, "return [source.model, source.place, told];")
    card, recipe = quick.card, quick.recipe
    assert model["labels"] == list(card.labels)
    assert model["aliases"] == [list(names) for names in card.aliases]
    assert model["recipe"] == {**asdict(recipe), "input_size_hw": list(recipe.input_size_hw)}
    for name in ("name", "version", "head", "features_at", "scores"):
        assert model[name] == getattr(card, name)
    assert (model["placeless"], model["all_maps"], model["max_top"]) == ([], True, 1000)
    np.testing.assert_allclose(model["bias"], quick.engine.bias, rtol=1e-6)
    assert model["model_sha256"] == quick.engine.fingerprint
    assert model["exact"]
    assert "class maps are exact. Largest |mean(map) + bias - logit|" in model["proof"]
    assert model["largest_gap"] < 1e-5
    assert set(model["limits"]) == {"max_bytes", "max_pixels", "max_pictures", "max_classes"}
    assert place == "stay in this browser"
    assert told[0].startswith("Loading the model: ")
    assert told[-2:] == ["Loading the model: 100 % of 33 MB …", "Starting the network …"]


def test_a_huge_picture_is_read_smaller_and_says_so(page, site, here):
    Image.new("RGB", (9000, 30), "teal").save(here / "wide.png")
    found = look(page, f"{site.path_of(here)}/wide.png")
    assert (found["size"], found["notes"]) == ([30, 9000], ["read at 4096 × 14 pixels"])


def test_what_cannot_be_used_is_said_and_the_next_picture_is_looked_at(page, quick):
    faults, size = in_page(
        page,
        OPEN
        + """
        const source = await open();
        const faults = [];
        const blob = await blobOf(cat);
        for (const parts of [["no picture"], [], [blob.slice(0, 90)]])
            faults.push(await fault(source.look(new Blob(parts), "x.jpg")));
        const large = Object.defineProperty(new Blob(["x"]), "size", { value: 2 ** 30 });
        faults.push(await fault(source.look(large, "x.jpg")));
        const [seen] = await Promise.all([source.look(blob, "a"), source.look(blob, "b")]);
        source.close();
        faults.push(await fault(source.look(new Blob(), "x.jpg")));
        return [faults, [seen.height, seen.width]];
        """,
        cat="/deep/site/samples/cat.jpg",
    )
    unreadable = "x.jpg: this browser cannot read it as a picture; try a JPEG or PNG"
    large = f"x.jpg: {2**30} bytes, expected at most {2**29}"
    assert faults == [*[unreadable] * 3, large, "x.jpg: closed"]
    assert size == [300, 451]


def test_a_model_that_cannot_be_used_is_said(page, site, here, quick):
    (here / "words.onnx").write_bytes(b"<!doctype html>")
    (here / "foreign.onnx").write_bytes(b"\x08\x08")
    (here / "broken.js").write_text("this is no module")
    proto = onnx.load(quick.engine.path)
    next(p for p in proto.metadata_props if p.key == "gapcam.format").value = "99"
    onnx.save(proto, here / "newer.onnx")
    del proto.metadata_props[:]
    del proto.graph.node[-1]
    onnx.helper.set_model_props(proto, card_to_metadata(quick.card))
    onnx.save(proto, here / "damaged.onnx")
    at = site.path_of(here)
    base = f"{site.address[:-1]}{at}"
    cases = [
        ({"model": f"{at}/words.onnx"}, f"{base}/words.onnx: not an ONNX file."),
        ({"model": f"{at}/foreign.onnx"}, "this ONNX file was not exported by gapcam."),
        ({"model": f"{at}/newer.onnx"}, "model file format 99, this page reads format 3. Export"),
        ({"model": f"{at}/damaged.onnx"}, f"{base}/damaged.onnx: "),
        ({"runtime": f"{at}/broken.js"}, f"{base}/broken.js: cannot be used ("),
        ({"model": "http://127.0.0.1:9/m.onnx"}, "m.onnx: cannot be fetched (Failed to fetch)"),
    ]
    faults = in_page(
        page,
        OPEN
        + "const out = []; for (const more of all) out.push(await fault(open(more))); return out;",
        all=[more for more, _ in cases],
    )
    for fault, (_, words) in zip(faults, cases, strict=True):
        assert words in fault
    missing = in_page(page, OPEN + "return fault(open({ wasm: 'gone.wasm' }));")
    assert missing.endswith(
        "gone.wasm: not there (404). Write the folder again: gapcam export MODEL --web DIR."
    )
    page.said.clear()  # the refused and missing files, which are meant here


REACH = """
    const code = `fetch("${other}").then(() => "reached", (e) => e.message).then(postMessage)`;
    const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    return new Promise((tell) => {
        new Worker(url, { type: "module" }).onmessage = ({ data }) => tell(data);
    });
"""


def test_the_policy_rules_the_page_and_its_workers(page, site, tmp_path):
    """Neither can reach another server, even one that would answer."""
    with served(tmp_path) as other:
        found = in_page(page, REACH, other=f"{other.address}bare.html")
        own = in_page(page, REACH, other=f"{site.address}bare.html")
        direct = in_page(
            page, "return fetch(other).then(() => 'reached', () => 'refused');", other=other.address
        )
        assert (found, own, direct) == ("Failed to fetch", "reached", "refused")
        assert other.asked == []
    assert all("Content Security Policy" in said for said in page.said)
    page.said.clear()
