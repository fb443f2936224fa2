"""Words for a run whose memory does not suffice."""

from __future__ import annotations

from gapcam.training.plan import TrainOptions
from gapcam.types import ModelError, SizeHW

_SAID = ("out of memory", "allocate memory", "alloc_failed")
"""What torch, CUDA and its libraries say, in small letters; not all have an error of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory, of a GPU or of the machine, did not suffice."""
    if isinstance(error, MemoryError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(said in words for said in _SAID)


def memory_error(options: TrainOptions, size_hw: SizeHW) -> ModelError:
    """What to do about it."""
    height, width = size_hw
    batch = options.batch_size
    return ModelError(
        f"training ran out of memory with {batch} pictures of {width}x{height} a step; begin a new "
        f"run with a smaller batch_size (--batch-size) and the more steps to accumulate "
        f"(--accumulate), or with smaller pictures, or free some memory and resume (the state of "
        f"the last finished epoch is kept)"
    )
