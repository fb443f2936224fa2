"""Where pictures come from: files, folders, lists, tables, archives, URLs, as one stream.

Its names are imported when they are first used: `gapcam.paths` takes the local part only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gapcam.inputs.items import Item
    from gapcam.inputs.opening import Inputs, open_inputs
    from gapcam.inputs.reader import Reader

__all__ = ["Inputs", "Item", "Reader", "open_inputs"]

_HOME = {"Item": "items", "Reader": "reader", "Inputs": "opening", "open_inputs": "opening"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
