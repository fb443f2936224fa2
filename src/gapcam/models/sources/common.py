"""What the sources share: their result, the user's wishes, and words for what goes wrong."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from gapcam.models.label_lists import Labels, given_labels
from gapcam.models.preprocessing import CHOICES, at_size, preprocessing_from
from gapcam.types import ArgumentError, ModelError, Preprocessing, SizeHW

if TYPE_CHECKING:
    from torch import nn

INSTALL = "pip install 'gapcam[zoo]'"
CONNECT_SECONDS = 5.0
MOST_SUGGESTIONS = 4
LABELS_ADVICE = (
    "pass labels: a list of names, a file with one name a line, or 'imagenet' for ImageNet-1k's "
    "1000 classes"
)
PREPROCESSING_ADVICE = f"pass preprocessing: {CHOICES}"


class NoLabels(tuple[str, ...]):
    """In place of labels where nobody needs them, as the network gets a new head."""

    __slots__ = ()


NO_LABELS = NoLabels()


@dataclass(frozen=True, eq=False)
class SourceModel:
    """A PyTorch classifier with what is needed to use it.

    Attributes:
        name: What it is called.
        module: The network; as it was given, or in evaluation mode where a source made it.
        labels: One unique name a class, in the order of the logits.
        aliases: Other names of each class.
        preprocessing: What the network expects of a picture.
        sources: Where `network`, `weights` and `labels` come from.
        notes: What was chosen for the user, in words.
        embedded: Whether it is gapcam's own network, as it is.
    """

    name: str
    module: nn.Module
    labels: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...]
    preprocessing: Preprocessing
    sources: Mapping[str, str]
    notes: tuple[str, ...]
    embedded: bool = False


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user gives beside the model; None leaves it to the source.

    Attributes:
        checkpoint: A file with weights.
        labels: The names of the classes, or where they are; `NO_LABELS` where nobody needs them.
        preprocessing: What the network expects of a picture.
        size_hw: The input size, pixels.
        tell: Called with a word of progress.
    """

    checkpoint: Path | None
    labels: Sequence[str] | Path | str | None
    preprocessing: Preprocessing | str | None
    size_hw: SizeHW | None
    tell: Callable[[str], None]

    def labels_or(self, find: Callable[[], Labels], classes: int | None) -> Labels:
        """The user's labels, or what the source finds.

        Raises:
            ArgumentError: The user's labels are no labels, or not one a class.
        """
        if self.labels is None:
            return find()
        if isinstance(self.labels, NoLabels):
            return Labels((), (), "none")
        return given_labels(self.labels, classes)

    def preprocessing_or(self, find: Callable[[], Preprocessing]) -> Preprocessing:
        """The user's preprocessing, or what the source finds, at the user's size if there is one.

        Raises:
            ArgumentError: The user's preprocessing or size cannot be meant.
        """
        if self.preprocessing is None:
            return at_size(find(), self.size_hw)
        return preprocessing_from(self.preprocessing, self.size_hw)


def library(name: str) -> ModuleType:
    """Import a library that a source needs.

    Raises:
        ModelError: It is not installed, or is and cannot be imported.
    """
    if importlib.util.find_spec(name) is None:
        raise ModelError(f"{name} is not installed. Run: {INSTALL}")
    try:
        return importlib.import_module(name)
    except Exception as error:  # a library built for another torch fails in many ways
        raise ModelError(
            f"{name} is installed and cannot be imported ({first_line(error)}). Often it, or the "
            f"torchvision that it uses, was built for another torch: install versions that belong "
            f"together, {INSTALL}"
        ) from error


def reachable(url: str) -> bool:
    """Whether the host of a web address answers, asked for at most a few seconds.

    Libraries retry for most of a minute before they say that there is no network. With a proxy
    set, only the library can know: True.
    """
    parts = urllib.parse.urlsplit(url)
    if urllib.request.getproxies() or not parts.hostname:
        return True
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def hub_reachable() -> bool:
    """Whether the Hugging Face hub may be asked: not switched off, and it answers."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and reachable(constants.ENDPOINT)


def hub_address() -> str:
    """The web address of the Hugging Face hub, without its scheme."""
    from huggingface_hub import constants

    return constants.ENDPOINT.split("://")[-1]


def refuse_download(what: str, reason: str, advice: str) -> NoReturn:
    """Raise the error for weights that could not be had.

    Raises:
        ModelError: Always.
    """
    raise ModelError(f"{what} could not be downloaded: {reason}. {advice}")


def refuse_unknown(kind: str, name: str, known: Iterable[str]) -> NoReturn:
    """Raise the error for a name that is not there, with close ones.

    Raises:
        ArgumentError: Always.
    """
    by_spelling = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), by_spelling, n=MOST_SUGGESTIONS, cutoff=0.5)
    options = " or ".join(repr(by_spelling[one]) for one in near)
    advice = f"did you mean {options}?" if near else "no name comes close to it"
    raise ArgumentError(f"{kind} {name!r} is unknown; {advice}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind when it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")
