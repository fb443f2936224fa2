"""What the libraries beneath URLs need and are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fsspec.config import conf

from gapcam.inputs import network, open_inputs
from gapcam.inputs.network import Patience, fetch, spooled
from gapcam.types import ArgumentError, PictureError


def error_of(url: str) -> str:
    found = open_inputs([url])
    (item,) = found
    with pytest.raises(PictureError) as caught:
        found.reader.read(item)
    return str(caught.value)


def test_what_has_to_be_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    text = error_of("gs://bucket/a.png")
    assert text == (
        "gs://bucket/a.png: gs:// needs a package that is not installed. Run: pip install gcsfs"
    )
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert "Run: pip install aiohttp" in error_of("https://host/a.png")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ArgumentError, match=r"fsspec is not installed.*'gapcam\[scale\]'"):
        open_inputs(["s3://bucket/folder/"])


def test_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setitem(conf, "s3", {"endpoint_url": "http://127.0.0.1:1"})
    assert error_of("s3://bucket/a.png") == (
        "s3://bucket/a.png: expected a picture, it may not be read (NoCredentialsError); give "
        "credentials in the environment or in fsspec's configuration, and check them"
    )


def test_the_timeouts_of_each_library(monkeypatch: pytest.MonkeyPatch):
    patience = Patience(connect_s=1, stall_s=2, total_s=3)
    monkeypatch.setitem(conf, "s3", {"config_kwargs": {"read_timeout": 9}})
    monkeypatch.setitem(conf, "https", {"client_kwargs": {"trust_env": False}})
    assert network._options("s3", patience)["config_kwargs"] == {
        "connect_timeout": 1,
        "read_timeout": 9,  # the user's own
        "retries": {"max_attempts": 0},
    }
    client = network._options("https", patience)["client_kwargs"]
    timeout = client["timeout"]
    assert (timeout.total, timeout.sock_connect, timeout.sock_read) == (3, 1, 2)
    assert client["trust_env"] is False
    assert network._options("gs", patience) == {"requests_timeout": 2}
    assert network._options("memory", patience) == {}


def test_impossible_patience_and_endless_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ArgumentError, match="attempts: expected 1 or more, got 0"):
        fetch("memory://a.jpg", 10, Patience(attempts=0))
    monkeypatch.setattr(network, "_MOST_LIST_BYTES", 10)
    path = tmp_path / "list.txt"
    path.write_bytes(bytes(3 << 20))
    with (
        pytest.raises(ArgumentError, match=r"expected a list of at most 8 GiB; split it"),
        spooled(f"file://{path}", "a list"),
    ):
        pass


def test_local_inputs_load_none_of_them():
    code = """
import sys, gapcam.paths
print("PIL" in sys.modules)
from gapcam.inputs import open_inputs
list(open_inputs(["a.jpg", "https://host/a.jpg", "x.tar"]))
print(*sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    decoder, modules = shown.stdout.splitlines()
    assert decoder == "False"
    assert not {name.split(".")[0] for name in modules.split()} & {
        *("fsspec", "pyarrow", "aiohttp", "pandas", "torch", "onnxruntime"),
    }
