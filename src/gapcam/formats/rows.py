"""Rows of CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable


def csv_line(row: Iterable[object]) -> str:
    """Quote as RFC 4180, but end with a plain newline."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(row)  # quotes carriage returns only then
    return text.getvalue()[:-2] + "\n"
