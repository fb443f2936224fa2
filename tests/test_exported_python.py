"""The model file used from Python with no gapcam: the example in docs/ gives gapcam's answers."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import gapcam
from gapcam.models.model_file import card_to_metadata

SCRIPT = Path(__file__).parent.parent / "docs" / "examples" / "onnxruntime_numpy.py"

WITHOUT = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("gapcam", "torch", "onnx", "cv2", "scipy"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
"""
"""Put before a program: only what the example says it needs can be imported."""

AS_A_COMMAND = "runpy.run_path(sys.argv.pop(1), run_name='__main__')"

AS_ARRAYS = """
example = runpy.run_path(sys.argv[1])
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
found = example["localize"](session, example["read_picture"](sys.argv[3]))
numpy.savez(
    sys.argv[4],
    labels=[d["label"] for d in found],
    scores=[d["score"] for d in found],
    boxes=[d["box"] or [-1] * 4 for d in found],
    maps=[d["map"] for d in found],
    heats=[d["heat"] for d in found],
    gaps=[d["gap"] for d in found],
)
"""


def run_alone(program, *arguments):
    """A program in an interpreter that sees neither gapcam nor the user's environment."""
    command = [sys.executable, "-I", "-W", "error", "-c", WITHOUT + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def arrays(model, picture, folder):
    made = folder / "found.npz"
    done = run_alone(AS_ARRAYS, SCRIPT, model, picture, made)
    assert done.returncode == 0, done.stderr
    return np.load(made)


def assert_as_gapcam(found, theirs):
    """Labels, scores, maps, heat and boxes are gapcam's."""
    ours = theirs.detections
    assert found["labels"].tolist() == [d.label for d in ours]
    np.testing.assert_allclose(found["scores"], [d.score for d in ours], atol=1e-5)
    maps = np.stack([d.map for d in ours])
    assert np.abs(found["maps"] - maps).max() <= 1e-4 * np.ptp(maps)
    np.testing.assert_allclose(found["heats"], [d.heat for d in ours], atol=1e-4)
    boxes = [d.box_xyxy or (-1,) * 4 for d in ours]
    np.testing.assert_allclose(found["boxes"], boxes, atol=0.5)


@pytest.mark.parametrize("name", ["cat", "astronaut", "coffee", "rocket"])
def test_it_gives_gapcams_answers(quick, tmp_path, name):
    picture = next(path for path in gapcam.sample_pictures() if path.stem == name)
    found = arrays(quick.engine.path, picture, tmp_path)
    assert_as_gapcam(found, quick(picture))
    assert np.abs(found["gaps"]).max() < 1e-4


def test_a_turned_picture_is_seen_upright(quick, cat, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to show it
    Image.open(cat).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    found = arrays(quick.engine.path, tmp_path / "turned.jpg", tmp_path)
    theirs = quick(tmp_path / "turned.jpg")
    assert theirs.size_hw[0] > theirs.size_hw[1]
    assert_as_gapcam(found, theirs)


def test_transparent_parts_are_white(quick, cat, tmp_path):
    image = Image.open(cat).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / "clear.png")
    found = arrays(quick.engine.path, tmp_path / "clear.png", tmp_path)
    assert_as_gapcam(found, quick(tmp_path / "clear.png"))


@pytest.mark.parametrize(
    "changes",
    [
        {"normalize": "max", "refine": "none", "threshold": 0.2, "upsample": "bilinear"},
        {"normalize": "ivr", "threshold": 0.3},
        {"normalize": "minmax", "threshold": 0.97},
    ],
)
def test_it_follows_the_recipe_in_the_file(quick, cat, tmp_path, changes):
    recipe = replace(quick.recipe, name="changed", **changes)
    model = with_recipe(quick, recipe, tmp_path / "changed.onnx")
    ours = gapcam.Localizer(quick.engine, quick.card, recipe)
    assert_as_gapcam(arrays(model, cat, tmp_path), ours(cat))


def with_recipe(localizer, recipe, path):
    """A copy of its model file that carries another recipe, and refined maps only if it refines."""
    proto = onnx.load(localizer.engine.path)
    del proto.metadata_props[:]
    card = replace(localizer.card, recipe=recipe)
    onnx.helper.set_model_props(proto, card_to_metadata(card))
    if recipe.refine == "none":
        kept = [output for output in proto.graph.output if output.name != "top_refined"]
        del proto.graph.output[:]
        proto.graph.output.extend(kept)
    onnx.save(proto, path)
    return path


def test_a_recipe_of_two_passes_is_refused(quick, cat, tmp_path):
    recipe = replace(quick.recipe, name="twice", refine="none")
    model = with_recipe(quick, recipe, tmp_path / "bare.onnx")
    proto = onnx.load(model)
    for entry in proto.metadata_props:
        entry.value = entry.value.replace('"refine": "none"', '"refine": "affinity"')
    onnx.save(proto, model)
    done = run_alone(AS_A_COMMAND, SCRIPT, model, cat, tmp_path / "x.png")
    assert done.returncode == 1
    assert done.stderr == "recipe 'twice' takes two passes: export a recipe of one pass\n"


def test_the_command_says_and_draws_it(quick, cat, tmp_path):
    overlay = tmp_path / "overlay.png"
    done = run_alone(AS_A_COMMAND, SCRIPT, quick.engine.path, cat, overlay)
    assert done.returncode == 0, done.stderr
    *lines, proof = done.stdout.splitlines()
    ours = quick(cat)
    assert len(lines) == len(ours.detections)
    for line, d in zip(lines, ours.detections, strict=True):
        label, score, box = re.fullmatch(r"(.+): ([\d.]+)%, box ([\d. ]+)", line).groups()
        assert label == d.label
        assert float(score) == pytest.approx(100 * d.score, abs=0.051)
        assert np.abs(np.array(box.split(), float) - d.box_xyxy).max() < 0.5
    assert float(re.fullmatch(r"mean\(map\) \+ bias - logit: (\S+) at most", proof)[1]) < 1e-4
    drawn, plain = np.asarray(Image.open(overlay)), np.asarray(Image.open(cat))
    assert drawn.shape == plain.shape
    change = np.abs(drawn.astype(int) - plain).mean(-1)
    hot = ours.detections[0].mask
    assert change[hot].mean() > 3 * change[~hot].mean() > 0


def test_a_file_of_another_make_is_refused(quick, cat, tmp_path):
    proto = onnx.load(quick.engine.path)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "foreign.onnx")
    done = run_alone(AS_A_COMMAND, SCRIPT, tmp_path / "foreign.onnx", cat, tmp_path / "x.png")
    assert done.returncode == 1
    assert "not a model file that gapcam exported" in done.stderr
