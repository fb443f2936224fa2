"""The model file in a web page, in a real browser: its maps are those of ONNX Runtime in Python."""

from __future__ import annotations

import base64
import io
import re
import shutil
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from browser import Browser
from gapcam.boxes import find_regions, scale_box
from gapcam.images import resize_picture
from gapcam.localizer import to_heat

WEB = Path(__file__).parent.parent / "docs" / "examples" / "web"
RUNTIME = WEB / "node_modules" / "onnxruntime-web" / "dist" / "ort.wasm.bundle.min.mjs"
PROGRAM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="needs Chromium on PATH: apt install chromium"),
    pytest.mark.skipif(
        not RUNTIME.is_file(),
        reason="needs onnxruntime-web: npm ci --ignore-scripts in docs/examples/web",
    ),
]

IMPORTS = """
    const ort = await import("/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs");
    const own = await import("/localize.js");
    const bytes = async (url) => new Uint8Array(await (await fetch(url)).arrayBuffer());
    const rgba = async (url, rows, columns) =>
        ({ data: await bytes(url), rows, columns, height: rows, width: columns });
"""


class Files(SimpleHTTPRequestHandler):
    """The example's folder, and beside it what a test puts there."""

    def __init__(self, *arguments, beside, **options):
        self._beside = beside
        super().__init__(*arguments, directory=str(WEB), **options)

    def translate_path(self, path):
        name = path.split("?")[0].lstrip("/")
        return str(self._beside[name]) if name in self._beside else super().translate_path(path)

    def end_headers(self):
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def beside(quick):
    return {"model.onnx": quick.engine.path}


@pytest.fixture(scope="module")
def address(beside):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, beside=beside))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    driven = Browser(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield driven
    driven.close()


@pytest.fixture
def browser(driven, address):
    """The browser; after the test: nothing to complain about, and nothing left this machine."""
    driven.said.clear()
    driven.requests.clear()
    yield driven
    assert driven.said == []
    assert driven.requests
    for url in driven.requests:
        assert url.startswith((address, f"blob:{address}", "data:")), url


@pytest.fixture
def page(browser, address):
    """The page with its model loaded."""
    return open_page(browser, address)


def open_page(browser, address, **options):
    browser.open(address, **options)
    browser.wait_for("document.querySelector('#status').innerText", "Ready.")
    return browser


def choose(page, path):
    """Choose a picture as a user does and wait until it is looked at."""
    page.choose_file("#picture", path)
    wait_until_seen(page, path.name)


def wait_until_seen(page, name):
    done = f"/^{re.escape(name)}, .* ms\\.$/.test(document.querySelector('#status').innerText)"
    page.wait_for(done, value=True)


def in_page(browser, body):
    """What an async function's body returns; `ort`, `own`, `bytes` and `rgba` are there."""
    return browser.run(f"(async () => {{ {IMPORTS} {body} }})()")


def texts(page, selector):
    return page.run(f"[...document.querySelectorAll({selector!r})].map(e => e.innerText)")


def shown_box(page):
    return [float(side) for side in texts(page, "#box")[0].split(",")]


def put_rgba(beside, folder, pixels):
    """Let the page fetch a picture's exact pixels, which no decoder of its own has touched."""
    opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    beside["exact.rgba"] = folder / "exact.rgba"
    beside["exact.rgba"].write_bytes(np.concatenate([pixels, opaque], axis=-1).tobytes())


@pytest.mark.parametrize(
    ("from_hw", "to_hw"),
    [
        *[((300, 451), (224, 224)), ((451, 300), (224, 224)), ((37, 500), (96, 64))],
        *[((9, 7), (32, 64)), ((64, 80), (64, 80)), ((1, 1), (32, 32)), ((3, 900), (64, 32))],
    ],
)
def test_the_page_squashes_as_pillow_does(page, beside, tmp_path, from_hw, to_hw):
    pixels = np.random.default_rng(0).integers(0, 256, (*from_hw, 3), np.uint8)
    put_rgba(beside, tmp_path, pixels)
    small = in_page(
        page,
        f"return [...own.squash(await rgba('exact.rgba', ...{list(from_hw)}), {list(to_hw)})];",
    )
    ours = resize_picture(pixels, to_hw)
    change = np.abs(np.array(small).reshape(ours.shape) - ours.astype(int))
    assert change.max() <= 1  # Pillow takes rows or columns first, by its version and the shape
    assert change.mean() < 0.3


@pytest.mark.parametrize("name", ["cat.jpg", "rocket.jpg"])
def test_on_equal_pixels_the_maps_are_those_of_python(page, quick, cat, beside, tmp_path, name):
    pixels = np.asarray(Image.open(cat.with_name(name)).convert("RGB"))
    put_rgba(beside, tmp_path, pixels)
    size_hw = quick.recipe.input_size_hw
    found = in_page(
        page,
        f"""
        const model = await own.fetchModel(ort, "model.onnx");
        const picture = await rgba("exact.rgba", ...{list(pixels.shape[:2])});
        const pixels = own.squash(picture, {list(size_hw)});
        const seen = await own.run(ort, model, pixels);
        const list = ({{ data, height, width }}) => [height, width, ...data];
        return {{
            pixels: [...pixels],
            logits: [...seen.logits],
            classes: seen.classes,
            maps: seen.maps.map(list),
            refined: seen.evidence.map(list),
            found: (await own.localize(ort, model, picture)).map(({{ map, heat, ...rest }}) =>
                ({{ ...rest, heat: [...heat.data] }})),
        }};
        """,
    )
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
        assert np.abs(np.array(theirs["heat"]) - d.heat.ravel()).max() < 1e-3


def planes(listed):
    return np.stack([np.reshape(data, (height, width)) for height, width, *data in listed])


def assert_close(found, expected):
    """Equal to a thousandth of the range."""
    assert np.shape(found) == expected.shape
    assert np.abs(np.array(found) - expected).max() <= 1e-3 * np.ptp(expected)


def test_the_page_reads_the_labels_out_of_the_file(page, quick):
    card = in_page(page, "return own.readMetadata(await bytes('model.onnx'));")
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
    heat, box = in_page(
        page,
        f"""
        const plane = {{ data: Float32Array.from({plane.ravel().tolist()}), height: 7, width: 7 }};
        const {{ recipe }} = own.readMetadata(await bytes("model.onnx"));
        const heat = own.heatOf(plane, plane, {{ ...recipe, {changes} }});
        return [[...heat.data], own.boxOf(heat, {threshold}, {{ height: 300, width: 500 }})];
        """,
    )
    ours = to_heat(plane, plane, recipe)
    np.testing.assert_allclose(np.reshape(heat, ours.shape), ours, atol=1e-5)
    region = find_regions(ours, recipe)[0]
    assert box == pytest.approx(scale_box(region.box_xyxy, ours.shape, (300, 500)), abs=0.01)


def test_a_map_with_no_positive_value_gets_no_box(page):
    box = in_page(
        page,
        """
        const plane = { data: new Float32Array(49).fill(-1), height: 7, width: 7 };
        const { recipe } = own.readMetadata(await bytes("model.onnx"));
        const heat = own.heatOf(plane, plane, recipe);
        return own.boxOf(heat, recipe.threshold, { height: 300, width: 500 });
        """,
    )
    assert box is None


@pytest.mark.parametrize("name", ["cat.jpg", "coffee.jpg"])
def test_a_photograph_through_the_page(page, quick, cat, name):
    choose(page, cat.with_name(name))
    ours = quick(cat.with_name(name))
    assert texts(page, "#labels b") == [d.label for d in ours.detections]
    assert shown_box(page) == pytest.approx(ours.detections[0].box_xyxy, abs=2)
    assert texts(page, "#proof")[0].startswith("The two are equal")
    assert np.abs(scores(page) - [100 * d.score for d in ours.detections]).max() < 1


def scores(page):
    return np.array([float(text.split()[0]) for text in texts(page, "#labels span")])


def test_a_turned_photograph_is_shown_and_boxed_upright(page, quick, cat, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = tmp_path / "turned.jpg"
    Image.open(cat.with_name("coffee.jpg")).save(turned, exif=exif, quality=95)
    choose(page, turned)
    ours = quick(turned)
    height, width = ours.size_hw
    assert height > width
    assert page.run("[canvas.height, canvas.width]") == [height, width]
    assert shown_box(page) == pytest.approx(ours.detections[0].box_xyxy, abs=2)


def test_each_class_is_a_button_for_mouse_and_keyboard(page, quick, cat):
    choose(page, cat)
    ours = quick(cat).detections
    page.run("document.querySelectorAll('#labels button')[2].click()")
    assert shown_box(page) == pytest.approx(ours[2].box_xyxy, abs=2)
    page.press("ArrowDown")
    assert shown_box(page) == pytest.approx(ours[3].box_xyxy, abs=2)
    assert page.run("document.activeElement.innerText").startswith(ours[3].label)
    pressed = "[...document.querySelectorAll('#labels button')].map(e => e.ariaPressed)"
    assert page.run(pressed) == ["false", "false", "false", "true", "false"]
    assert ours[3].label in page.run("canvas.getAttribute('aria-label')")


def test_a_picture_and_a_model_file_can_be_dropped(page, quick, cat, beside):
    beside["dropped.jpg"] = cat.with_name("coffee.jpg")
    in_page(
        page,
        """
        const transfer = new DataTransfer();
        const add = async (url, name, type) =>
            transfer.items.add(new File([await bytes(url)], name, { type }));
        await add("model.onnx", "own.onnx", "");
        await add("dropped.jpg", "dropped.jpg", "image/jpeg");
        const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
        document.querySelector(".well").dispatchEvent(new DragEvent("drop", options));
        """,
    )
    wait_until_seen(page, "dropped.jpg")
    assert texts(page, "#labels b")[0] == "espresso"


def test_inputs_with_a_value_of_their_own_need_not_be_given(page, quick, cat, tmp_path):
    """Files of heads that are not linear have them, and no `head_weights`."""
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
    onnx.save(proto, tmp_path / "three.onnx")
    page.choose_file("#model", tmp_path / "three.onnx")
    choose(page, cat)
    assert texts(page, "#labels b") == [d.label for d in quick(cat, top=3).detections]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("words.onnx", b"<!doctype html>", "not an ONNX file"),
        ("foreign.onnx", b"\x08\x08", "not exported by gapcam"),
        ("broken.jpg", b"\xff\xd8\xff", "cannot read it as a picture"),
    ],
)
def test_what_cannot_be_used_is_said(page, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    page.choose_file("#model" if name.endswith("onnx") else "#picture", tmp_path / name)
    page.wait_for("document.querySelector('#status').classList.contains('fault')", value=True)
    assert message in texts(page, "#status")[0]


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize(("scheme", "light"), [("light", True), ("dark", False)])
def test_a_picture_of_it(browser, address, cat, scheme, light, width):
    page = open_page(browser, address, width=width, height=800, scheme=scheme)
    choose(page, cat)
    assert page.run("document.documentElement.scrollWidth") == width
    pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))
    assert pixels.shape == (800, width)
    assert pixels.std() > 10
    assert (np.median(pixels[:, :8]) > 128) == light


def drawn(page):
    url = page.run("canvas.toDataURL('image/png')")
    png = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_the_heat_is_drawn_over_the_picture(page, cat):
    choose(page, cat)
    page.run("outline.click()")
    hot = drawn(page)
    page.run("(e => { e.value = 0; e.dispatchEvent(new Event('input')); })(opacity)")
    plain = drawn(page)
    assert np.abs(plain - np.asarray(Image.open(cat).convert("RGB"))).mean() < 2
    assert np.abs(hot - plain).mean() > 10


def test_the_lock_file_names_no_host():
    assert "://" not in (WEB / "package-lock.json").read_text("utf-8")
