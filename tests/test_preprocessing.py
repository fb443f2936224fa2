from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gapcam.models.label_lists import (
    given_labels,
    imagenet_labels,
    library_labels,
    looks_like_imagenet,
)
from gapcam.models.preprocessing import NAMED, at_size, from_unit_range, preprocessing_from
from gapcam.models.sources.processor import preprocessing_of_processor
from gapcam.types import ArgumentError, Preprocessing


def prepared(pixels: np.ndarray, wants: Preprocessing) -> np.ndarray:
    """The formula of `Preprocessing`, channels in the network's order."""
    ordered = pixels[..., ::-1] if wants.channels == "bgr" else pixels
    return (ordered.astype(np.float64) - wants.mean) / wants.scale


@pytest.fixture(scope="module")
def pixels(cat: Path) -> np.ndarray:
    return np.asarray(Image.open(cat).convert("RGB"))[100:164, 100:196]


@pytest.mark.parametrize(
    ("name", "black", "white"),
    [("-1..1", -1, 1), ("0..1", 0, 1), ("0..255", 0, 255)],
)
def test_named_ranges_map_black_and_white_to_their_ends(name, black, white):
    wants = preprocessing_from(name)
    ends = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    np.testing.assert_allclose(prepared(ends, wants), [[black] * 3, [white] * 3], atol=1e-12)


def test_imagenet_is_its_mean_and_deviation_of_pixels_in_0_to_1(pixels):
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(prepared(pixels, NAMED["imagenet"]), expected, atol=1e-12)


def test_caffe_takes_blue_green_red_and_only_subtracts():
    red = np.array([255, 0, 0], np.uint8)
    np.testing.assert_allclose(
        prepared(red, preprocessing_from("caffe")), [-103.939, -116.779, 255 - 123.68]
    )


def test_numbers_say_the_same_as_the_name(pixels):
    text = "mean=0.485,0.456,0.406; std=0.229,0.224,0.225"
    same = "MEAN=123.675,116.28,103.53;std=58.395,57.12,57.375;range=255"
    named = prepared(pixels, NAMED["imagenet"])
    for words in (text, same):
        np.testing.assert_allclose(prepared(pixels, preprocessing_from(words)), named, atol=1e-12)


def test_one_number_stands_for_three_and_size_and_order_are_read():
    wants = preprocessing_from("mean=0.5;std=0.25;size=32x48;channels=BGR")
    assert wants == Preprocessing((32, 48), (127.5,) * 3, (63.75,) * 3, "bgr")
    assert preprocessing_from("mean=0;std=1;size=96").size_hw == (96, 96)


def test_a_given_size_comes_before_every_other():
    assert preprocessing_from("imagenet", (10, 20)).size_hw == (10, 20)
    assert preprocessing_from("mean=0;std=1;size=96", (10, 20)).size_hw == (10, 20)
    assert at_size(NAMED["0..1"], None) is NAMED["0..1"]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("imagnet", "preprocessing 'imagnet' is unknown.*'imagenet', '-1..1'.*mean="),
        ("mean=0.5", "missing std"),
        ("mean=0.5;std=0.5;gamma=2", "unknown gamma"),
        ("mean=a;std=0.5", "mean: expected one or three numbers with commas, got 'a'"),
        ("mean=1,2;std=0.5", r"mean: expected one or three numbers, got \[1.0, 2.0\]"),
        ("mean=nan;std=0.5", "expected one or three numbers"),
        ("mean=0.5;std=0", "expected three numbers above 0"),
        ("mean=0.5;std=0.5,0.5,-1", "expected three numbers above 0"),
        ("mean=123;std=58", "look meant for pixels 0..255.*add range=255"),
        ("mean=0.5;std=0.5;range=256", "range: expected 1 or 255, got '256'"),
        ("mean=0.5;std=0.5;channels=grey", "channels: expected 'rgb' or 'bgr', got 'grey'"),
        ("mean=0.5;std=0.5;size=big", "size: expected HEIGHTxWIDTH"),
        ("mean=0.5;std=0.5;size=0x9", "1 to 8192"),
        (17, "got 17"),
        (Preprocessing((4, 4), (0.0, 0.0, 0.0), (0.0, 1.0, 1.0)), "above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_words(wanted, words):
    with pytest.raises(ArgumentError, match=words):
        preprocessing_from(wanted)


@pytest.mark.parametrize("size", [(0, 5), (5,), 224, (5, 9000), (2.0, 2.0), (True, True)])
def test_sizes_that_are_no_two_sides_are_refused(size):
    with pytest.raises(ArgumentError, match="expected height and width in pixels"):
        preprocessing_from("imagenet", size)


def test_a_network_of_one_channel_is_not_stretched_to_three():
    with pytest.raises(ArgumentError, match=r"net: mean: expected one or three numbers"):
        from_unit_range((0.5, 0.5), (0.5, 0.5), (4, 4), "net")


PROCESSORS = [
    ("ViTImageProcessorPil", {}),
    ("ViTImageProcessorPil", {"do_normalize": False}),
    ("ViTImageProcessorPil", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}),
    ("ViTImageProcessorPil", {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1]}),
    ("ViTImageProcessorPil", {"do_rescale": False, "image_mean": [124, 116, 104]}),
    ("EfficientNetImageProcessorPil", {"do_center_crop": False}),
    ("EfficientNetImageProcessorPil", {"include_top": False, "do_center_crop": False}),
    (
        "EfficientNetImageProcessorPil",
        {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False},
    ),
    ("EfficientNetImageProcessorPil", {"rescale_offset": True, "image_std": [0.3, 0.4, 0.5]}),
    ("MobileViTImageProcessorPil", {"do_center_crop": False}),
    ("MobileViTImageProcessorPil", {"do_flip_channel_order": False, "do_center_crop": False}),
]


@pytest.mark.parametrize(("kind", "options"), PROCESSORS)
def test_a_processors_steps_become_one_formula(kind, options, pixels, tmp_path):
    import transformers

    height, width = pixels.shape[:2]
    processor = getattr(transformers, kind)(
        **options, do_resize=False, size={"height": height, "width": width}
    )
    processor.save_pretrained(tmp_path)
    wants = preprocessing_of_processor(
        json.loads((tmp_path / "preprocessor_config.json").read_text()), "hf:x"
    )
    theirs = processor(pixels, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(prepared(pixels, wants), theirs, atol=2e-5, rtol=1e-5)
    assert wants.size_hw == (height, width)


@pytest.mark.parametrize(
    ("fields", "size_hw"),
    [
        ({"size": 30}, (30, 30)),
        ({"size": [30, 40]}, (30, 40)),
        ({"size": {"height": 30, "width": 40}}, (30, 40)),
        ({"size": {"shortest_edge": 30}}, (30, 30)),
        ({"size": {"shortest_edge": 30}, "crop_size": 24, "do_center_crop": True}, (24, 24)),
        ({"size": 30, "crop_size": {"height": 8, "width": 9}, "do_center_crop": True}, (8, 9)),
        ({"size": 30, "crop_size": 24, "do_center_crop": False}, (30, 30)),
    ],
)
def test_the_size_is_what_reaches_the_network(fields, size_hw):
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **fields}
    assert preprocessing_of_processor(processor, "hf:x").size_hw == size_hw


def test_old_files_without_newer_fields_are_read():
    old = {"feature_extractor_type": "ViTFeatureExtractor", "do_normalize": True, "size": 224}
    wants = preprocessing_of_processor({**old, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "")
    assert wants == Preprocessing((224, 224), (127.5,) * 3, (127.5,) * 3)
    phone = {"feature_extractor_type": "MobileViTFeatureExtractor", "size": 288, "crop_size": 256}
    flipped = {**phone, "do_center_crop": True, "do_flip_channel_order": True}
    wants = preprocessing_of_processor(flipped, "")
    assert wants == Preprocessing((256, 256), (0.0,) * 3, (255.0,) * 3, "bgr")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": 224}, "no image_mean"),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "no size"),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"longest_edge": 9}}, "short"),
        ({"image_mean": [0.5] * 2, "image_std": [0.5] * 2, "size": 9}, "unpack"),
        ({"image_mean": [0.5] * 3, "image_std": [0.0] * 3, "size": 9}, "above 0"),
        ({"image_mean": [0.5] * 3, "image_std": [1] * 3, "size": 9, "rescale_factor": 0}, "zero"),
        ({"image_mean": "x", "image_std": [1] * 3, "size": 9}, "could not convert"),
    ],
)
def test_a_processor_that_does_not_say_is_refused(fields, words):
    with pytest.raises(ArgumentError, match=f"^hf:x.*{words}"):
        preprocessing_of_processor(fields, "hf:x")


def test_labels_come_from_lists_text_and_json(tmp_path):
    names = ("cat", "dog", "red fox")
    files = {
        "lines.txt": "\ufeffcat\r\n dog \nred  fox\n",
        "list.json": json.dumps(names),
        "table.json": json.dumps({"2": "red fox", "0": "cat", "1": "dog"}),
    }
    for file, text in files.items():
        (tmp_path / file).write_text(text, "utf-8")
        assert given_labels(tmp_path / file, 3).names == names
        assert given_labels(str(tmp_path / file), None).source == f"{file}, given by the user"
    assert given_labels(list(names), 3).names == names


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("a.txt", "cat\n\ndog\n", "line 2 is empty"),
        ("a.txt", "cat\ndog\ncat\n", "'cat' is there twice, line 1 and line 3"),
        ("a.txt", "", "no names"),
        ("a.txt", "cat\ndog\n", "the network has 3 classes and 2 names were given"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.json", "3", "expected a list of names.*got int"),
        ("a.json", '["cat", 3]', "entry 1 is no name: 3"),
        ("a.json", '{"1": "cat", "2": "dog", "3": "fox"}', "ids 0 to 2 as keys, got '1'"),
        ("a.json", '{"cat": 0, "dog": 1, "fox": 2}', "ids 0 to 2 as keys, got 'cat'"),
        ("a.json", '{"0": "a", "00": "b", "1": "c"}', "ids 0 to 2"),
        ("gone.txt", None, "cannot be read .No such file"),
    ],
)
def test_label_files_that_cannot_be_meant_are_refused(file, text, words, tmp_path):
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(ArgumentError, match=words):
        given_labels(tmp_path / file, 3)


def test_bytes_that_are_no_text_are_no_labels(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ArgumentError, match="cannot be read"):
        given_labels(tmp_path / "a.txt", None)


@pytest.mark.parametrize("labels", [7, ["cat", ""], ["cat", None], [], {"cat", "dog"}])
def test_lists_that_are_no_names_are_refused(labels):
    with pytest.raises(ArgumentError, match="labels: "):
        given_labels(labels, None)


def test_imagenet_is_gapcams_own_list():
    own = given_labels("ImageNet", 1000)
    assert len(set(own.names)) == 1000
    assert own.aliases[281][0] == "n02123045"
    assert "tabby" in own.names[281]
    with pytest.raises(ArgumentError, match="has 10 classes and 1000 names"):
        given_labels("imagenet", 10)


def test_a_librarys_imagenet_gets_unique_names_and_keeps_its_own_as_aliases():
    own = imagenet_labels()
    theirs = [
        ", ".join((label, *others[1:])).upper() for label, others in zip(*_own(), strict=True)
    ]
    theirs[0] = "some fish"
    labels = library_labels(theirs, "the library")
    assert labels.names == own.names
    assert "some fish" in labels.aliases[0]
    assert "gapcam's unique names" in labels.notes[0]
    assert not looks_like_imagenet(theirs[1:] + theirs[:1])
    assert not looks_like_imagenet(theirs[:-1])


def _own():
    own = imagenet_labels()
    return own.names, own.aliases


def test_equal_names_get_their_class_id_and_a_note():
    labels = library_labels(["crane", "cat", "crane", "crane (2)", ""], "the library")
    assert len(set(labels.names)) == 5
    assert labels.names[0] == "crane (0)"
    assert labels.names[1] == "cat"
    assert labels.names[4] == "class 4"
    assert labels.aliases[0] == ("crane",)
    assert labels.aliases[1] == ()
    assert any("same name for several classes" in note for note in labels.notes)
    assert any("no name for 1 classes" in note for note in labels.notes)


def test_names_that_are_unique_stay_as_they_are():
    labels = library_labels(["red, ripe", "red, unripe"], "the library")
    assert labels.names == ("red, ripe", "red, unripe")
    assert labels.notes == ()
