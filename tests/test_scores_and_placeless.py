"""Classes that go together (sigmoid scores), and a class that means that nothing is there."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gapcam
from gapcam.maps import class_scores, sigmoid
from gapcam.models.model_file import card_from_metadata, card_to_metadata
from gapcam.types import ModelError
from test_exported_python import arrays, assert_as_gapcam


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=5))
def test_the_sigmoid_never_overflows(logits):
    scores = sigmoid(np.array(logits, np.float32))
    expected = [1 / (1 + np.exp(-np.clip(np.float64(x), -700, 700))) for x in logits]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert scores.dtype == np.float32


def test_sigmoid_scores_do_not_compete():
    logits = np.array([[0.0, 0.0, 3.0]], np.float32)
    np.testing.assert_allclose(class_scores(logits, "sigmoid"), [[0.5, 0.5, 0.9525741]], atol=1e-6)
    assert class_scores(logits, "softmax").sum() == pytest.approx(1)


@pytest.fixture(scope="module")
def changed(quick, tmp_path_factory):
    """The embedded model, saying that classes go together and that its best one has no place."""
    best = quick(gapcam.sample_pictures()[0]).detections[0].class_id
    card = replace(quick.card, scores="sigmoid", placeless=(best,))
    proto = onnx.load(quick.engine.path)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, card_to_metadata(card))
    path = tmp_path_factory.mktemp("changed") / "changed.onnx"
    onnx.save(proto, path)
    return gapcam.load(path, threads=1), best


def test_a_model_file_says_how_scores_are_made(changed, quick):
    picture = gapcam.sample_pictures()[0]
    localizer, _ = changed
    logits = quick.engine.run(quick.read(picture).pixels[None]).logits[0]
    for found in localizer(picture).detections:
        assert found.score == pytest.approx(1 / (1 + np.exp(-logits[found.class_id])), abs=1e-6)


def test_a_class_without_a_place_gets_no_box(changed, quick):
    picture = gapcam.sample_pictures()[0]
    localizer, placeless = changed
    first, *others = localizer(picture).detections
    assert first.class_id == placeless
    assert first.box_xyxy is None
    assert first.peak_xy is None
    assert not first.mask.any()
    assert not first.heat.any()
    np.testing.assert_array_equal(first.map, quick(picture).detections[0].map)  # stays raw
    assert [d.box_xyxy for d in others] == [d.box_xyxy for d in quick(picture).detections[1:]]


def test_the_example_without_gapcam_follows_the_file(changed, tmp_path):
    localizer, _ = changed
    picture = gapcam.sample_pictures()[0]
    assert_as_gapcam(arrays(localizer.engine.path, picture, tmp_path), localizer(picture))


def test_unknown_scores_are_refused(quick):
    metadata = card_to_metadata(quick.card) | {"gapcam.scores": json.dumps("ranks")}
    with pytest.raises(ModelError, match="scores: expected softmax or sigmoid, got 'ranks'"):
        card_from_metadata(metadata, "x.onnx")
