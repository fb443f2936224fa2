"""The photographs shipped with gapcam."""

from __future__ import annotations

from pathlib import Path


def sample_pictures() -> list[Path]:
    """The photographs, for a first try and for the proof (`README.md` names their sources)."""
    return sorted(Path(__file__).parent.glob("*.jpg"))
