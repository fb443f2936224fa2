"""Lightning without its chatter, and without what it leaves changed behind it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning

_LOGGERS = ("lightning.pytorch", "lightning.fabric")
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def quiet() -> Iterator[None]:
    """No messages and advice of Lightning's; other warnings pass."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def as_found() -> Iterator[None]:
    """Put back torch's threads, chance and gradients, and the answer to Ctrl-C."""
    threads, grads = torch.get_num_threads(), torch.is_grad_enabled()
    on_interrupt = signal.getsignal(signal.SIGINT)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(grads)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_interrupt)


@contextmanager
def repeatable(on_gpu: bool) -> Iterator[None]:
    """Algorithms that give the same numbers each time, where torch has them; a GPU needs telling.

    On a CPU torch's are repeatable for one number of threads.
    """
    if not on_gpu:
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    strict = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    workspace = os.environ.get(_CUBLAS)
    os.environ.setdefault(_CUBLAS, ":4096:8")
    cudnn.deterministic, cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
        if workspace is None:
            os.environ.pop(_CUBLAS, None)
