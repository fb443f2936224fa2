"""Bounds of a server that cannot be meant are refused in words."""

from __future__ import annotations

import pytest

from gapcam.serve import ServeOptions
from gapcam.types import ArgumentError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_bytes": 0}, "max_bytes: expected a whole number of 1 or more, got 0"),
        ({"queue": 1.5}, "queue: expected a whole number of 1 or more, got 1.5"),
        ({"workers": -1}, "workers: expected a whole number of 0 or more, got -1"),
        ({"deadline_s": float("nan")}, "deadline_s: expected a number of 0 or more, got nan"),
        ({"max_request_bytes": 9}, "max_request_bytes: expected at least max_bytes"),
        ({"max_held_bytes": 9}, "max_held_bytes: expected at least max_request_bytes"),
        ({"token": ""}, "token: expected some characters and no space"),
        ({"token": "a b"}, "token: expected some characters and no space"),
        ({"token": "schlüssel"}, "token: expected printable ASCII characters"),
        ({"origins": ("a.example",)}, "origin 'a.example': expected scheme and host"),
        (
            {"origins": ("https://a.example/",)},
            "expected scheme and host of a web page",
        ),
    ],
)
def test_options_that_cannot_be_meant(options, words):
    with pytest.raises(ArgumentError) as found:
        ServeOptions(**options)
    assert words in str(found.value)
