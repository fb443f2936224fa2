"""The members of a tar archive that are pictures, from its headers, front to back."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

from gapcam.inputs.folders import is_picture
from gapcam.inputs.urls import safe_part
from gapcam.types import PICTURE_SUFFIXES, GapcamError

ARCHIVE_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
BROKEN: Final = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeError)
"""What reading a broken archive raises."""

_LONGEST_SAMPLE: Final = 16
_LONGEST_NAME: Final = 1 << 20
_NAMES: Final = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_FIRST: Final = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True, slots=True)
class Entry:
    """A member that may be a picture.

    Attributes:
        member: Its name, without anything that leads out of the archive.
        header: Its header.
        data: Its bytes, where they can only be had in passing.
    """

    member: str
    header: tarfile.TarInfo
    data: bytes | None

    @property
    def sample(self) -> str:
        """What the members of one WebDataset sample share: folder and name up to the first dot."""
        folder, _, name = self.member.rpartition("/")
        return f"{folder}/{name.partition('.')[0]}"

    @property
    def extension(self) -> str:
        """The rest, lower case."""
        return self.member.rpartition("/")[2].partition(".")[2].lower()


class Headers:
    """The headers of one pass over an archive, and how the pass ended.

    Attributes:
        members: How many members there were so far.
        ignored: How many files of them were passed over so far.
        ended: Whether the mark at the end of the archive was met.
    """

    def __init__(self) -> None:
        self.members = 0
        self.ignored = 0
        self.ended = False

    def pictures(
        self,
        file: Any,
        *,
        in_passing: bool,
        read: Callable[[tarfile.TarFile, tarfile.TarInfo], bytes | None],
    ) -> Iterator[Entry]:
        """One picture a sample: the WebDataset layout, which plain archives are a case of.

        Of the neighbours that share a folder and the name up to the first dot, the picture whose
        extension has no dot is taken, `.jpg` before `.jpeg`, `.png`, `.webp` and others; when
        there is none, all pictures are (`a.1.jpg`, `a.2.jpg`).

        Args:
            file: The archive.
            in_passing: It is read front to back, and may be compressed.
            read: Gives the bytes of a picture while it is passed.

        Raises:
            BROKEN: What is wrong with it; the pictures before are whole and were given.
            GapcamError: What `read` or `file` say, likewise.
        """
        mode: Any = "r|*" if in_passing else "r:"
        held: list[Entry] = []
        failure: Exception | None = None
        try:
            with tarfile.open(fileobj=file, mode=mode, tarinfo=self._header_class()) as tar:
                for member, header in self._candidates(tar):
                    entry = Entry(member, header, read(tar, header))
                    if held and (entry.sample != held[0].sample or len(held) == _LONGEST_SAMPLE):
                        yield from self._chosen(held)
                        held = []
                    held.append(entry)
        except (*BROKEN, GapcamError) as error:
            failure = error
        yield from self._chosen(held)
        if failure is not None:
            raise failure

    def _candidates(self, tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
        """Regular files with the name of a picture, each name once."""
        names: set[str] = set()
        while (header := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # or it keeps every header
            self.members += 1
            member = inside(header.name)
            picture = is_picture(member.rpartition("/")[2]) and not _hidden(member)
            if header.isreg() and picture and member not in names:
                names.add(member)
                yield member, header
            else:
                self.ignored += not header.isdir()

    def _chosen(self, held: list[Entry]) -> Iterable[Entry]:
        if not held:
            return []
        bare = [entry for entry in held if f".{entry.extension}" in PICTURE_SUFFIXES]
        if not bare:
            return held
        self.ignored += len(held) - 1
        return [min(bare, key=_rank)]

    def _header_class(self) -> type[tarfile.TarInfo]:
        headers = self

        class Header(tarfile.TarInfo):
            """Notes the end mark, which `TarFile` does not tell from a broken header."""

            @classmethod
            def frombuf(cls, buf: Any, encoding: str, errors: str) -> Header:
                try:
                    found = super().frombuf(buf, encoding, errors)
                except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                    headers.ended = True
                    raise
                if found.type in _NAMES and found.size > _LONGEST_NAME:
                    raise tarfile.ReadError(f"a member's name has {found.size:,} bytes")
                return found

        return Header


def inside(name: str) -> str:
    """A member's name as a path that stays in the archive, whatever it says."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/".join(safe_part(part) if part == ".." or "\0" in part else part for part in parts)


def is_compressed(file: IO[bytes]) -> bool:
    """Whether it starts like gzip, bzip2 or xz; stands at the start afterwards."""
    start = file.read(6)
    file.seek(0)
    return start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))


def _hidden(member: str) -> bool:
    return any(part.startswith(".") for part in member.split("/"))


def _rank(entry: Entry) -> int:
    return _FIRST.index(entry.extension) if entry.extension in _FIRST else len(_FIRST)
