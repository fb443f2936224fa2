"""The modules of an exported folder, in a real browser: their numbers are those of Python."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from gapcam.boxes import find_regions, scale_box
from gapcam.exporting_web import export_web
from gapcam.images import resize_picture
from gapcam.localizer import to_heat
from web_site import (
    RUNTIME,
    WEB,
    in_page,
    needs_browser,
    needs_runtime,
    offline_browser,
    served,
)

ROOT = Path(__file__).parent.parent

pytestmark = [needs_browser, needs_runtime]

IMPORTS = """
    const ort = await import("/site/ort/ort.wasm.bundle.min.js");
    const names = ["network", "picture", "maps", "boxes", "colours", "model_file", "scores"];
    const own = Object.assign({}, ...await Promise.all(names.map((n) => import(`/site/${n}.js`))));
    const bytes = async (url) => new Uint8Array(await (await fetch(url)).arrayBuffer());
    const rgba = async (url, rows, columns) =>
        ({ data: await bytes(url), rows, columns, height: rows, width: columns });
"""


@pytest.fixture(scope="module")
def site(quick, tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    export_web(quick.engine.path, root / "site", runtime=RUNTIME)
    with served(root) as site:
        yield site


@pytest.fixture(scope="module")
def opened(site, tmp_path_factory):
    with offline_browser(tmp_path_factory.mktemp("browser")) as driven:
        driven.open(f"{site.address}bare.html")
        load = "globalThis.model = await own.fetchModel(ort, 'site/model.onnx');"
        in_page(driven, IMPORTS + load)
        yield driven


@pytest.fixture
def page(opened, site):
    """A page of one's own, with `model`; after the test it has complained of nothing."""
    yield opened
    said, opened.said[:] = list(opened.said), []
    assert said == []
    assert all(url.startswith((site.address, "data:")) for url in opened.requests)


def run(page, body, **given):
    """What a body returns; `ort`, `own`, `model`, `bytes` and `rgba` are there."""
    return in_page(page, IMPORTS + body, **given)


def put_rgba(site, pixels):
    """Let the page fetch a picture's exact pixels, which no decoder of its own has touched."""
    opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    data = np.concatenate([pixels, opaque], axis=-1).tobytes()
    (site.root / "exact.rgba").write_bytes(data)


@pytest.mark.parametrize(
    ("from_hw", "to_hw"),
    [
        *[((300, 451), (224, 224)), ((451, 300), (224, 224)), ((37, 500), (96, 64))],
        *[((9, 7), (32, 64)), ((64, 80), (64, 80)), ((1, 1), (32, 32)), ((3, 900), (64, 32))],
    ],
)
def test_the_page_squashes_as_pillow_does(page, site, from_hw, to_hw):
    pixels = np.random.default_rng(0).integers(0, 256, (*from_hw, 3), np.uint8)
    put_rgba(site, pixels)
    small = run(
        page,
        "return [...own.squash(await rgba('exact.rgba', ...size), to)];",
        size=from_hw,
        to=to_hw,
    )
    ours = resize_picture(pixels, to_hw)
    change = np.abs(np.array(small).reshape(ours.shape) - ours.astype(int))
    assert change.max() <= 1  # Pillow takes rows or columns first, by its version and the shape
    assert change.mean() < 0.3


@pytest.mark.parametrize("name", ["cat.jpg", "rocket.jpg"])
def test_on_equal_pixels_the_maps_are_those_of_python(page, site, quick, cat, name):
    pixels = np.asarray(Image.open(cat.with_name(name)).convert("RGB"))
    put_rgba(site, pixels)
    found = run(
        page,
        """
        const picture = await rgba("exact.rgba", ...size);
        const looked = await own.look(ort, model, picture);
        const seen = own.seenFrom(looked, model.head);
        const classes = own.bestClasses(seen.logits, 5);
        const list = ({ data, height, width }) => [height, width, ...data];
        return {
            pixels: [...looked.passes[0].pixels.data],
            logits: [...seen.logits],
            classes,
            maps: classes.map((id) => list(seen.maps.get(id))),
            refined: classes.map((id) => list(own.evidenceOf(seen, id, model.card.recipe))),
            found: (await own.localize(ort, model, picture)).map(({ map, heat, ...rest }) =>
                ({ ...rest, heat: [...heat.data] })),
        };
        """,
        size=pixels.shape[:2],
    )
    size_hw = quick.recipe.input_size_hw
    session = onnxruntime.InferenceSession(quick.engine.path, providers=["CPUExecutionProvider"])
    names = ["logits", "top_classes", "top_maps", "top_refined"]
    small = np.array(found["pixels"], np.uint8).reshape(1, *size_hw, 3)
    logits, classes, maps, refined = (out[0] for out in session.run(names, {"images": small}))
    assert found["classes"] == classes.tolist()
    assert_close(found["logits"], logits)
    assert_close(planes(found["maps"]), maps)
    assert_close(planes(found["refined"]), refined)
    ours = quick(pixels)
    for theirs, d in zip(found["found"], ours.detections, strict=True):
        assert theirs["label"] == d.label
        assert theirs["score"] == pytest.approx(d.score, abs=1e-4)
        assert theirs["explained"] == pytest.approx(theirs["logit"], abs=1e-4)
        assert theirs["box"] == pytest.approx(d.box_xyxy, abs=1)
        assert theirs["boxes"] == [theirs["box"]]
        assert np.abs(np.array(theirs["heat"]) - d.heat.ravel()).max() < 1e-3


def planes(listed):
    return np.stack([np.reshape(data, (height, width)) for height, width, *data in listed])


def assert_close(found, expected):
    """Equal to a thousandth of the range."""
    assert np.shape(found) == expected.shape
    assert np.abs(np.array(found) - expected).max() <= 1e-3 * np.ptp(expected)


@pytest.mark.parametrize("centring", [0, 0.25, 1])
def test_similarity_is_that_of_python(page, centring):
    from gapcam.refine import similarity

    features = np.random.default_rng(3).normal(0.5, 1, (1, 6, 4, 5)).astype(np.float32)
    features[0, :, 1, 2] = 0
    found = run(
        page,
        """
        const tensor = { data: Float32Array.from(values), dims: [1, 6, 4, 5] };
        const { data, height, width } = own.similarity(tensor, centring);
        return [[height, width], [...data]];
        """,
        values=features.ravel().tolist(),
        centring=centring,
    )
    assert found[0] == [4, 5]
    ours = similarity(features, centring)[0]
    np.testing.assert_allclose(np.reshape(found[1], ours.shape), ours, atol=1e-6)


@pytest.mark.parametrize(
    ("logits", "rule"),
    [([1.0, 3.0, -800.0], "softmax"), ([0.0, 90.0], "sigmoid"), ([2.0], "softmax"), ([-900.0], "")],
)
def test_scores_are_those_of_python(page, logits, rule):
    from gapcam.maps import class_scores

    found = run(page, "return [...own.probabilities(logits, rule)];", logits=logits, rule=rule)
    ours = class_scores(np.array([logits], np.float32), rule)[0]
    np.testing.assert_allclose(found, ours, atol=1e-6)


def test_the_page_reads_the_labels_out_of_the_file(page, quick):
    card = run(page, "return own.readMetadata(await bytes('site/model.onnx'));")
    assert card["labels"] == list(quick.card.labels)
    assert card["recipe"]["threshold"] == quick.recipe.threshold
    assert card["input_size_hw"] == list(quick.recipe.input_size_hw)


@pytest.mark.parametrize(
    ("changes", "threshold"),
    [("normalize: 'max'", 0.3), ("normalize: 'ivr'", 0.2), ("upsample: 'bilinear'", 0.6)],
)
def test_the_page_follows_the_recipe(page, quick, changes, threshold):
    changed = dict([re.fullmatch(r"(\w+): '(\w+)'", changes).groups()])
    recipe = replace(quick.recipe, threshold=threshold, **changed)
    plane = np.random.default_rng(1).normal(size=(7, 7)).astype(np.float32)
    heat, box = run(
        page,
        """
        const plane = { data: Float32Array.from(values), height: 7, width: 7 };
        const heat = own.heatOf(plane, plane, { ...model.card.recipe, ...changed });
        return [[...heat.data], own.boxOf(heat, threshold, { height: 300, width: 500 })];
        """,
        values=plane.ravel().tolist(),
        changed=changed,
        threshold=threshold,
    )
    ours = to_heat(plane, plane, recipe)
    np.testing.assert_allclose(np.reshape(heat, ours.shape), ours, atol=1e-5)
    region = find_regions(ours, recipe)[0]
    assert box == pytest.approx(scale_box(region.box_xyxy, ours.shape, (300, 500)), abs=0.01)


def test_a_map_with_no_positive_value_gets_no_box(page):
    box = run(
        page,
        """
        const plane = { data: new Float32Array(49).fill(-1), height: 7, width: 7 };
        const heat = own.heatOf(plane, plane, model.card.recipe);
        return own.boxOf(heat, model.card.recipe.threshold, { height: 300, width: 500 });
        """,
    )
    assert box is None


LOCALIZE = """
    const picture = await own.readPicture(await (await fetch(url)).blob());
    const { height, width } = picture;
    return [await own.localize(ort, model, picture), height, width];
"""


def test_a_turned_photograph_is_boxed_upright(page, site, quick, cat):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = site.root / "turned.jpg"
    Image.open(cat.with_name("coffee.jpg")).save(turned, exif=exif, quality=95)
    found, height, width = run(page, LOCALIZE, url="turned.jpg")
    ours = quick(turned)
    assert (height, width) == ours.size_hw
    assert height > width
    assert [d["label"] for d in found] == [d.label for d in ours.detections]
    assert found[0]["box"] == pytest.approx(ours.detections[0].box_xyxy, abs=1)


def test_transparent_parts_are_white(page, site, quick, cat):
    image = Image.open(cat).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(site.root / "clear.png")
    found, *_ = run(page, LOCALIZE, url="clear.png")
    ours = quick(site.root / "clear.png").detections
    assert [d["label"] for d in found] == [d.label for d in ours]
    assert found[0]["box"] == pytest.approx(ours[0].box_xyxy, abs=1)


def test_inputs_with_a_value_of_their_own_are_given_theirs(page, site, quick, cat):
    """Files of heads that are not linear have them; onnxruntime-web takes no such inputs."""
    proto = onnx.load(quick.engine.path)
    next(node for node in proto.graph.node if node.op_type == "TopK").input[1] = "top"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3]), "top"))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("top", onnx.TensorProto.INT64, [1]))
    outputs = [output for output in proto.graph.output if output.name != "head_weights"]
    for output in outputs:
        if output.name.startswith("top_"):
            output.type.tensor_type.shape.dim[1].dim_param = "top"
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    onnx.save(proto, site.root / "three.onnx")
    boxes, opened = run(
        page,
        """
        const three = await own.fetchModel(ort, "three.onnx");
        const { recipe } = three.card;
        const picture = await own.readPicture(await (await fetch("site/samples/cat.jpg")).blob());
        const found = await own.localize(ort, three, picture, { ...recipe, top: 4 });
        const open = await (await new Blob([own.openInputs(await bytes("three.onnx"))])).bytes();
        return [found.map(({ box }) => box), open.length];
        """,
    )
    ours = quick(cat, top=4).detections
    np.testing.assert_allclose(boxes, [d.box_xyxy for d in ours], atol=1)
    assert opened == (site.root / "three.onnx").stat().st_size - constant_bytes(proto, "top")


def constant_bytes(proto, name):
    """What a constant and its header take in the file; lengths of a file as large stay as long."""
    constant = next(c for c in proto.graph.initializer if c.name == name)
    return constant.ByteSize() + 2


def test_other_files_stay_as_they_are(page, site):
    same = run(
        page,
        """
        const file = await bytes("site/model.onnx");
        const open = own.openInputs(file);
        return open.length === file.length && open.every((byte, i) => byte === file[i]);
        """,
    )
    assert same


def test_a_recipe_that_refines_needs_features_to_refine_with(page, site, quick):
    proto = onnx.load(quick.engine.path)
    kept = [o for o in proto.graph.output if o.name not in ("fine_features", "top_refined")]
    del proto.graph.output[:]
    proto.graph.output.extend(kept)
    onnx.save(proto, site.root / "bare.onnx")
    fault = run(
        page,
        """
        const bare = await own.fetchModel(ort, "bare.onnx");
        const picture = await own.readPicture(await (await fetch("site/samples/cat.jpg")).blob());
        return own.localize(ort, bare, picture).catch((error) => error.message);
        """,
    )
    assert fault == "recipe default: this model has no features to refine maps with"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!doctype html>", "not an ONNX file"),
        (b"\x08\x08", "this ONNX file was not exported by gapcam"),
        (b"\x08", "not an ONNX file, or one cut short"),
        (b"\x3a\x7f\x01", "not an ONNX file, or one cut short"),
    ],
)
def test_what_is_no_model_file_is_said(page, site, content, message):
    (site.root / "words.onnx").write_bytes(content)
    load = "return own.fetchModel(ort, 'words.onnx').catch((error) => error.message);"
    assert run(page, load) == message


def test_a_missing_model_file_is_said(opened):
    load = "return own.fetchModel(ort, 'gone.onnx').catch((error) => error.message);"
    expected = "gone.onnx: no model file there (404). gapcam export makes one."
    assert run(opened, load) == expected
    assert len(opened.said) == 1  # the browser's own word of the missing file
    opened.said.clear()


def test_scores_that_are_no_numbers_are_refused(page, site, quick):
    proto = onnx.load(quick.engine.path)
    bias = np.full(1000, np.nan, np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(bias, "nothing"))
    last = next(node for node in proto.graph.node if "logits" in node.output)
    last.output[list(last.output).index("logits")] = "once_logits"
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            if name == "logits":
                node.input[i] = "once_logits"
    proto.graph.node.append(onnx.helper.make_node("Add", ["once_logits", "nothing"], ["logits"]))
    onnx.save(proto, site.root / "nan.onnx")
    fault = run(
        page,
        """
        const broken = await own.fetchModel(ort, "nan.onnx");
        const picture = await own.readPicture(await (await fetch("site/samples/cat.jpg")).blob());
        return own.localize(ort, broken, picture).catch((error) => error.message);
        """,
    )
    assert fault == "the network gives scores or maps that are not all finite"


def test_the_page_in_the_documentation_runs(page, site, quick, cat):
    (code,) = re.findall(r"```js\n(.*?)```", (ROOT / "docs" / "export.md").read_text("utf-8"), re.S)
    assert code.count("readPicture(file)") == code.count("console.log(") == 1
    code = code.replace("readPicture(file)", "readPicture(globalThis.file)")
    (site.root / "own.js").write_text(code.replace("console.log(", "globalThis.shown.push("))
    shown = run(
        page,
        """
        globalThis.shown = [];
        globalThis.file = await (await fetch("site/samples/cat.jpg")).blob();
        await import("/own.js");
        return shown;
        """,
    )
    ours = quick(cat).detections
    assert shown[::3] == [d.label for d in ours]
    np.testing.assert_allclose(shown[1::3], [d.score for d in ours], atol=1e-3)
    np.testing.assert_allclose(shown[2::3], [d.box_xyxy for d in ours], atol=1)


def test_the_lock_file_names_no_host():
    assert "://" not in (WEB / "package-lock.json").read_text("utf-8")
