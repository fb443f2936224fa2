"""`gapcam export`: any classifier to one model file, checked before it is kept."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gapcam.engines.onnx import OnnxEngine
from gapcam.foreign import Made, make
from gapcam.images import load_picture, resize_picture
from gapcam.int8 import export_int8, split
from gapcam.loading import RUN_FILE, file_of, open_model_file, proved, source_options
from gapcam.outputs import output_errors
from gapcam.products import span
from gapcam.samples import sample_pictures
from gapcam.types import ArgumentError, ByteArray, FloatArray, ModelCard, ModelError, SizeHW

if TYPE_CHECKING:
    from torch import nn

    from gapcam.int8 import Int8Report
    from gapcam.loading import Tell
    from gapcam.localizer import Localizer
    from gapcam.proof import Proof

CLOSE = 1e-3
"""The file and its source agree when they differ by less than this share of the logits' range."""

CHECKED_CLASSES = 5
BATCHES = (1, 3)


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the file's outputs lie from those of the network that it was made from.

    Attributes:
        batch: How many pictures at once.
        size_hw: Their size, pixels.
        logits: The largest difference, as a share of the logits' range.
        maps: Likewise of the best classes' maps; None where the source gives no maps of its own.
    """

    batch: int
    size_hw: SizeHW
    logits: float
    maps: float | None


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, and how it was checked.

    Attributes:
        path: The model file.
        proof: How closely its maps add up to its scores, on real pictures.
        against: What its outputs were compared with; empty where the model file was there already.
        parities: One a batch and size; none where the model file was there already.
        fixed_hw: The only input size that it takes; None: any.
        int8: What 8 bits cost and gain, where they were asked for; the lines above then speak of
            the float file that it was made from.
    """

    path: Path
    proof: Proof
    against: str
    parities: tuple[Parity, ...]
    fixed_hw: SizeHW | None
    int8: Int8Report | None = None

    def __str__(self) -> str:
        size = self.path.stat().st_size
        shown = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
        sides = "any input size" if self.fixed_hw is None else "{} x {} only".format(*self.fixed_hw)
        lines = [f"{self.path}: {shown}, {sides}.", str(self.proof)]
        for p in self.parities:
            maps = "" if p.maps is None else f", maps by {p.maps:.0e}"
            lines.append(
                f"Against {self.against}, batch {p.batch}, {p.size_hw[0]} x {p.size_hw[1]}: "
                f"logits differ by {p.logits:.0e} of their range{maps}."
            )
        if self.int8 is not None:
            lines.append(f"Quantized to 8 bits.\n{self.int8}")
        return "\n".join(lines)


def export(
    model: str | Path | nn.Module | None,
    out: str | Path,
    *,
    int8: Sequence[str | Path] | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> ExportReport:
    """Write a classifier as one model file, and check it before it is kept.

    On real pictures, in batches of 1 and 3 and at two input sizes where the network takes more
    than one, its logits and maps are compared with those of the network that it was made from.

    Args:
        model: As `gapcam.load` takes it. A gapcam model file or run folder is proved and copied.
        out: The file, `.onnx`; an older one is replaced when the new one is good.
        int8: Pictures to quantize to 8 bits with (`gapcam.int8.export_int8`); None keeps floats.
        tell: Called with a word of progress.
        **options: As `gapcam.load` takes them.

    Raises:
        ArgumentError: As `gapcam.load`; or `out` is no `.onnx`, or is the model itself.
        ModelError: The network cannot be exported, or the file's outputs differ.
        OutputError: The file cannot be written.
    """
    chosen = source_options("export", options)
    if chosen.method != "cam":
        raise ArgumentError(f"export: a model file holds class maps, not {chosen.method}")
    if chosen.engine == "torch":
        raise ArgumentError("export: a model file runs on ONNX Runtime: leave engine='torch' out")
    out = _target(Path(out), model)
    pictures = None if int8 is None else [Path(path) for path in int8]
    if pictures is not None:
        split(pictures)  # too few are refused before the work begins
    opened = open_model_file(model, chosen)
    with _folder_beside(out) as folder:
        part = folder / out.name
        if opened is None:
            made = make(file_of(model) or model, replace(chosen, engine="onnx"), tell)
            localizer, report = _written(part, out, made)
        else:
            localizer, report = _as_it_is(opened, part, out)
        if pictures is not None:
            small = export_int8(localizer, pictures, part, tell)
            report = replace(report, int8=small)
        del localizer  # which holds the file open
        with output_errors(out):
            part.replace(out)
    return report


def _target(out: Path, model: object) -> Path:
    if out.suffix != ".onnx" or out.is_dir():
        raise ArgumentError(f"{out}: expected the name of an .onnx file to write")
    if isinstance(model, str | Path) and out.exists():
        for source in (Path(model), Path(model) / RUN_FILE):
            if source.exists() and out.samefile(source):
                raise ArgumentError(f"{out}: is the model itself: choose another name")
    return out


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """A folder of its own to make the file in; nothing of it stays."""
    with output_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=out.parent, prefix=".gapcam-")
    with folder as name:
        yield Path(name)


def _written(part: Path, out: Path, made: Made) -> tuple[Localizer, ExportReport]:
    with output_errors(out):
        part.write_bytes(made.data)
    localizer, parities = _checked(part, made)
    card = made.card
    return localizer, ExportReport(out, localizer.check(), made.against, parities, card.fixed_hw)


def _as_it_is(
    opened: tuple[OnnxEngine, ModelCard], part: Path, out: Path
) -> tuple[Localizer, ExportReport]:
    """A gapcam model file, which was compared with its network when it was made: copied."""
    engine, card = opened
    localizer = proved(engine, card, None, str(engine.path))
    with output_errors(out):
        shutil.copyfile(engine.path, part)
    return localizer, ExportReport(out, localizer.check(), "", (), card.fixed_hw)


def _checked(path: Path, made: Made) -> tuple[Localizer, tuple[Parity, ...]]:
    engine = OnnxEngine(path)
    localizer = proved(engine, made.card, None, made.card.name)
    own_hw = made.card.recipe.input_size_hw
    sizes = [own_hw] if made.card.fixed_hw else [own_hw, made.larger_hw]
    parities = tuple(
        _parity(engine, made, _pictures(batch, size_hw)) for size_hw in sizes for batch in BATCHES
    )
    worst = max(max(p.logits, p.maps or 0.0) for p in parities)
    if not worst <= CLOSE:
        raise ModelError(
            f"{made.card.name}: the exported file's outputs differ from {made.against} by "
            f"{worst:.1e} of their range, {CLOSE:.0e} is allowed; it is not kept. Use the torch "
            "engine (engine='torch')."
        )
    return localizer, parities


def _pictures(batch: int, size_hw: SizeHW) -> ByteArray:
    paths: Sequence[Path] = sample_pictures()[:batch]
    return np.stack([resize_picture(load_picture(path).pixels, size_hw) for path in paths])


def _parity(engine: OnnxEngine, made: Made, pixels: ByteArray) -> Parity:
    ours = engine.run_maps(pixels, min(CHECKED_CLASSES, len(engine.bias)))
    logits, maps = made.reference(pixels, ours.classes)
    return Parity(
        batch=len(pixels),
        size_hw=(pixels.shape[1], pixels.shape[2]),
        logits=_difference(ours.logits, logits),
        maps=None if maps is None else _difference(ours.maps, maps),
    )


def _difference(ours: FloatArray, theirs: FloatArray) -> float:
    """The largest difference, as a share of the range."""
    return float(np.abs(ours - theirs).max()) / span(theirs)
