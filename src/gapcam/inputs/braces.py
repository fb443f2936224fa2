"""`shards-{000..099}.tar`: one argument for many files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Final

from gapcam.types import ArgumentError

_RANGE: Final = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}|\{([^{},]*(?:,[^{},]*)+)\}")
_MOST: Final = 1_000_000


def has_braces(text: str) -> bool:
    """Whether a range or a choice is in it."""
    return _RANGE.search(text) is not None


def expanded(text: str) -> Iterator[str]:
    """Every text that `{0..9}` (digits as wide as the wider end has zeros) and `{a,b}` stand for.

    The last one runs fastest; a range may run down.

    Raises:
        ArgumentError: It stands for more than a million.
    """
    fixed: list[str] = []
    choices: list[range | list[str]] = []
    widths: list[int] = []
    end, total = 0, 1
    for match in _RANGE.finditer(text):
        fixed.append(text[end : match.start()])
        end = match.end()
        choices.append(_choices(match))
        widths.append(_width(match))
        total *= len(choices[-1])
    if total > _MOST:
        raise ArgumentError(
            f"PATH {text!r}: expected at most {_MOST:,} names, it stands for {total:,}; "
            "name a folder, a pattern or a list instead"
        )
    words = (_words(choice, width) for choice, width in zip(choices, widths, strict=True))
    for values in product(*words):
        yield "".join(part + word for part, word in zip(fixed, values, strict=True)) + text[end:]


def _words(values: range | list[str], width: int) -> Iterator[str]:
    return (f"{v:0{width}d}" if isinstance(v, int) else v for v in values)


def _choices(match: re.Match[str]) -> range | list[str]:
    if match[3] is not None:
        return match[3].split(",")
    first, last = int(match[1]), int(match[2])
    return range(first, last + 1) if first <= last else range(first, last - 1, -1)


def _width(match: re.Match[str]) -> int:
    """Digits to pad to: an end that starts with a zero says how wide."""
    ends = [end for end in (match[1], match[2]) if end is not None]
    return max(map(len, ends)) if any(len(end) > 1 and end[0] == "0" for end in ends) else 0
