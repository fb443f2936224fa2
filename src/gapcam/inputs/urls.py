"""URLs as text: what they are called, where their parts are. Nothing is fetched here."""

from __future__ import annotations

import hashlib
import re
from typing import Final
from urllib.parse import urlsplit

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_IN_TEXT: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>()]+")
_LOCAL: Final = ("file", "local")
_SIGNED: Final = re.compile(
    r"x-(amz|goog|oss|ms|cos)-.*|(awsaccesskey|googleaccess|ossaccesskey)id|signature|expires"
    r"|policy|key-pair-id",
    re.IGNORECASE,
)
_SHARED_ACCESS: Final = frozenset(
    (
        *("sv", "ss", "srt", "sp", "se", "st", "spr", "sig", "sr", "sip", "sdd", "scid"),
        *("skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid"),
    )
)
_SECRET: Final = re.compile(
    r".*(token|secret|passw(or)?d|api[-_]?key|credential|authorization).*|auth|key|jwt|sig|hmac",
    re.IGNORECASE,
)


def is_url(text: str) -> bool:
    """Whether it starts with `scheme://`."""
    return _URL.match(text) is not None


def scheme_of(url: str) -> str:
    """Its scheme, lower case."""
    return url.partition("://")[0].lower()


def is_http(url: str) -> bool:
    """Whether a query may follow its path, and folders cannot be told from files."""
    return scheme_of(url) in ("http", "https")


def local_path(url: str) -> str | None:
    """The path that a `file://` URL means, as it is spelled; None for any other."""
    if scheme_of(url) not in _LOCAL:
        return None
    return url.partition("://")[2].removeprefix("localhost")


def path_of(url: str) -> str:
    """The part that says by its suffix what is there: no query, no fragment."""
    return urlsplit(url).path if is_http(url) else url.partition("://")[2]


def shown(url: str) -> str:
    """A URL as results and messages name it: nothing in it lets anybody in.

    User and password, fragments, and the parts of a signature are left out: the rest is the same
    when the URL is signed again. Other secrets in a query become eight digits of their hash, so
    that addresses that differ only there keep names that differ.
    """
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    start = f"{scheme}://{host.rpartition('@')[2]}"
    if not is_http(url):
        return f"{start}{slash}{path}"
    address, mark, query = (slash + path).partition("#")[0].partition("?")
    if not slash and "?" in host:  # https://host?query
        start, mark, query = start.partition("?")
    fields = [field for field in query.split("&") if field]
    names = {field.partition("=")[0].lower() for field in fields}
    shared_access = _SHARED_ACCESS if {"sig", "se"} <= names else frozenset()
    kept = [_field(f) for f in fields if not _signs(f.partition("=")[0], shared_access)]
    return start + address + (mark + "&".join(kept) if kept else "")


def _signs(name: str, shared_access: frozenset[str]) -> bool:
    return _SIGNED.fullmatch(name) is not None or name.lower() in shared_access


def _field(field: str) -> str:
    name, _, value = field.partition("=")
    if not value or not _SECRET.fullmatch(name):
        return field
    return f"{name}=~{hashlib.sha256(value.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def without_secrets(text: str) -> str:
    """A library's message, in one short line and without credentials."""

    def bare(match: re.Match[str]) -> str:
        return shown(match[0].partition("?")[0])

    return _IN_TEXT.sub(bare, " ".join(text.split()))[:200]


def joined(base: str, name: str) -> str:
    """What a list or table at `base` means by `name`: a URL, a path from its folder or its host."""
    if is_url(name):
        return name
    scheme, _, rest = (base.partition("?")[0] if is_http(base) else base).partition("://")
    host, _, path = rest.partition("/")
    if name.startswith("/"):
        return f"{scheme}://{host}{name}"
    parts: list[str] = []
    for part in [*path.split("/")[:-1], *name.split("/")]:
        if part == "..":
            del parts[-1:]
        elif part != ".":
            parts.append(part)
    return f"{scheme}://{host}/{'/'.join(parts)}"


def parts_of(name: str) -> tuple[str, ...]:
    """The parts of a shown URL as parts of a path: unlike each other and safe on any disk."""
    scheme, _, rest = name.partition("://")
    return (f"{scheme}:", *map(safe_part, rest.split("/")))


def safe_part(part: str) -> str:
    """A name that stays in its folder: `..` and the like are written in digits, long ones cut."""
    if part in ("", ".", ".."):
        return {"": "%2F", ".": "%2E", "..": "%2E%2E"}[part]
    data = part.replace("\0", "%00").encode("utf-8", "surrogateescape")
    if len(data) > 255:
        digest = hashlib.sha256(data).hexdigest()[:12]
        suffix = b"." + tail if len(tail := data.rpartition(b".")[2]) < 6 else b""
        data = data[:150] + b"_" + digest.encode() + suffix
    return data.decode("utf-8", "surrogateescape")
