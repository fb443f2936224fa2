from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import nn

from gapcam.models.label_lists import imagenet_labels
from gapcam.models.sources import is_source, open_source
from gapcam.models.sources.common import reachable
from gapcam.types import ArgumentError, ModelError, Preprocessing

NAMES = ("cat", "dog", "red fox", "crane", "bee")
CLOSED_PORT = "http://127.0.0.1:9"
SLOW = 10.0  # seconds; the libraries' own retries take 23 to 47


def resnet_config(names=NAMES):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=len(names)
    )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    return config


def resnet(names=NAMES, seed=0):
    torch.manual_seed(seed)
    return transformers.ResNetForImageClassification(resnet_config(names)).eval()


def vit():
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )
    return transformers.ViTForImageClassification(config).eval()


def processor(size=32):
    return transformers.ViTImageProcessorPil(
        size={"height": size, "width": size + 16},
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.25, 0.3],
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    """A ResNet with names and a processor, as `save_pretrained` writes them."""
    path = tmp_path / "tiny-resnet"
    resnet().save_pretrained(path)
    processor().save_pretrained(path)
    return path


def scores(module: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module(pictures).logits


def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def test_a_folder_gives_network_labels_and_preprocessing(folder, cat):
    found = open_source(f"hf:{folder}")
    assert found.name == "tiny-resnet"
    assert found.labels == NAMES
    assert found.aliases == ((),) * 5
    assert not found.module.training
    assert torch.equal(scores(found.module, pictures()), scores(resnet(), pictures()))
    assert found.sources["weights"] == f"hf:{folder}"
    assert "ResNetForImageClassification" in found.sources["network"]
    assert found.preprocessing.size_hw == (32, 48)
    small = Image.open(cat).convert("RGB").resize((48, 32))
    theirs = processor()(small, return_tensors="np")["pixel_values"][0]
    wants = found.preprocessing
    ours = ((np.asarray(small, np.float64) - wants.mean) / wants.scale).transpose(2, 0, 1)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_what_the_user_gives_comes_first(folder):
    found = open_source(
        f"hf:{folder}", labels=list("abcde"), preprocessing="-1..1", size_hw=(64, 96)
    )
    assert found.labels == tuple("abcde")
    assert found.preprocessing == Preprocessing((64, 96), (127.5,) * 3, (127.5,) * 3)
    assert open_source(f"hf:{folder}", size_hw=(8, 9)).preprocessing.size_hw == (8, 9)
    with pytest.raises(ArgumentError, match="has 5 classes and 4 names were given"):
        open_source(f"hf:{folder}", labels=list("abcd"))


def test_half_precision_files_and_shards_load(tmp_path):
    net = vit()
    net.half().save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    found = open_source(f"hf:{tmp_path}", preprocessing="0..1")
    assert {p.dtype for p in found.module.parameters()} == {torch.float32}
    picture = pictures()[..., :32]
    assert torch.equal(scores(found.module, picture), scores(net.float(), picture))


def test_a_folder_without_a_processor_needs_preprocessing(tmp_path):
    resnet().save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match=r"has no preprocessor_config\.json.*'imagenet'"):
        open_source(f"hf:{tmp_path}")
    assert open_source(f"hf:{tmp_path}", preprocessing="imagenet").labels == NAMES


def test_a_configuration_without_names_says_so_in_a_note(tmp_path):
    vit().save_pretrained(tmp_path)
    found = open_source(f"hf:{tmp_path}", preprocessing="0..1")
    assert found.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert any("no names for its classes" in note for note in found.notes)


def test_equal_names_of_a_configuration_are_made_unique(tmp_path):
    config = resnet_config(["crane", "dog", "crane"])
    torch.manual_seed(0)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    found = open_source(f"hf:{tmp_path}", preprocessing="0..1")
    assert found.labels == ("crane (0)", "dog", "crane (2)")
    assert any("same name" in note for note in found.notes)


def test_imagenets_names_become_gapcams(tmp_path):
    own = imagenet_labels()
    theirs = [", ".join((label, *o[1:])) for label, o in zip(own.names, own.aliases, strict=True)]
    resnet(theirs).save_pretrained(tmp_path)
    found = open_source(f"hf:{tmp_path}", preprocessing="imagenet")
    assert found.labels == own.names
    assert found.aliases[281][0] == "n02123045"


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_pickled_weights_are_read_as_tensors_alone(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    torch.save(resnet().state_dict(), folder / "pytorch_model.bin")
    found = open_source(f"hf:{folder}")
    assert torch.equal(scores(found.module, pictures()), scores(resnet(), pictures()))


def test_code_in_pickled_weights_never_runs(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    mark = tmp_path / "ran"
    torch.save({**resnet().state_dict(), "bomb": Bomb(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only weights are pickled.*convert them to model\.safet"):
        open_source(f"hf:{folder}")
    assert not mark.exists()


def test_code_of_a_repository_never_runs(folder, tmp_path):
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    remote = {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"}
    path.write_text(json.dumps({**config, "model_type": "evil", "auto_map": remote}))
    with pytest.raises(ModelError, match=r"code from a repository is never run"):
        open_source(f"hf:{folder}")
    path.write_text(json.dumps({**config, "auto_map": remote}))  # the library's own class is used
    assert open_source(f"hf:{folder}").labels == NAMES
    assert not mark.exists()


def test_a_network_without_a_trained_classifier_is_refused(tmp_path):
    torch.manual_seed(0)
    transformers.ResNetModel(resnet_config()).save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"lack 2 of the classifier's tensors \(classifier.*random"
    ):
        open_source(f"hf:{tmp_path}", preprocessing="imagenet")


def test_a_model_that_is_no_image_classifier_is_refused(tmp_path):
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no image classifier of this kind"):
        open_source(f"hf:{tmp_path}", preprocessing="imagenet")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", b"{", r"config\.json cannot be read .Expecting"),
        ("config.json", b"[]", "expected a JSON object, got list"),
        ("config.json", b"{}", "not one that this version of Transformers knows"),
        ("config.json", b'{"model_type": "nonsense"}', "not one that this version"),
        ("config.json", None, r"config\.json cannot be read"),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{", "cannot be loaded"),
        ("model.safetensors", None, "expected model.safetensors in"),
        ("preprocessor_config.json", b"nonsense", "cannot be read"),
    ],
)
def test_broken_folders_are_named(file, content, words, folder):
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(ModelError, match=words):
        open_source(f"hf:{folder}")


@pytest.mark.parametrize("classes", [5, 3])
def test_a_checkpoint_replaces_a_folders_weights(classes, folder, tmp_path):
    (folder / "model.safetensors").unlink()
    net = resnet(NAMES[:classes], seed=7)
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, path)
    given = None if classes == 5 else NAMES[:3]
    found = open_source(f"hf:{folder}", checkpoint=path, labels=given)
    assert found.labels == NAMES[:classes]
    assert found.sources["weights"] == "mine.pth"
    assert torch.equal(scores(found.module, pictures()), scores(net, pictures()))
    if given:
        with pytest.raises(ArgumentError, match="names 0 classes and the network has 3; pass lab"):
            open_source(f"hf:{folder}", checkpoint=path)


def test_a_checkpoint_of_another_network_is_refused(folder, tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(vit().state_dict(), path)
    with pytest.raises(ModelError, match=r"mine\.pth: these weights do not fit ResNetFor.*missing"):
        open_source(f"hf:{folder}", checkpoint=path)


class Plain(nn.Module):
    """Says nothing of its classes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))


def test_a_module_with_everything_given_stays_itself():
    net = Plain().train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = open_source(net, labels=["a", "b", "c", "d"], preprocessing="mean=0.5;std=0.5;size=9")
    assert found.module is net
    assert net.training
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert found.name == "Plain"
    assert found.preprocessing.size_hw == (9, 9)
    assert found.notes == ()


def test_a_module_that_says_nothing_needs_labels_and_preprocessing():
    with pytest.raises(ArgumentError, match="Plain: nothing in this module says what its classes"):
        open_source(Plain(), preprocessing="imagenet")
    with pytest.raises(ArgumentError, match="expects of a picture; pass preprocessing: 'imagenet'"):
        open_source(Plain(), labels=["a", "b", "c", "d"])
    with pytest.raises(ArgumentError, match="checkpoint: a module that is given keeps its weights"):
        open_source(Plain(), checkpoint="w.pth")
    with pytest.raises(ModelError, match="expected a PyTorch module, got int"):
        open_source(3)


def test_a_transformers_module_brings_its_labels_and_its_folders_processor(folder):
    net = transformers.ResNetForImageClassification.from_pretrained(folder)
    for given in (net, torch.compile(net, backend="eager")):
        found = open_source(given)
        assert found.module is given
        assert found.labels == NAMES
        assert found.preprocessing == open_source(f"hf:{folder}").preprocessing
        assert "labels and preprocessing taken from the module's own" in found.notes[0]


def test_a_transformers_module_from_nowhere_needs_preprocessing():
    with pytest.raises(ArgumentError, match="ResNetForImageClassification: nothing in this module"):
        open_source(resnet())
    assert open_source(resnet(), preprocessing="imagenet").labels == NAMES


@pytest.mark.parametrize("spec", ["resnet50", "keras:resnet50", "C:\\net", ""])
def test_names_without_a_known_library_are_refused(spec):
    assert not is_source(spec)
    with pytest.raises(
        ArgumentError, match=r"is unknown: expected timm:NAME, torchvision:NAME, hf"
    ):
        open_source(spec)


def test_names_of_libraries_are_known():
    assert is_source("timm:resnet50")
    assert is_source("HF:a/b")
    assert not is_source(Path("hf:a"))


@pytest.mark.parametrize("name", ["timm", "torchvision"])
@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="both are installed here"
)
def test_a_library_that_is_missing_is_named_with_the_command(name):
    with pytest.raises(
        ModelError, match=rf"{name} is not installed\. Run: pip install 'gapcam.zoo"
    ):
        open_source(f"{name}:resnet50")


def test_a_library_that_cannot_be_imported_is_named(tmp_path):
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    words, _ = said_by("torchvision:resnet50", PYTHONPATH=str(tmp_path))
    assert "ModelError: torchvision is installed and cannot be imported (operator tor" in words
    assert "built for another torch" in words


def said_by(spec: str, **environment: str) -> tuple[str, float]:
    """What opening a source says in a process of its own, and the seconds that it takes there."""
    code = (
        "import sys, time, torch, transformers; from gapcam.models.sources import open_source\n"
        "start = time.perf_counter()\n"
        "try: words = ' '.join(['opened', *open_source(sys.argv[1]).labels])\n"
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


def test_without_a_network_the_hub_is_given_up_at_once(tmp_path):
    words, seconds = said_by("hf:owner/net", HF_ENDPOINT=CLOSED_PORT, HF_HOME=str(tmp_path))
    assert "ModelError: hf:owner/net could not be downloaded: 127.0.0.1:9 does not answer" in words
    assert "config.json, preprocessor_config.json and model.safetensors into a folder" in words
    assert seconds < SLOW


def test_the_hubs_cache_serves_without_a_network(folder, tmp_path):
    cached = tmp_path / "hub" / "models--owner--net"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots").mkdir()
    folder.rename(cached / "snapshots" / ("0" * 40))
    words, _ = said_by("hf:owner/net", HF_HOME=str(tmp_path), HF_ENDPOINT=CLOSED_PORT)
    assert words == "opened cat dog red fox crane bee\n"


@pytest.mark.parametrize("spec", ["hf:", "hf:no such folder/a/b"])
def test_names_that_are_no_repository_are_refused(spec):
    with pytest.raises(ArgumentError, match=r"^hf:"):
        open_source(spec)


def test_a_proxy_leaves_the_question_to_the_library(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert not reachable(CLOSED_PORT)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:3128")
    assert reachable(CLOSED_PORT)


def test_knowing_the_sources_imports_no_heavy_library():
    code = "import sys, gapcam.models.sources; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in shown.stdout.split()}
    assert not loaded & {"torch", "transformers", "timm", "torchvision", "safetensors", "onnx"}
