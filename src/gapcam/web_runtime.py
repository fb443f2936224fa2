"""onnxruntime-web, which runs a model file in a browser: from a folder, a package, or a registry.

Two of the npm package's files are needed. The package is not part of gapcam: it is 33 MB, and a
registry has it. What comes from there is checked against the hash of the version that is tested.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import tarfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from gapcam.models.embedded import cache_folder
from gapcam.outputs import replacing
from gapcam.types import ArgumentError, ModelError, OutputError

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZ"
    "ClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
"""As npm's lock file of the tests has it."""

SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
REGISTRY = "https://registry.npmjs.org"
_DESCRIPTION = "package.json"
_IN_PACKAGE = {f"package/dist/{name}": name for name in (SCRIPT, BINARY)}
_IN_PACKAGE |= {f"package/{_DESCRIPTION}": _DESCRIPTION}
_WASM_STARTS = b"\0asm"
_CHUNK = 2**18
_OTHERWISE = f"Or get it elsewhere (npm pack {PACKAGE}@{VERSION}) and name the file: --runtime"

LICENCE = """\
onnxruntime-web is part of ONNX Runtime, https://github.com/microsoft/onnxruntime, whose notices of
third parties are in ThirdPartyNotices.txt there.

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What a registry may cost.

    Attributes:
        silence_s: The longest wait for the next bytes, seconds.
        total_s: The longest download, seconds.
        max_bytes: The largest package, packed.
        max_unpacked: How much of a package is unpacked while looking for the files.
    """

    silence_s: float = 30
    total_s: float = 600
    max_bytes: int = 128 * 2**20
    max_unpacked: int = 1024 * 2**20


DEFAULT_LIMITS = FetchLimits()


@dataclass(frozen=True, slots=True)
class WebRuntime:
    """The two files.

    Attributes:
        script: The JavaScript module.
        binary: The WebAssembly that it runs.
        version: What the package calls itself; empty where nothing says.
    """

    script: bytes
    binary: bytes
    version: str

    def __str__(self) -> str:
        tested = "" if self.version == VERSION else f" (gapcam is tested with {VERSION})"
        return f"{PACKAGE} {self.version or 'of an unknown version'}{tested}"


def web_runtime(
    source: str | Path | None = None,
    *,
    tell: Callable[[str], None] | None = None,
    limits: FetchLimits = DEFAULT_LIMITS,
) -> WebRuntime:
    """The files of onnxruntime-web.

    Args:
        source: The npm package's folder, its `dist`, or the tarball of `npm pack`. None: the
            tested version from the npm registry (`npm_config_registry`, or `registry` in
            `~/.npmrc`), kept in the cache folder.
        tell: Called with a word of progress.
        limits: What the registry may cost.

    Raises:
        ArgumentError: `source` is none of these.
        ModelError: The package cannot be fetched, or is damaged.
    """
    if source is None:
        origin, data = _fetched(tell, limits)
        return _runtime(_unpacked(data, origin, limits), origin)
    path = Path(source)
    if path.is_dir():
        return _from_folder(path)
    try:
        if path.stat().st_size > limits.max_bytes:
            raise ArgumentError(f"{path}: larger than any {PACKAGE} package")
        data = path.read_bytes()
    except OSError as error:
        raise ArgumentError(
            f"{path}: cannot be read ({error.strerror}): expected the folder or the tarball of "
            f"{PACKAGE}"
        ) from error
    runtime = _runtime(_unpacked(data, str(path), limits), str(path))
    if runtime.version == VERSION and integrity(data) != INTEGRITY:
        raise ModelError(
            f"{path}: differs from {PACKAGE} {VERSION} as npm has it: damaged or changed. "
            f"Get it again: npm pack {PACKAGE}@{VERSION}"
        )
    return runtime


def integrity(data: bytes) -> str:
    """The hash of a package as npm writes it."""
    return f"sha512-{base64.b64encode(hashlib.sha512(data).digest()).decode()}"


def _from_folder(path: Path) -> WebRuntime:
    for dist in (path, path / "dist", path / "node_modules" / PACKAGE / "dist"):
        if (dist / SCRIPT).is_file() and (dist / BINARY).is_file():
            described = dist.parent / _DESCRIPTION
            try:
                found = {name: (dist / name).read_bytes() for name in (SCRIPT, BINARY)}
                if described.is_file():
                    found[_DESCRIPTION] = described.read_bytes()
            except OSError as error:
                raise ArgumentError(f"{dist}: cannot be read ({error.strerror})") from error
            return _runtime(found, str(path))
    raise ArgumentError(
        f"{path}: expected the folder of {PACKAGE}, with {SCRIPT} and {BINARY} in it or in dist"
    )


def _runtime(found: dict[str, bytes], origin: str) -> WebRuntime:
    name, version = PACKAGE, ""
    if _DESCRIPTION in found:
        try:
            told = json.loads(found[_DESCRIPTION])
            name, version = str(told["name"]), str(told["version"])
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{origin}: its {_DESCRIPTION} is damaged ({error})") from error
    if name != PACKAGE:
        raise ArgumentError(f"{origin}: expected {PACKAGE}, got the package {name!r}")
    if not found[BINARY].startswith(_WASM_STARTS):
        raise ModelError(f"{origin}: its {BINARY} is no WebAssembly. {_OTHERWISE}")
    return WebRuntime(found[SCRIPT], found[BINARY], version)


def _unpacked(data: bytes, origin: str, limits: FetchLimits) -> dict[str, bytes]:
    """The needed files of a tarball, in memory; nothing else of it is touched."""
    found: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            for member in tar:
                total += member.size
                if total > limits.max_unpacked:
                    raise ModelError(f"{origin}: unpacks to more than any {PACKAGE} package")
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None and member.name in _IN_PACKAGE:
                    found[_IN_PACKAGE[member.name]] = file.read()
                if len(found) == len(_IN_PACKAGE):
                    break
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ModelError(
            f"{origin}: expected the tarball of {PACKAGE}, and it cannot be unpacked ({error}). "
            f"Get it again: npm pack {PACKAGE}@{VERSION}"
        ) from error
    missing = sorted(set(_IN_PACKAGE.values()) - set(found))
    if missing:
        raise ModelError(f"{origin}: expected the tarball of {PACKAGE}, it has no {missing[0]}")
    return found


def _fetched(tell: Callable[[str], None] | None, limits: FetchLimits) -> tuple[str, bytes]:
    """Where the tested package is from, and its bytes: the cache's, or else the registry's."""
    kept = cache_folder() / f"{PACKAGE}-{VERSION}.tgz"
    try:
        data = kept.read_bytes()
        if integrity(data) == INTEGRITY:
            return str(kept), data
    except OSError:
        pass  # not there yet, or of no use: it is fetched
    url = f"{registry()}/{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"
    say = tell or (lambda _: None)
    say(f"Fetching {PACKAGE} {VERSION} once (33 MB) from {url} ...")
    data = _downloaded(url, limits)
    if integrity(data) != INTEGRITY:
        raise ModelError(
            f"{url}: damaged, cut short or changed: {len(data)} bytes whose hash is not that of "
            f"{PACKAGE} {VERSION}. Try again. {_OTHERWISE}"
        )
    try:
        with replacing(kept, binary=True) as out:
            out.write(data)
    except OutputError as error:
        say(f"{error}. {PACKAGE} will be fetched again next time.")
    return url, data


def registry() -> str:
    """The npm registry that npm would use: of the environment, `~/.npmrc`, or npm's own.

    Raises:
        ModelError: It is no web address.
    """
    settings = {name.lower(): value for name, value in os.environ.items()}
    named = settings.get("npm_config_registry") or _of_npmrc(settings) or REGISTRY
    parts = urlsplit(named)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ModelError(
            f"the npm registry that npm's settings name ({parts.hostname or 'no host'}): expected "
            f"a http or https address without a password. {_OTHERWISE}"
        )
    return named.rstrip("/")


def _of_npmrc(settings: dict[str, str]) -> str:
    path = Path(settings.get("npm_config_userconfig") or "~/.npmrc")
    try:
        lines = path.expanduser().read_text("utf-8", errors="replace").splitlines()
    except (OSError, RuntimeError):  # no such file, or no home
        return ""
    pairs = (line.partition("=") for line in lines)
    found = [value for name, _, value in pairs if name.strip() == "registry"]
    return os.path.expandvars(found[-1].strip().strip("\"'")) if found else ""


def _downloaded(url: str, limits: FetchLimits) -> bytes:
    end = time.monotonic() + limits.total_s
    data = bytearray()
    try:
        request = Request(url, headers={"User-Agent": "gapcam"})  # noqa: S310 (http or https only)
        with urlopen(request, timeout=limits.silence_s) as answer:  # noqa: S310
            while part := answer.read1(_CHUNK):
                data += part
                if len(data) > limits.max_bytes:
                    raise ModelError(f"{url}: larger than any {PACKAGE} package. {_OTHERWISE}")
                if time.monotonic() > end:
                    raise TimeoutError(f"not whole after {limits.total_s:g} s")
    except HTTPError as error:
        error.close()
        raise ModelError(
            f"{url}: the registry answered {error.code} {error.reason}. {_OTHERWISE}"
        ) from error
    except (OSError, http.client.HTTPException) as error:  # URLError and TimeoutError among them
        reason = error.reason if isinstance(error, URLError) else error
        raise ModelError(
            f"{url}: cannot be fetched ({reason}). Check the network. {_OTHERWISE}"
        ) from error
    return bytes(data)
