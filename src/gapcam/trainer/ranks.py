"""What the further processes of a run wait for."""

from __future__ import annotations

import time
from pathlib import Path

from gapcam.types import OutputError

WAIT_SECONDS = 24 * 3600.0
POLL_SECONDS = 0.5


def wait_for(path: Path, seconds: float = WAIT_SECONDS) -> None:
    """Wait for a file that the first process writes; it reads every picture before.

    Raises:
        OutputError: It did not come, or is not seen from this machine.
    """
    ends = time.monotonic() + seconds
    while not path.is_file():
        if time.monotonic() > ends:
            raise OutputError(
                f"{path}: the first process has not written it in {seconds / 3600:.0f} h; every "
                "machine must see the run folder under the same path"
            )
        time.sleep(POLL_SECONDS)
