"""What is at a URL, through fsspec: bounded in bytes, time and attempts."""

# Imports fsspec and, for its timeouts, aiohttp: only inside functions, both may be missing.

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final, TypeAlias, TypeVar

from gapcam.inputs.urls import is_http, scheme_of, shown, without_secrets
from gapcam.types import ArgumentError, GapcamError, PictureError

T = TypeVar("T")
FileSystem: TypeAlias = Any  # fsspec has no types

_PIECE: Final = 1 << 20
_MOST_LIST_BYTES: Final = 8 << 30
_AGAIN: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
_PLAINLY: Final = {
    "ClientPayloadError": "the connection breaks off",
    "ServerDisconnectedError": "the connection breaks off",
    "TooManyRedirects": "it is redirected again and again",
}
"""What aiohttp says in many words."""
_PATIENT_THEMSELVES: Final = frozenset(("s3", "s3a", "gs", "gcs"))
"""Their libraries try five times or more: with ours on top, an outage would take many minutes."""
_PACKAGES: Final = {
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "az", "abfss", "adl"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "hf": "huggingface_hub",
}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the network may take.

    Attributes:
        attempts: How often something is asked for before it counts as failed (S3 and Google
            Cloud Storage: their libraries decide).
        wait_s: Before the second attempt, seconds; doubled before each further one.
        connect_s: For a connection, seconds.
        stall_s: With no byte coming, seconds.
        total_s: For one picture, seconds; archives and lists only must not stall.
    """

    attempts: int = 3
    wait_s: float = 0.5
    connect_s: float = 10.0
    stall_s: float = 30.0
    total_s: float | None = 300.0


PATIENT: Final = Patience()


def fetch(url: str, limit: int, patience: Patience = PATIENT) -> bytes:
    """The bytes of a picture.

    Args:
        url: Where it is.
        limit: The most bytes it may have.
        patience: How long to wait.

    Raises:
        PictureError: It is not there, too large, refused, or the network fails again and again.
    """
    name = shown(url)

    def read() -> bytes:
        with _opened(url, patience) as file:
            pieces: list[bytes] = []
            size = 0
            while piece := file.read(_PIECE):
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise PictureError(
                        f"{name}: expected at most {limit:,} bytes, it has more; save it smaller"
                    )
        return b"".join(pieces)

    return patiently(name, "a picture", read, patience)


def patiently(name: str, what: str, ask: Callable[[], T], patience: Patience = PATIENT) -> T:
    """Ask for something, again when the network fails in passing.

    Raises:
        PictureError: It failed for good; the message names `name`.
    """
    attempts = 1 if scheme_of(name) in _PATIENT_THEMSELVES else patience.attempts
    for attempt in range(attempts):
        if attempt:
            time.sleep(patience.wait_s * 2 ** (attempt - 1))
        try:
            return ask()
        except GapcamError:
            raise
        except Exception as error:  # every file system has errors of its own
            if not _may_pass(error) or attempt + 1 == attempts:
                raise _failure(name, what, error, attempt + 1) from None  # it may hold secrets
    raise ArgumentError(f"attempts: expected 1 or more, got {patience.attempts}")


class Stream:
    """A file at a URL, read front to back; a connection that breaks is made again.

    Raises:
        PictureError: While it is opened or read: it is not there, or it breaks again and again.
    """

    def __init__(self, url: str, what: str, patience: Patience = PATIENT) -> None:
        self._url = url
        self._what = what
        self._patience = Patience(
            patience.attempts, patience.wait_s, patience.connect_s, patience.stall_s, None
        )
        self._at = 0
        self._file: Any = None
        self.read(0)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end."""

        def ask() -> bytes:
            if self._file is None:
                self._file = _open_at(self._url, self._at, self._patience)
            try:
                return bytes(self._file.read(size)) if size else b""
            except Exception:
                self.close()
                raise

        data = patiently(shown(self._url), self._what, ask, self._patience)
        self._at += len(data)
        return data

    def close(self) -> None:
        """Let the connection go."""
        if self._file is not None:
            self._file.close()
            self._file = None


@contextmanager
def spooled(url: str, what: str, patience: Patience = PATIENT) -> Iterator[IO[bytes]]:
    """A whole list or table from a URL, in a temporary file.

    Raises:
        ArgumentError: It cannot be read, or has more than 8 GiB.
    """
    with tempfile.TemporaryFile() as file:
        try:
            stream = Stream(url, what, patience)
            try:
                while piece := stream.read(_PIECE):
                    if file.tell() > _MOST_LIST_BYTES:
                        raise ArgumentError(
                            f"{shown(url)}: expected {what} of at most 8 GiB; split it"
                        )
                    file.write(piece)
            finally:
                stream.close()
        except PictureError as error:
            raise ArgumentError(str(error)) from None
        file.seek(0)
        yield file


def file_system(url: str, patience: Patience = PATIENT) -> tuple[FileSystem, str]:
    """The file system of a URL, and the URL's path in it.

    Raises:
        ArgumentError: Something has to be installed, or the scheme is unknown.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ArgumentError(
            f"{shown(url)}: fsspec is not installed, and URLs need it. "
            "Run: pip install 'gapcam[scale]'"
        ) from error
    scheme = scheme_of(url)
    try:
        found: tuple[FileSystem, str] = url_to_fs(url, **_options(scheme, patience))
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        advice = (
            f"Run: pip install {package}" if package else f"It says: {without_secrets(str(error))}"
        )
        raise ArgumentError(
            f"{shown(url)}: {scheme}:// needs a package that is not installed. {advice}"
        ) from error
    except ValueError as error:
        raise ArgumentError(
            f"{shown(url)}: expected a URL that fsspec knows (s3://, gs://, https://, ...), got "
            f"{scheme}:// ({without_secrets(str(error))}); check the spelling"
        ) from None
    return found


def _options(scheme: str, patience: Patience) -> dict[str, Any]:
    """Timeouts, in each library's words; what fsspec's configuration says besides stays."""
    from fsspec.config import conf

    set_by_user: dict[str, Any] = dict(conf.get(scheme, {}))
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(
            total=patience.total_s, sock_connect=patience.connect_s, sock_read=patience.stall_s
        )
        given = {"timeout": timeout, "trust_env": True, **set_by_user.get("client_kwargs", {})}
        return {"client_kwargs": given}
    if scheme in ("s3", "s3a"):
        waits = {"connect_timeout": patience.connect_s, "read_timeout": patience.stall_s}
        once = {"retries": {"max_attempts": 0}}  # s3fs tries again itself
        given = {**waits, **once, **set_by_user.get("config_kwargs", {})}
        return {"config_kwargs": given, "use_listings_cache": False}
    if scheme in ("gs", "gcs"):
        return {"requests_timeout": set_by_user.get("requests_timeout", patience.stall_s)}
    return {}


@contextmanager
def _opened(url: str, patience: Patience) -> Iterator[Any]:
    file = _open_at(url, 0, patience)
    try:
        yield file
    finally:
        file.close()


def _open_at(url: str, position: int, patience: Patience) -> Any:
    fs, path = file_system(url, patience)
    if not is_http(url):
        file = fs.open(path, "rb")
        file.seek(position)
        return file
    # No block size and any size: fsspec then asks for the whole file in one request.
    headers = {"headers": {"Range": f"bytes={position}-"}} if position else {}
    file = fs.open(path, "rb", block_size=0, size=1, **headers)
    skip = position if position and file.r.status != 206 else 0
    while skip:
        piece = file.read(min(skip, _PIECE))
        if not piece:
            raise ConnectionError("it is shorter than it was")
        skip -= len(piece)
    return file


def _may_pass(error: Exception) -> bool:
    if status := _status(error):
        return status in _AGAIN
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, ValueError)):
        return False
    if type(error).__name__ == "TooManyRedirects":
        return False
    home = type(error).__module__.partition(".")[0]
    passing = (OSError, asyncio.TimeoutError)  # which are TimeoutError from Python 3.11 on
    return isinstance(error, passing) or (home in ("aiohttp", "botocore") and not _keyless(error))


def _status(error: Exception) -> int:
    """An HTTP status that is bad, or 0; endless redirects come without one."""
    status = getattr(error, "status", None)
    return status if isinstance(status, int) and status >= 400 else 0


def _keyless(error: Exception) -> bool:
    return "Credential" in type(error).__name__


def _failure(name: str, what: str, error: Exception, attempts: int) -> PictureError:
    tried = f", tried {attempts} times" if attempts > 1 else ""
    reason, advice = _words(error)
    return PictureError(f"{name}: expected {what}, {reason}{tried}; {advice}")


def _words(error: Exception) -> tuple[str, str]:
    """What went wrong, and what to do."""
    credentials = "give credentials in the environment or in fsspec's configuration, and check them"
    if status := _status(error):
        said = (
            f"the server answers {status} {without_secrets(getattr(error, 'message', ''))}".strip()
        )
        if status in (401, 403, 407):
            return said, credentials
        return said, "try again later" if status in _AGAIN else "check the address"
    if isinstance(error, FileNotFoundError):
        return "there is nothing at this address", "check its spelling, and that you may read it"
    if isinstance(error, PermissionError) or _keyless(error):
        return f"it may not be read ({type(error).__name__})", credentials
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return "no answer in time", "check the network, or try again later"
    if (kind := type(error).__name__) in _PLAINLY:
        return _PLAINLY[kind], "check the address and the network, or try again later"
    said = f"it cannot be read ({kind}: {without_secrets(str(error))})"
    return said, "check the address and the network, or try again later"
