from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from gapcam.models.sources import checkpoint
from gapcam.models.sources.checkpoint import class_count, compare, load_into, read_state
from gapcam.types import ModelError

CLASSES = 5


class Net(nn.Sequential):
    """Convolution, norm, pooling, linear layer."""

    def __init__(self, classes: int = CLASSES, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.fc = nn.Linear(width, classes)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def build(classes: int | None = None) -> Net:
    return Net(classes or CLASSES)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net()
    nn.init.normal_(net.norm.running_mean)
    return net.eval()


def assert_loads(path: Path, net: Net, classes: int = CLASSES) -> None:
    """The file's network gives the same scores as the one that was saved."""
    torch.manual_seed(1)
    loaded, count = load_into(build, read_state(path), CLASSES, str(path))
    picture = torch.rand(2, 3, 8, 8)
    assert count == classes
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(picture), net(picture))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar"])
@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_state_dicts_of_torch_load(suffix, new_format, net, tmp_path):
    path = tmp_path / f"weights{suffix}"
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=new_format)
    assert_loads(path, net)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_safetensors_load_whatever_their_name(name, net, tmp_path):
    path = tmp_path / name
    safetensors.torch.save_file(net.state_dict(), path)
    assert_loads(path, net)


@pytest.mark.parametrize("holder", checkpoint.HOLDERS)
def test_what_training_programs_put_around_the_weights(holder, net, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, holder: net.state_dict()}, path)
    assert_loads(path, net)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "_orig_mod.module.", "net."])
def test_prefixes_of_wrappers_are_taken_off(prefix, net, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({prefix + name: value for name, value in net.state_dict().items()}, path)
    assert_loads(path, net)


def test_a_prefix_that_is_the_networks_own_stays(tmp_path, net):
    path = tmp_path / "weights.pth"
    wrapped = nn.ModuleDict({"model": net})
    torch.save(wrapped.state_dict(), path)
    loaded, _ = load_into(
        lambda _: nn.ModuleDict({"model": build()}), read_state(path), CLASSES, ""
    )
    assert torch.equal(loaded["model"].fc.weight, net.fc.weight)


@pytest.mark.parametrize("classes", [1, 3, 11])
def test_the_network_is_made_with_the_checkpoints_classes(classes, tmp_path):
    torch.manual_seed(0)
    net = Net(classes).eval()
    path = tmp_path / "weights.pth"
    torch.save(net.state_dict(), path)
    assert_loads(path, net, classes)


def test_old_files_without_counters_and_of_half_precision_load(net, tmp_path):
    path = tmp_path / "weights.pth"
    half = {name: value.half() for name, value in net.state_dict().items()}
    del half["norm.num_batches_tracked"]
    torch.save(half, path)
    net.load_state_dict(half, strict=False)
    assert_loads(path, net)


def test_a_pickled_module_is_refused_and_the_words_say_how_to_save(net, tmp_path):
    path = tmp_path / "module.pth"
    torch.save(net, path)
    with pytest.raises(ModelError, match=r"module\.pth: holds Python objects.*state_dict\(\)"):
        read_state(path)


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_code_in_a_file_never_runs(new_format, net, tmp_path):
    path, mark = tmp_path / "bomb.pth", tmp_path / "ran"
    state = {**net.state_dict(), "bomb": Bomb(mark)}
    torch.save(state, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(ModelError, match="Python objects"):
        read_state(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the bomb is live
    assert mark.exists()


def test_a_plain_pickle_never_runs(tmp_path):
    path, mark = tmp_path / "bomb.pt", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ModelError, match="not a"):
        read_state(path)
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
def test_files_cut_short_are_refused(kind, share, net, tmp_path):
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        safetensors.torch.save_file(net.state_dict(), path)
    else:
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        ModelError, match=r"weights\.\w+: (not a whole .* again|holds .* or is damaged)"
    ):
        read_state(path)


@pytest.mark.parametrize(
    "content", [b"hello", b"\x80\x02.", b"PK\x03\x04" + b"\0" * 64, b"\0" * 99]
)
def test_files_of_other_kinds_are_refused(content, tmp_path):
    for name in ("weights.pth", "weights.safetensors"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ModelError, match="not a"):
            read_state(path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelError, match="not a whole PyTorch file"):
        read_state(path)


def test_a_scripted_module_is_refused(tmp_path):
    path = tmp_path / "scripted.pt"
    with zipfile.ZipFile(path, "w") as archive:  # as torch.jit.save lays it out
        archive.writestr("scripted/constants.pkl", b"\x80\x02).")
        archive.writestr("scripted/data.pkl", b"\x80\x02N.")
        archive.writestr("scripted/version", "3\n")
    with pytest.raises(ModelError, match=r"scripted\.pt: a TorchScript archive, which holds code"):
        read_state(path)


def test_paths_that_are_no_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="no such file"):
        read_state(tmp_path / "gone.pth")
    with pytest.raises(ModelError, match="no such file"):
        read_state(tmp_path)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ModelError, match="the file is empty"):
        read_state(tmp_path / "empty.pth")
    monkeypatch.setattr(checkpoint, "LARGEST_FILE", 3)
    (tmp_path / "large.pth").write_bytes(b"1234")
    with pytest.raises(ModelError, match="4 bytes are more than the 3"):
        read_state(tmp_path / "large.pth")


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (torch.zeros(3), "found Tensor"),
        ([torch.zeros(3)], "found list"),
        ({}, "holds no tensors"),
        ({"a": torch.zeros(3), "b": 3, 7: torch.zeros(1)}, "2 entries that are none: 'b', 7"),
        ({"a": torch.zeros(3).to_sparse()}, "1 entries that are none: 'a'"),
        ({"state_dict": {"a": 1}}, "1 entries that are none: 'a'"),
    ],
)
def test_files_without_a_state_dict_are_refused(held, words, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(held, path)
    with pytest.raises(ModelError, match=words):
        read_state(path)


def test_the_error_names_what_does_not_fit_briefly():
    state = Net().state_dict()
    del state["conv.bias"]
    state |= {f"extra.{i}": torch.zeros(1) for i in range(5)}
    state["norm.weight"] = torch.zeros(9)
    with pytest.raises(ModelError) as caught:
        load_into(build, state, CLASSES, "w.pth")
    words = str(caught.value)
    assert words.startswith("w.pth: these weights do not fit Net: missing in the file: conv.bias;")
    assert "not in the network: extra.0, extra.1, extra.2 and 2 more;" in words
    assert "norm.weight (4,) in the file (9,)" in words
    assert words.endswith("Name the network that they were trained with")


def test_another_width_is_not_taken_for_another_number_of_classes():
    wide = Net(width=7).state_dict()
    assert class_count(Net(), wide, CLASSES) is None
    with pytest.raises(ModelError, match="do not fit"):
        load_into(build, wide, CLASSES, "w.pth")
    same = Net(width=CLASSES).state_dict()  # the width is the class count, and only it differs
    assert class_count(Net(width=CLASSES), Net(9, width=CLASSES).state_dict(), CLASSES) == 9
    assert not compare(Net(width=CLASSES), same)
