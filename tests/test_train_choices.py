"""What `gapcam.train` refuses before it begins, and what it keeps of what was asked."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import gapcam
from gapcam.trainer.command import command_line
from gapcam.trainer.files import placeless, weights_hash
from gapcam.types import ArgumentError, DataError
from picture_files import smooth_pixels


def class_folders(root):
    for seed, name in enumerate("ab"):
        (root / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(smooth_pixels(8, 8, 10 * seed + i)).save(root / name / f"{i}.png")
    return root


def test_a_run_folder_among_the_pictures_is_refused(tmp_path):
    data = class_folders(tmp_path / "data")
    with pytest.raises(ArgumentError, match=r"run: lies in .*data.* Choose another --out"):
        gapcam.train(data, data / "run")
    assert not (data / "run").exists()


def test_a_further_process_leaves_a_head_to_the_first(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert gapcam.train(class_folders(tmp_path / "data"), tmp_path / "run") is None
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", [None, "alexnet"])
def test_nets_that_are_cut_by_name_take_no_layer(tmp_path, model):
    data = class_folders(tmp_path / "data")
    with pytest.raises(ArgumentError, match=r"layer 'x': .* leave layer out"):
        gapcam.train(data, tmp_path / "run", model=model, layer="x", method="finetune")
    assert not (tmp_path / "run").exists()


def test_the_normal_class_may_be_typed_in_either_unicode_form():
    assert placeless(("caf\u00e9", "x"), "cafe\u0301") == (0,)


def test_one_class_a_picture_is_what_a_column_label_means(tmp_path):
    class_folders(tmp_path)
    rows = "image,label\na/0.png,x\na/0.png,y\na/1.png,x\nb/0.png,y\n"
    (tmp_path / "labels.csv").write_text(rows)
    with pytest.raises(DataError, match=r"column label, got a/0.png .*'x', 'y'.*--multi-label"):
        gapcam.train(tmp_path / "labels.csv", tmp_path / "run")


def test_other_first_weights_are_another_run():
    net = nn.Linear(3, 2)
    before = weights_hash(net)
    assert weights_hash(net) == before
    with torch.no_grad():
        net.bias[0] += 1e-6
    assert weights_hash(net) != before


def test_the_command_is_the_one_that_was_given():
    made = command_line(
        Path("my data"),
        Path("run"),
        "timm:resnet18",
        None,
        {
            "method": "finetune",
            "multi_label": False,
            "augment": (),
            "validation_share": 0.3,
            "logger": "tensorboard",
            "size_hw": (96, 128),
            "epochs": 4,
        },
    )
    assert shlex.split(made) == (
        "gapcam train|my data|--out|run|--model|timm:resnet18|--finetune|--single-label|--augment|"
        "none|--validation|0.3|--log|tensorboard|--set|size=96x128|--epochs|4"
    ).replace("gapcam train", "gapcam|train").split("|")
    assert command_line(Path("d"), Path("r"), nn.Identity(), None, {}) is None
