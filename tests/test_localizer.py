from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gapcam
from gapcam.engines import Engine, MapOutputs
from gapcam.metrics.boxes import box_iou
from gapcam.recipes import PAPER
from gapcam.types import ArgumentError, ByteArray, Failure, IntArray, ModelError, PictureError

CAT_CLASSES = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"}
FACE_XYXY = (60, 10, 370, 295)
"""The cat's face in cat.jpg, by hand."""
EYES_AND_NOSE = ((172, 108), (320, 118), (262, 240))


def test_the_cat_is_a_cat_and_the_box_is_on_its_face(localizer: gapcam.Localizer, cat: Path):
    found = localizer(cat)
    assert found.size_hw == (300, 451)
    assert found.name == str(cat)
    assert len(found.detections) == 5
    best = found.detections[0]
    assert best.label in CAT_CLASSES
    assert best.score > 0.5
    assert best.box_xyxy is not None
    assert box_iou([best.box_xyxy], [FACE_XYXY])[0, 0] > 0.75
    x0, y0, x1, y1 = best.box_xyxy
    for x, y in EYES_AND_NOSE:
        assert x0 < x < x1
        assert y0 < y < y1
        assert best.mask[y, x]


def test_every_part_of_a_detection_fits_the_others(localizer: gapcam.Localizer, cat: Path):
    logits = localizer.engine.run(localizer.read(cat).pixels[np.newaxis]).logits[0]
    bias = localizer.engine.bias
    scores = np.exp(logits) / np.exp(logits).sum()
    found = localizer(cat)
    assert [d.class_id for d in found.detections] == list(np.argsort(-logits)[:5])
    for d in found.detections:
        assert d.label == localizer.card.labels[d.class_id]
        assert d.score == pytest.approx(scores[d.class_id], rel=1e-4)
        assert d.map.shape == (7, 7)
        assert d.map.mean() + bias[d.class_id] == pytest.approx(logits[d.class_id], abs=1e-4)
        assert d.heat.min() >= 0
        assert d.heat.max() == 1
        assert d.mask.shape == found.size_hw
        assert d.mask.dtype == bool
        assert d.box_xyxy is not None
        assert d.peak_xy is not None
        ys, xs = np.nonzero(d.mask)
        around = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert np.abs(np.array(around) - d.box_xyxy).max() <= 1
        assert d.mask[int(d.peak_xy[1]), int(d.peak_xy[0])]


def test_every_kind_of_source_gives_the_same(localizer: gapcam.Localizer, cat: Path):
    with Image.open(cat) as image:
        array = np.asarray(image.convert("RGB"))
        sources = [str(cat), cat, cat.read_bytes(), image, array]
        found = [localizer(source) for source in sources]
    assert [f.name for f in found] == [str(cat), str(cat), "<bytes>", "<image>", "<array>"]
    for other in found[1:]:
        assert [d.class_id for d in other.detections] == [d.class_id for d in found[0].detections]
        for a, b in zip(other.detections, found[0].detections, strict=True):
            assert a.box_xyxy == pytest.approx(b.box_xyxy, abs=0.5)


def test_a_rotated_photograph_gives_boxes_as_it_is_shown(
    localizer: gapcam.Localizer, cat: Path, tmp_path: Path
):
    turned = tmp_path / "turned.png"
    with Image.open(cat) as image:
        stored = image.transpose(Image.Transpose.ROTATE_90)
        exif = stored.getexif()
        exif[0x0112] = 6  # to be shown turned clockwise by 90 degrees
        stored.save(turned, exif=exif)
    found, upright = localizer(turned), localizer(cat)
    assert found.size_hw == (300, 451)
    assert found.detections[0].box_xyxy == pytest.approx(upright.detections[0].box_xyxy, abs=0.5)


def test_a_large_jpeg_gives_boxes_in_its_own_pixels(
    localizer: gapcam.Localizer, cat: Path, tmp_path: Path
):
    large = tmp_path / "large.jpg"
    with Image.open(cat) as image:
        image.resize((451 * 8, 300 * 8), Image.Resampling.LANCZOS).save(large, quality=95)
    found, small = localizer(large), localizer(cat)
    assert found.size_hw == (2400, 3608)
    a, b = found.detections[0].box_xyxy, small.detections[0].box_xyxy
    assert a is not None
    assert b is not None
    assert np.array(a) / 8 == pytest.approx(b, abs=3)


def test_an_iterable_streams_lazily_and_in_order(localizer: gapcam.Localizer, cat: Path):
    taken = []

    def sources():
        for i in range(100):
            taken.append(i)
            yield cat if i % 2 else cat.with_name("coffee.jpg")

    stream = localizer(sources(), top=1)
    assert not taken
    first, second = next(stream), next(stream)
    assert len(taken) < 40
    assert (first.detections[0].label, second.detections[0].label) == ("espresso", "Egyptian cat")


def test_an_empty_iterable_gives_nothing(localizer: gapcam.Localizer):
    assert list(localizer([])) == []


def test_a_named_class_is_localized_whatever_its_rank(localizer: gapcam.Localizer, cat: Path):
    found = localizer(cat, classes=["lynx", 285, "n02123045", "Tabby cat"])
    assert [d.label for d in found.detections] == ["lynx", "Egyptian cat", "tabby"]
    best = {d.label: d for d in localizer(cat).detections}
    for d in found.detections:
        assert d.box_xyxy == pytest.approx(best[d.label].box_xyxy, abs=1e-3)
        assert d.score == pytest.approx(best[d.label].score, rel=1e-5)


def test_a_class_without_positive_evidence_has_no_box(cat: Path):
    paper = gapcam.load(recipe="paper")
    found = paper(cat, classes=range(1000))
    without = [d for d in found.detections if d.map.max() <= 0]
    assert without, "on the cat some of the thousand classes have no positive cell"
    for d in without:
        assert d.box_xyxy is None
        assert d.peak_xy is None
        assert not d.mask.any()
        assert d.mask.shape == found.size_hw
        assert not d.heat.any()
    assert all(d.box_xyxy is not None for d in found.detections if d.map.max() > 0)


def test_all_components_of_a_class_become_boxes(localizer: gapcam.Localizer, cat: Path):
    recipe = dataclasses.replace(
        PAPER, name="parts", threshold=0.75, components="all", min_area_share=0.05
    )
    several = gapcam.Localizer(localizer.engine, localizer.card, recipe)
    single = gapcam.Localizer(
        localizer.engine, localizer.card, dataclasses.replace(recipe, components="largest")
    )
    sources = gapcam.sample_pictures()
    boxes = [several(s, top=5).detections for s in sources]
    assert any(len(d) > 5 for d in boxes), "some map has two hot parts"
    for detections, source in zip(boxes, sources, strict=True):
        first = {d.class_id: d.box_xyxy for d in reversed(detections)}
        assert first == {d.class_id: d.box_xyxy for d in single(source, top=5).detections}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tabbie", r"class 'tabbie' is unknown to efficientnet-lite0; did you mean 'tabby'"),
        ("crane", r"class 'crane' is ambiguous: .*'crane \(bird\)' or 'crane \(machine\)'"),
        ("cat", r"class 'cat' is unknown.*did you mean .*'tiger cat'"),
        (
            "xqzzy",
            r"class 'xqzzy' is unknown to efficientnet-lite0; for all names see: gapcam models",
        ),
        ("", r"class '' is unknown"),
        (1000, r"class id 1000: expected 0 to 999"),
        (-1, r"class id -1: expected 0 to 999"),
    ],
)
def test_a_wrong_class_is_explained(
    localizer: gapcam.Localizer, cat: Path, name: str | int, message: str
):
    with pytest.raises(ArgumentError, match=message):
        localizer(cat, classes=[name])


@pytest.mark.parametrize("name", ["egyptian_cat", "EGYPTIAN CAT", " Egyptian-cat ", "n02124075"])
def test_a_class_is_found_however_it_is_spelt(localizer: gapcam.Localizer, name: str):
    assert localizer.class_id(name) == 285


def test_numpy_numbers_are_numbers(localizer: gapcam.Localizer, cat: Path):
    found = localizer(cat, classes=np.array([281, 285]))
    assert [d.class_id for d in found.detections] == [281, 285]
    assert localizer.class_id(np.int64(7)) == 7
    assert len(localizer(cat, top=np.int64(3)).detections) == 3


@pytest.mark.parametrize("source", [None, 7, object()])
def test_what_is_no_picture_is_explained(localizer: gapcam.Localizer, source: object):
    with pytest.raises(ArgumentError, match="expected a path, bytes, PIL image, array or an itera"):
        localizer(source)
    with pytest.raises(ArgumentError, match=r"check: expected a list of pictures, got one"):
        localizer.check("cat.jpg")


def test_a_stream_gives_a_bad_picture_in_its_turn(localizer: gapcam.Localizer, cat: Path):
    sources = [cat, "gone.jpg", b"no picture", cat]
    names = []
    with pytest.raises(PictureError, match=r"gone\.jpg"):
        names.extend(found.name for found in localizer(sources))
    assert names == [] or names == [str(cat)]
    stream = localizer(sources)
    assert next(stream).name == str(cat)
    with pytest.raises(PictureError):
        next(stream)
    first, second, third, fourth = localizer(sources, on_error="yield")
    assert isinstance(second, Failure)
    assert (second.name, third.name) == ("gone.jpg", "<bytes>")
    assert first.detections[0].box_xyxy == pytest.approx(fourth.detections[0].box_xyxy)
    with pytest.raises(ArgumentError, match="on_error: expected 'raise' or 'yield', got 'skip'"):
        localizer(sources, on_error="skip")


@pytest.mark.parametrize("classes", ["tabby", [], (), 285])
def test_classes_must_be_a_list(localizer: gapcam.Localizer, cat: Path, classes: object):
    with pytest.raises(ArgumentError, match="classes: expected a list of names or ids"):
        localizer(cat, classes=classes)  # type: ignore[call-overload]


@pytest.mark.parametrize("top", [0, -3, 1001, 2.5, "3", True])
def test_top_must_be_in_range(localizer: gapcam.Localizer, cat: Path, top: object):
    with pytest.raises(ArgumentError, match=rf"top: expected 1 to 1000 .*got {top}"):
        localizer(cat, top=top)


def test_classes_and_top_exclude_each_other(localizer: gapcam.Localizer, cat: Path):
    with pytest.raises(ArgumentError, match="either classes or top"):
        localizer(cat, classes=["tabby"], top=2)


def test_a_picture_that_cannot_be_read_raises(localizer: gapcam.Localizer, tmp_path: Path):
    with pytest.raises(PictureError, match=r"gone\.jpg"):
        localizer(tmp_path / "gone.jpg")


def test_an_unknown_model_or_recipe_is_explained():
    with pytest.raises(ArgumentError, match=r"model 'resnet50' is unknown: .*efficientnet-lite0"):
        gapcam.load("resnet50")
    with pytest.raises(ArgumentError, match=r"recipe 'bets' is unknown: .*default, fast, best, "):
        gapcam.load(recipe="bets")
    with pytest.raises(ArgumentError, match=r"threads: expected 0 .*got -1"):
        gapcam.load(threads=-1)


def test_the_shipped_photographs_prove_the_maps(localizer: gapcam.Localizer):
    proof = localizer.check()
    assert proof.exact
    assert (proof.pictures, proof.classes) == (4, 1000)
    assert proof.largest_gap <= 1e-5 * proof.logit_range
    assert "class maps are exact" in str(proof)


class WithoutBias:
    """An engine that forgets the bias that its network has."""

    name = "onnx"

    def __init__(self, engine: Engine) -> None:
        self.engine, self.head = engine, engine.head
        self.bias = np.zeros_like(engine.bias)

    def run_maps(self, pixels: ByteArray, wanted: IntArray | int) -> MapOutputs:
        return self.engine.run_maps(pixels, wanted)


def test_a_wrong_head_is_found_out(localizer: gapcam.Localizer, cat: Path):
    wrong = gapcam.Localizer(WithoutBias(localizer.engine), localizer.card)
    proof = wrong.check([cat])
    assert not proof.exact
    assert not proof.as_expected
    assert proof.largest_gap == pytest.approx(np.abs(localizer.engine.bias).max(), rel=1e-2)
    assert "NOT exact" in str(proof)


class WithNan(WithoutBias):
    """An engine whose second picture has a map with a value that is no number."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.bias, self.runs = engine.bias, 0

    def run_maps(self, pixels: ByteArray, wanted: IntArray | int) -> MapOutputs:
        out = self.engine.run_maps(pixels, wanted)
        self.runs += 1
        if self.runs == 2:
            out.maps[0, 0, 0, 0] = np.nan
        return out


def test_a_map_that_is_no_number_is_never_exact(localizer: gapcam.Localizer):
    proof = gapcam.Localizer(WithNan(localizer.engine), localizer.card).check()
    assert not proof.exact
    assert "NOT exact" in str(proof)


def test_a_card_that_does_not_fit_its_network_is_refused(localizer: gapcam.Localizer):
    few = dataclasses.replace(localizer.card, labels=("cat", "dog"))
    with pytest.raises(ModelError, match=r"expected a label for each of 1000 logits, got 2"):
        gapcam.Localizer(localizer.engine, few)
    odd = dataclasses.replace(PAPER, input_size_hw=(230, 224))
    with pytest.raises(ArgumentError, match=r"must be multiples of 32 .* got 230 x 224"):
        gapcam.Localizer(localizer.engine, localizer.card, odd)


def test_a_proof_needs_a_picture(localizer: gapcam.Localizer):
    with pytest.raises(ArgumentError, match="at least one picture"):
        localizer.check([])


def test_building_says_so_once_and_an_unwritable_cache_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    occupied = tmp_path / "file"
    occupied.write_text("in the way")
    monkeypatch.setenv("GAPCAM_CACHE", str(occupied / "cache"))
    told: list[str] = []
    with pytest.raises(ModelError, match=r"model cache .*cache cannot be written.*GAPCAM_CACHE"):
        gapcam.load(tell=told.append)
    assert len(told) == 1
    assert told[0].startswith("Building efficientnet-lite0 once")
