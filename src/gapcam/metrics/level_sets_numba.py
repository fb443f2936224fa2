"""How the kernel is compiled: once on a machine, where there is a place to keep it."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def part(function: Function) -> Function:
    """Compile as a part of the kernel that calls it."""
    compiled: Function = numba.njit(**OPTIONS)(function)
    return compiled


def kernel(function: Function) -> Function:
    """Compile on the first call and keep the result on disk.

    Whether what was kept is still true, numba sees by the age of the function's own file and by
    the variables that it closes over: let `fingerprint` of all other files be one of these.
    """
    try:
        compiled: Function = numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return part(function)
    return compiled


def fingerprint(*modules: ModuleType) -> int:
    """A number that changes whenever the source of one of the modules does."""
    sources = "".join(map(inspect.getsource, modules)).encode()
    return int.from_bytes(hashlib.sha256(sources).digest()[:7], "big")
