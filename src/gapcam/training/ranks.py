"""Which of several processes that train together this is, by the environment.

Lightning starts the same command again for every further process of a machine, as `torchrun` and
Slurm do for all of them; their environment variables say which is which.
"""

from __future__ import annotations

import os

_OF_ALL = ("RANK", "SLURM_PROCID")
"""A process's number among all; one of these decides alone."""


def is_first() -> bool:
    """Whether this process writes the run folder: the only one, or the first of several."""
    for name in _OF_ALL:
        if name in os.environ:
            return os.environ[name] == "0" and not is_added()
    return not is_added() and os.environ.get("NODE_RANK", "0") == "0"


def is_added() -> bool:
    """Whether Lightning or a launcher started this process beside another of its machine."""
    return os.environ.get("LOCAL_RANK", "0") != "0"
