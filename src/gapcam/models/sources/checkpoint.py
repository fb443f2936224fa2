"""Weights from a local file into a network, without unpickling anything but tensors."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gapcam.models.sources.common import library
from gapcam.types import ModelError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")
LARGEST_FILE = 2**35  # bytes
HOLDERS = ("state_dict", "model_state", "model_state_dict", "model", "net", "weights")
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
MOST_NAMED = 3
ZIP_START = b"PK\x03\x04"
LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")
"""The number that begins files of PyTorch before 1.6, as its pickled bytes."""

SAVE_ADVICE = (
    "Where that file was made, save the weights alone: "
    "torch.save(model.state_dict(), 'weights.pth')"
)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """How a checkpoint's tensors differ from a network's.

    Attributes:
        missing: Names that only the network has.
        unexpected: Names that only the checkpoint has.
        shapes: Names of tensors of another shape, with the network's and the file's.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        pieces = [
            _listed("missing in the file", self.missing),
            _listed("not in the network", self.unexpected),
            _listed(
                "of another shape", tuple(f"{n} {a} in the file {b}" for n, a, b in self.shapes)
            ),
        ]
        return "; ".join(filter(None, pieces))


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, by name, on the CPU.

    Args:
        path: `.safetensors`, or what `torch.save` wrote of a state dict, bare or inside a
            dictionary of a training program. Nothing in it is ever run.

    Raises:
        ModelError: The file is not there, too large, broken, or holds no state dict.
    """
    _check_file(path)
    found = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    state = _tensors_in(found, path)
    if not state:
        raise ModelError(f"{path}: holds no tensors. {SAVE_ADVICE}")
    return state


def load_into(
    build: Callable[[int | None], nn.Module],
    state: Mapping[str, Tensor],
    classes: int,
    origin: str,
) -> tuple[nn.Module, int]:
    """A network with these weights, made with as many classes as they have.

    Args:
        build: Makes the network, with its usual number of classes (None) or another one.
        state: The weights.
        classes: The usual number of classes.
        origin: The file, for messages.

    Returns:
        The network in evaluation mode, and its number of classes.

    Raises:
        ModelError: Names or shapes do not fit.
    """
    module = build(None)
    fitted = unwrapped_names(state, module)
    count = class_count(module, fitted, classes)
    if count is not None:
        module, classes = build(count), count
    load_strictly(module, fitted, origin)
    return module.eval(), classes


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load every tensor, or none: names and shapes must be the module's own.

    Raises:
        ModelError: Something is missing, left over or of another shape.
    """
    differs = compare(module, state)
    if differs:
        raise ModelError(
            f"{origin}: these weights do not fit {type(module).__name__}: {differs}. "
            "Name the network that they were trained with"
        )
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:  # a module with rules of its own
        raise ModelError(
            f"{origin}: these weights do not fit {type(module).__name__}: {error}"
        ) from error


def compare(module: nn.Module, state: Mapping[str, Tensor]) -> Mismatch:
    """Where the module's tensors and the state's differ in name or shape.

    Counters of seen batches may be missing: they change nothing in evaluation mode, and old files
    lack them.
    """
    own = module.state_dict()
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    shapes = tuple(
        (name, tuple(own[name].shape), tuple(tensor.shape))
        for name, tensor in state.items()
        if name in own and own[name].shape != tensor.shape
    )
    return Mismatch(
        missing=tuple(sorted(needed - set(state))),
        unexpected=tuple(sorted(set(state) - set(own))),
        shapes=shapes,
    )


def class_count(module: nn.Module, state: Mapping[str, Tensor], classes: int) -> int | None:
    """How many classes the state was trained for, when that is not the module's number.

    It is read from the tensors whose only difference is their first side, `classes` in the module
    and one other number in the state.
    """
    shapes = compare(module, state).shapes
    firsts = {(own[:1], given[:1], own[1:] == given[1:]) for _, own, given in shapes}
    if len(firsts) != 1:
        return None
    own_first, given_first, rest_alike = firsts.pop()
    return given_first[0] if rest_alike and own_first == (classes,) and given_first else None


def unwrapped_names(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The state with the prefixes of training wrappers taken off, where the module lacks them."""
    own = set(module.state_dict())
    best = dict(state)
    current = best
    while True:
        prefix = next((p for p in WRAPPERS if all(name.startswith(p) for name in current)), None)
        if prefix is None:
            return best
        current = {name[len(prefix) :]: tensor for name, tensor in current.items()}
        if len(own & set(current)) > len(own & set(best)):
            best = current


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size if path.is_file() else -1
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    if size < 0:
        raise ModelError(f"{path}: there is no such file; expected a checkpoint {SUFFIXES}")
    if size == 0:
        raise ModelError(f"{path}: the file is empty; download or copy it again")
    if size > LARGEST_FILE:
        raise ModelError(f"{path}: {size} bytes are more than the {LARGEST_FILE} that are read")


def _refuse_other_kinds(path: Path) -> None:
    """Let only what `torch.save` writes reach `torch.load`, which guesses at everything else."""
    start = _start(path)
    if start.startswith(ZIP_START):
        try:
            with _reading(path), zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, ValueError) as error:
            raise _broken(path, error) from error
        if any(name.endswith("/constants.pkl") for name in names):
            raise ModelError(f"{path}: a TorchScript archive, which holds code. {SAVE_ADVICE}")
    elif LEGACY_MAGIC not in start:
        raise ModelError(
            f"{path}: not a file that torch.save or safetensors wrote. {SAVE_ADVICE}, or download "
            "it again"
        )


def _start(path: Path) -> bytes:
    with _reading(path), path.open("rb") as file:
        return file.read(32)


def _is_safetensors(path: Path) -> bool:
    """By its name, or by its start: the length of a JSON header, then the header."""
    start = _start(path)
    header = len(start) > 8 and start[8:9] == b"{"
    return path.suffix == ".safetensors" or header


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    safetensors = library("safetensors")
    load_file = library("safetensors.torch").load_file
    try:
        with _reading(path):
            return dict(load_file(path))
    except safetensors.SafetensorError as error:
        raise ModelError(
            f"{path}: not a whole safetensors file ({error}); download or copy it again"
        ) from error


def _read_torch(path: Path) -> object:
    _refuse_other_kinds(path)
    try:
        with _reading(path):
            return torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: holds Python objects, as a whole pickled module, or is damaged; loading "
            f"objects runs code, and gapcam loads tensors only. {SAVE_ADVICE}"
        ) from error
    except Exception as error:  # damaged bytes fail in every way the reader knows
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> ModelError:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return ModelError(
        f"{path}: not a whole PyTorch file ({reason}); download or copy it again, or give a "
        ".safetensors file"
    )


class _reading:  # noqa: N801
    """Turns what the operating system refuses into words."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | MemoryError):
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise ModelError(f"{self._path}: cannot be read ({reason})") from error


def _tensors_in(found: object, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file holds."""
    holder = next((key for key in HOLDERS if _holds(found, key)), None)
    inner: Any = found[holder] if holder else found  # type: ignore[index]  # a mapping that has it
    if not isinstance(inner, Mapping):
        raise ModelError(
            f"{path}: expected a state dict (tensors by name), found {type(inner).__name__}. "
            f"{SAVE_ADVICE}"
        )
    other = [key for key, value in inner.items() if not _is_entry(key, value)]
    if other:
        some = ", ".join(map(repr, other[:MOST_NAMED]))
        raise ModelError(
            f"{path}: expected a state dict (tensors by name), found {len(other)} entries that "
            f"are none: {some}. {SAVE_ADVICE}"
        )
    return dict(inner)


def _holds(found: object, key: str) -> bool:
    return isinstance(found, Mapping) and isinstance(found.get(key), Mapping)


def _is_entry(key: object, value: object) -> bool:
    dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
    return isinstance(key, str) and dense


def _listed(words: str, names: tuple[str, ...]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{words}: {', '.join(names[:MOST_NAMED])}{more}"
