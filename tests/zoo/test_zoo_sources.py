"""`timm:`, `torchvision:` and `hf:` with the real libraries; weights are random, saved as files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import timm.data
import torch
import torchvision
from PIL import Image
from torch import nn

import gapcam
from gapcam.models.label_lists import imagenet_labels, library_labels
from gapcam.models.sources import open_source
from gapcam.types import ArgumentError, ModelError, Preprocessing

CLOSED_PORT = "http://127.0.0.1:9"
SLOW = 10.0  # seconds; timm's own retries take 47
TIMM = ("resnet18", "efficientnet_lite0", "mobilenetv3_small_050", "vit_tiny_patch16_224")
TORCHVISION = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "googlenet", "shufflenet_v2_x0_5")


def scored(module: nn.Module, size_hw: tuple[int, int]) -> torch.Tensor:
    picture = torch.rand(2, 3, *size_hw, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return module.eval()(picture)


def prepared(wants: Preprocessing, library_transform) -> tuple[np.ndarray, np.ndarray]:
    """A real picture at the input size, by our formula and by the library's."""
    cat = next(path for path in gapcam.sample_pictures() if path.name == "cat.jpg")
    picture = Image.open(cat).convert("RGB").resize(wants.size_hw[::-1])
    ours = (np.asarray(picture, np.float64) - wants.mean) / wants.scale
    return ours.transpose(2, 0, 1), library_transform(picture).numpy()


def randomized(module: nn.Module) -> nn.Module:
    """Statistics of norms that were never taken, too: all tensors differ from a fresh network's."""
    torch.manual_seed(3)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value += 0.01 * torch.rand_like(value)
    return module


@pytest.mark.parametrize("classes", [1000, 7])
@pytest.mark.parametrize("name", TIMM)
def test_timm_checkpoints_load_with_labels_and_preprocessing(name, classes, tmp_path):
    net = randomized(timm.create_model(name, num_classes=classes))
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(net.state_dict(), path)
    labels = None if classes == 1000 else [f"kind {i}" for i in range(classes)]
    found = open_source(f"timm:{name}", checkpoint=path, labels=labels)
    size = found.preprocessing.size_hw
    assert torch.equal(scored(found.module, size), scored(net, size))
    assert found.labels == (imagenet_labels().names if labels is None else tuple(labels))
    assert found.name.startswith(name)
    config = timm.data.resolve_data_config({}, model=net)
    transform = timm.data.create_transform(**{**config, "crop_pct": 1.0})
    ours, theirs = prepared(found.preprocessing, transform)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_timms_classes_are_named_only_where_they_are_known(tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(timm.create_model("resnet18", num_classes=7).state_dict(), path)
    with pytest.raises(
        ArgumentError, match=r"resnet18 has 7 classes and nothing says what.*labels"
    ):
        open_source("timm:resnet18", checkpoint=path)
    with pytest.raises(ArgumentError, match="7 classes and 2 names"):
        open_source("timm:resnet18", checkpoint=path, labels=["a", "b"])


def test_timms_own_order_of_imagenet_is_gapcams():
    ours = [aliases[0] for aliases in imagenet_labels().aliases]
    assert timm.data.ImageNetInfo().label_names() == ours


def test_timms_larger_imagenet_gets_unique_names_and_wordnet_ids(tmp_path):
    name = "mobilenetv3_small_050"
    path = tmp_path / "mine.pth"
    net = timm.create_model(name, num_classes=11821)
    torch.save(net.state_dict(), path)
    net.pretrained_cfg["num_classes"] = 11821
    found = open_source(net)
    info = timm.data.ImageNetInfo("imagenet-12k")
    assert len(set(found.labels)) == 11821
    assert [aliases[0] for aliases in found.aliases] == info.label_names()
    assert any("same name" in note for note in found.notes)


def test_a_timm_net_of_a_fixed_size_is_made_for_the_users(tmp_path):
    path = tmp_path / "mine.pth"
    net = timm.create_model("vit_tiny_patch16_224", img_size=(96, 128))
    torch.save(net.state_dict(), path)
    found = open_source("timm:vit_tiny_patch16_224", checkpoint=path, size_hw=(96, 128))
    assert found.preprocessing.size_hw == (96, 128)
    assert torch.equal(scored(found.module, (96, 128)), scored(net, (96, 128)))


def test_a_checkpoint_of_another_input_size_is_converted_by_timm_with_a_note(tmp_path):
    net = randomized(timm.create_model("vit_tiny_patch16_224", img_size=96)).eval()
    path = tmp_path / "mine.pth"
    torch.save(net.state_dict(), path)
    found = open_source("timm:vit_tiny_patch16_224", checkpoint=path)
    assert any("converted by timm's own rules" in n and "pos_embed" in n for n in found.notes)
    net.set_input_size((224, 224))
    torch.testing.assert_close(scored(found.module, (224, 224)), scored(net, (224, 224)))
    other = tmp_path / "other.pth"
    torch.save(timm.create_model("resnet18").state_dict(), other)
    with pytest.raises(ModelError, match=r"other\.pth: these weights do not fit VisionTransformer"):
        open_source("timm:vit_tiny_patch16_224", checkpoint=other)


def test_a_timm_folder_brings_its_own_labels(tmp_path):
    net = randomized(timm.create_model("resnet18", num_classes=3))
    config = {"label_names": ["cat", "dog", "fox"], "num_classes": 3}
    timm.models.save_for_hf(net, tmp_path, model_config=config)
    found = open_source(f"timm:local-dir:{tmp_path}")
    assert found.labels == ("cat", "dog", "fox")
    assert torch.equal(scored(found.module, (64, 64)), scored(net, (64, 64)))


def test_a_timm_module_brings_its_own():
    net = timm.create_model("resnet18")
    found = open_source(net)
    assert found.module is net
    assert found.labels == imagenet_labels().names
    assert found.preprocessing.size_hw == (224, 224)
    assert "timm's configuration" in found.notes[0]
    with pytest.raises(ArgumentError, match="resnet18 has 5 classes and nothing says"):
        open_source(timm.create_model("resnet18", num_classes=5))


@pytest.mark.parametrize("classes", [1000, 7])
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_checkpoints_load_with_labels_and_preprocessing(name, classes, tmp_path):
    net = randomized(torchvision_net(name, classes))
    path = tmp_path / "mine.pth"
    torch.save(net.state_dict(), path)
    labels = None if classes == 1000 else [f"kind {i}" for i in range(classes)]
    found = open_source(f"torchvision:{name}", checkpoint=path, labels=labels)
    size = found.preprocessing.size_hw
    np.testing.assert_array_equal(scored(found.module, size), scored(net, size))
    assert found.labels == (imagenet_labels().names if labels is None else tuple(labels))
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    transform.resize_size = transform.crop_size
    ours, theirs = prepared(found.preprocessing, transform)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def torchvision_net(name: str, classes: int, **options: int) -> nn.Module:
    if name == "googlenet":  # as with torchvision's weights
        options = {"transform_input": True, "aux_logits": True, "init_weights": False}
    return torchvision.models.get_model(name, num_classes=classes, **options)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "vit_b_16:IMAGENET1K_SWAG_E2E_V1"])
def test_torchvisions_cached_weights_give_what_torchvision_gives(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name, _, wanted = name.partition(":")
    weights = torchvision.models.get_model_weights(name)[wanted or "DEFAULT"]
    made = torchvision_net(name, 1000, image_size=384) if wanted else torchvision_net(name, 1000)
    path = tmp_path / "hub" / "checkpoints" / Path(weights.url).name
    path.parent.mkdir(parents=True)
    torch.save(randomized(made).state_dict(), path)
    found = open_source(":".join(filter(None, ("torchvision", name, wanted))))
    theirs = torchvision.models.get_model(name, weights=weights)
    size = found.preprocessing.size_hw
    assert size == ((384, 384) if wanted else (224, 224))
    np.testing.assert_array_equal(scored(found.module, size), scored(theirs, size))
    assert found.sources["weights"] == str(weights)


def test_torchvisions_names_all_find_their_class():
    names = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    labels = library_labels(names, "torchvision")
    assert labels.names == imagenet_labels().names
    for name, label, aliases in zip(names, labels.names, labels.aliases, strict=True):
        assert name in (label, *aliases)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("timm:resnet5O", r"timm model 'resnet5O' is unknown; did you mean '.*resnet50"),
        ("timm:resnet50.a1_in2k", r"weights of timm's resnet50: 'a1_in2k' is unknown.*'a1_in1k'"),
        ("timm:ftp:x", "expected a name, hf-hub:OWNER/NAME or local-dir:FOLDER"),
        ("timm:zzzzqqqq", "no name comes close"),
        ("torchvision:resnet5O", r"classifier 'resnet5O' is unknown; did you mean '.*resnet50'"),
        ("torchvision:maskrcnn_resnet50_fpn", "is unknown"),
        (
            "torchvision:resnet50:IMAGENET1K_V3",
            r"resnet50 'IMAGENET1K_V3' is unknown.*'IMAGENET1K_V",
        ),
    ],
)
def test_unknown_names_get_close_ones(spec, words):
    with pytest.raises(ArgumentError, match=words):
        open_source(spec)


def test_timm_weights_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"timm has no weights for .*; pass a file"):
        open_source(without_weights())
    with pytest.raises(ModelError, match=r"local-dir.* could not be made"):
        open_source(f"timm:local-dir:{tmp_path}")


def without_weights() -> str:
    with_weights = {name.split(".")[0] for name in timm.list_pretrained()}
    return "timm:" + next(name for name in timm.list_models() if name not in with_weights)


def said_by(spec: str, **environment: str) -> tuple[str, float]:
    """What opening a source says in a process of its own, and the seconds that it takes there."""
    code = (
        "import sys, time, torch, timm, transformers, torchvision\n"
        "from gapcam.models.sources import open_source\n"
        "start = time.perf_counter()\n"
        "try: words = 'opened ' + open_source(sys.argv[1]).name\n"
        "except Exception as error: words = f'{type(error).__name__}: {error}'\n"
        "print(time.perf_counter() - start, words)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, spec],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    seconds, _, words = done.stdout.partition(" ")
    return words, float(seconds)


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        ("timm:resnet18.a1_in1k", "pass the file as checkpoint"),
        ("timm:hf-hub:owner/net", "timm:local-dir:FOLDER"),
        ("hf:owner/net", "use hf:FOLDER"),
    ],
)
def test_without_a_network_the_hub_is_given_up_at_once(spec, advice, tmp_path):
    words, seconds = said_by(spec, HF_ENDPOINT=CLOSED_PORT, HF_HOME=str(tmp_path))
    assert words.startswith("ModelError: ")
    assert "could not be downloaded: 127.0.0.1:9 does not answer" in words
    assert advice in words
    assert seconds < SLOW


def test_timms_cached_weights_serve_without_a_network(tmp_path):
    net = randomized(timm.create_model("resnet18"))
    folder = tmp_path / "hub" / "models--timm--resnet18.a1_in1k"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    safetensors.torch.save_file(net.state_dict(), snapshot / "model.safetensors")
    words, seconds = said_by("timm:resnet18", HF_HOME=str(tmp_path), HF_ENDPOINT=CLOSED_PORT)
    assert words == "opened resnet18.a1_in1k\n"
    assert seconds < SLOW
