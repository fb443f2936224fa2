"""Tar archives as inputs: those that can be sought in, and those that are read in passing."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from typing import Any, Final

from gapcam.images import DEFAULT_LIMITS
from gapcam.inputs.archives import BROKEN, Entry, Headers, is_compressed
from gapcam.inputs.items import Held, Item, Member, Packed, Part
from gapcam.inputs.network import PATIENT, Patience, Stream
from gapcam.inputs.urls import shown, without_secrets
from gapcam.types import Failure, PictureError

_KIND: Final = "a tar archive"
LIMIT: Final = DEFAULT_LIMITS.max_bytes


def local_shard(archive: str) -> Part:
    """An archive on disk: looked up by its headers when they can be, else read in passing."""
    try:
        with open(archive, "rb") as file:
            if not is_compressed(file):
                return IndexedShard(archive)
    except OSError:
        pass  # which comes up again, where failures are collected
    return PassingShard(archive, lambda: open(archive, "rb"))


def remote_shard(url: str, patience: Patience = PATIENT) -> Part:
    """An archive at a URL, read in passing."""
    return PassingShard(shown(url), lambda: Stream(url, _KIND, patience))


class IndexedShard:
    """An archive on disk that is not compressed: its headers are read once, its pictures by place.

    Args:
        archive: Its path.
    """

    def __init__(self, archive: str) -> None:
        self._archive = archive
        self._found = Packed()
        self._failures: list[Failure] = []
        headers = Headers()
        reason = None
        try:
            with open(archive, "rb") as file:
                size = os.fstat(file.fileno()).st_size

                def check(_: tarfile.TarFile, header: tarfile.TarInfo) -> None:
                    if not header.issparse() and header.offset_data + header.size > size:
                        raise tarfile.ReadError("unexpected end of data")

                for entry in headers.pictures(file, in_passing=False, read=check):
                    self._add(entry)
        except BROKEN as error:
            reason = _said(error)
        self.ignored = headers.ignored
        self._failures += _archive_failures(archive, headers, reason, len(self._found))

    def _add(self, entry: Entry) -> None:
        header = entry.header
        if header.issparse():
            self._failures.append(_sparse(f"{self._archive}/{entry.member}"))
        else:
            self._found.append(f"{header.offset_data} {header.size} {entry.member}")

    def count(self) -> int:
        """How many pictures."""
        return len(self._found)

    def __iter__(self) -> Iterator[Item | Failure]:
        for line in self._found:
            offset, size, member = line.split(" ", 2)
            source = Member(self._archive, int(offset), int(size))
            yield Item(f"{self._archive}/{member}", source)
        yield from self._failures


class PassingShard:
    """An archive that is read front to back, each time it is iterated; items hold their bytes.

    Args:
        name: What it is called.
        connect: Opens it; the result has `read` and `close`.
    """

    def __init__(self, name: str, connect: Callable[[], Any]) -> None:
        self._name = name
        self._connect = connect
        self.ignored = 0

    def count(self) -> None:
        """Only reading would tell."""
        return

    def __iter__(self) -> Iterator[Item | Failure]:
        headers = Headers()
        taken = 0
        reason = None
        file = None
        try:
            file = self._connect()
            for entry in headers.pictures(file, in_passing=True, read=_read):
                taken += 1
                yield self._item(entry)
        except FileNotFoundError:
            reason = "there is no such file"
        except PictureError as error:
            if not headers.members:
                yield Failure(self._name, error)
                return
            reason = str(error).removeprefix(f"{self._name}: expected {_KIND}, ").partition("; ")[0]
        except BROKEN as error:
            reason = _said(error)
        finally:
            if file is not None:
                file.close()
        self.ignored = headers.ignored
        yield from _archive_failures(self._name, headers, reason, taken)

    def _item(self, entry: Entry) -> Item | Failure:
        name = f"{self._name}/{entry.member}"
        if entry.header.issparse():
            return _sparse(name)
        if entry.data is None:
            return Failure(name, too_large(name, entry.header.size))
        return Item(name, Held(entry.data))


def too_large(name: str, size: int) -> PictureError:
    """Why a picture of this many bytes is not read."""
    return PictureError(
        f"{name}: expected at most {LIMIT:,} bytes, it has {size:,}; save it smaller"
    )


def _read(tar: tarfile.TarFile, header: tarfile.TarInfo) -> bytes | None:
    if header.size > LIMIT or header.issparse():
        return None
    file = tar.extractfile(header)
    data = b"" if file is None else file.read()
    if len(data) < header.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _sparse(name: str) -> Failure:
    return Failure(
        name,
        PictureError(
            f"{name}: expected a member stored as it is, this is a sparse one; "
            "pack the archive again without --sparse"
        ),
    )


def _said(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "there is no permission to read it"
    return without_secrets(str(error)) or type(error).__name__


def _archive_failures(name: str, headers: Headers, reason: str | None, taken: int) -> list[Failure]:
    """What is wrong with an archive as a whole, if anything."""
    if headers.ended and reason is None:
        if taken:
            return []
        text = (
            f"{name}: expected pictures in this archive, found none "
            f"({_counted(headers.members, 'other member')}); leave it out"
        )
    elif not headers.members:
        text = f"{name}: expected a tar archive, {reason or 'it has no members and no end mark'}; "
        text += "check the path, and get the file again"
    else:
        text = (
            f"{name}: expected a whole tar archive, it is cut short or broken after "
            f"{_counted(headers.members, 'member')} ({reason or 'there is no end mark'}); what was "
            f"before is used ({_counted(taken, 'picture')}); get the file again"
        )
    return [Failure(name, PictureError(text))]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
