"""Any classifier to an engine and a card: made by a library, given as a module, or as ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gapcam.engines.onnx import OnnxEngine
from gapcam.models import embedded
from gapcam.models.heads.sizes import Sizes, larger_size
from gapcam.on_torch import Head, Tracer, own_device, torch_engine
from gapcam.recipes import DEFAULT, default_for
from gapcam.types import (
    ArgumentError,
    ByteArray,
    FloatArray,
    GapcamError,
    IntArray,
    ModelCard,
    ModelError,
    Preprocessing,
    Recipe,
    SizeHW,
)

if TYPE_CHECKING:
    from torch import nn

    from gapcam.engines import Engine
    from gapcam.models.file.network import Network
    from gapcam.models.sources import SourceModel

ENGINES = ("auto", "onnx", "torch")
METHODS = ("cam", "gradcam", "layercam")


Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What a user says of a classifier that is not a gapcam model file.

    Attributes:
        labels: Its class names, a text or JSON file of them, or `"imagenet"`; found where None.
        preprocessing: What it expects of pictures, or the name of a usual one; found where None.
        checkpoint: A local file with its weights, for a network made by name.
        size_hw: The input size, pixels, where it is not the one that it was trained on.
        layer: Where to take the features instead of where the head begins.
        engine: `auto` (ONNX Runtime wherever PyTorch can export), `onnx` or `torch`.
        method: `cam`; or, on the torch engine and for comparison, `gradcam` or `layercam`.
        device: Where the torch engine runs: `cpu`, `cuda`, ...; the network's own where None.
    """

    labels: Sequence[str] | Path | str | None = None
    preprocessing: Preprocessing | str | None = None
    checkpoint: Path | str | None = None
    size_hw: SizeHW | None = None
    layer: str | None = None
    engine: Literal["auto", "onnx", "torch"] = "auto"
    method: Literal["cam", "gradcam", "layercam"] = "cam"
    device: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ArgumentError: An unknown engine or method, or two choices that exclude each other.
        """
        for name, value, known in (
            ("engine", self.engine, ENGINES),
            ("method", self.method, METHODS),
        ):
            if value not in known:
                raise ArgumentError(f"{name}: expected {' or '.join(known)}, got {value!r}")
        if self.method != "cam" and self.engine == "onnx":
            raise ArgumentError(f"method {self.method!r} needs gradients: use the torch engine")


@dataclass(frozen=True, slots=True)
class _Named:
    """A classifier's name, and what its classes are called."""

    name: str
    labels: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...]
    sources: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Made:
    """A model file that was made and not yet kept.

    Attributes:
        data: Its bytes.
        card: What it says of itself.
        against: What its outputs can be compared with, in words.
        larger_hw: A larger input size of another shape, for networks that take any.
        reference: Runs what it was made from, `uint8` RGB `[B, H, W, 3]` and class ids `[B, n]` to
            logits and maps; no maps where that gives none.
    """

    data: bytes
    card: ModelCard
    against: str
    larger_hw: SizeHW
    reference: Callable[[ByteArray, IntArray], tuple[FloatArray, FloatArray | None]]


def open_foreign(
    model: str | Path | nn.Module, options: SourceOptions, threads: int, tell: Tell | None
) -> tuple[Engine, ModelCard]:
    """The engine of a classifier that is not a gapcam model file, and what it says of itself.

    With `engine="auto"`, a network that cannot be written as ONNX, and one that lies on a GPU, runs
    on PyTorch, and `tell` hears why.

    Raises:
        ArgumentError: An option is missing or does not fit.
        ModelError: The model cannot be loaded, or has no head that gives maps.
    """
    if isinstance(model, str | Path) and is_onnx(model):
        made = make_from_onnx(Path(model), options)
        return OnnxEngine(made.data, threads, made.card.name), made.card
    source = open_named(model, options, tell)
    tracer = Tracer(source)
    reason = why_torch(source, options)
    if reason is None:
        try:
            made = _make_from_source(source, options, tracer)
            return OnnxEngine(made.data, threads, made.card.name), made.card
        except ModelError as error:
            if options.engine == "onnx":
                raise
            reason = str(error)
    engine, head, sizes = torch_engine(source, options, tracer)
    if tell is not None:
        tell(f"{source.name} runs on PyTorch: {reason}")
    return engine, _card(source, head, sizes)


def make(model: str | Path | nn.Module | None, options: SourceOptions, tell: Tell | None) -> Made:
    """The model file of any classifier, not yet kept.

    Raises:
        ArgumentError: As `open_foreign`.
        ModelError: As `open_foreign`.
    """
    if isinstance(model, str | Path) and is_onnx(model):
        return make_from_onnx(Path(model), options)
    source = open_named(embedded.NAME if model is None else model, options, tell)
    return _make_from_source(source, options, Tracer(source))


def is_onnx(model: str | Path) -> bool:
    """Whether a model is named by the path of an ONNX file."""
    return Path(model).suffix == ".onnx"


def open_named(
    model: str | Path | nn.Module, options: SourceOptions, tell: Tell | None
) -> SourceModel:
    """The PyTorch classifier that is meant, with its labels and preprocessing."""
    from gapcam.models.sources import open_source

    if isinstance(model, str) and model == embedded.NAME:
        return _open_embedded(options, tell)
    found = open_source(
        str(model) if isinstance(model, Path) else model,
        checkpoint=options.checkpoint,
        labels=options.labels,
        preprocessing=options.preprocessing,
        size_hw=options.size_hw,
        tell=tell,
    )
    if tell is not None:
        for note in found.notes:
            tell(f"{found.name}: {note}")
    return found


def _open_embedded(options: SourceOptions, tell: Tell | None) -> SourceModel:
    """Our own network: as it is, or, where the user wants something else of it, as any other."""
    from gapcam.models.sources import SourceModel, open_source

    card, module = embedded.model_card(DEFAULT), embedded.load_network()
    if options == SourceOptions(engine=options.engine, device=options.device):
        return SourceModel(
            name=card.name,
            module=module,
            labels=card.labels,
            aliases=card.aliases,
            preprocessing=embedded.PREPROCESSING,
            sources=card.sources,
            notes=(),
            embedded=True,
        )
    if options.checkpoint is not None:
        raise ArgumentError(
            f"{card.name}: its weights come with gapcam: leave checkpoint out, or name another "
            "network"
        )
    found = open_source(
        module,
        labels="imagenet" if options.labels is None else options.labels,
        preprocessing=options.preprocessing or embedded.PREPROCESSING,
        size_hw=options.size_hw,
        tell=tell,
    )
    return replace(found, name=card.name, sources=card.sources)


def why_torch(source: SourceModel, options: SourceOptions) -> str | None:
    """Why the torch engine is the one to take; None where ONNX Runtime is."""
    if options.method != "cam":
        return f"{options.method} needs gradients"
    if options.engine == "torch":
        return "as asked"
    if options.engine == "onnx":
        return None
    device = options.device or own_device(source)
    return None if device == "cpu" else f"it runs on {device}"


def _make_from_source(source: SourceModel, options: SourceOptions, tracer: Tracer) -> Made:
    """The model file of a PyTorch classifier.

    Raises:
        ModelError: It cannot be written as ONNX, or has no head that gives maps.
    """
    from gapcam.models.file.build import network_of_module
    from gapcam.models.label_lists import check_count

    if options.device not in (None, "cpu"):
        raise ArgumentError(f"device {options.device!r}: only the torch engine runs there")
    program, trace = tracer()
    check_count(source.labels, trace.shapes[trace.logits][-1], source.name)  # before the long work
    with _as_model_errors(source.name):
        network = network_of_module(
            source.module,
            source.preprocessing,
            source.name,
            layer=options.layer,
            program=program,
        )
    engines: list[Engine] = []  # made when first asked for, and kept

    def reference(pixels: ByteArray, classes: IntArray) -> tuple[FloatArray, FloatArray | None]:
        if not engines:
            engines.append(torch_engine(source, options, tracer)[0])
        out = engines[0].run_maps(pixels, classes)
        return out.logits, out.maps

    card = _card(source, _head_of(network), _sizes_of(network), network.fixed_batch)
    return _made(network, card, "PyTorch", reference)


@contextmanager
def _as_model_errors(name: str) -> Iterator[None]:
    """What graph tools raise becomes a ModelError, so that the torch engine can be tried."""
    try:
        yield
    except GapcamError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        raise ModelError(
            f"{name}: cannot be put together as one ONNX file ({type(error).__name__}: {reason}). "
            "Run it on the torch engine (engine='torch')."
        ) from error


def make_from_onnx(path: Path, options: SourceOptions) -> Made:
    """The model file of another tool's ONNX classifier.

    Raises:
        ArgumentError: Labels or preprocessing are missing, or an option does not fit a file.
        ModelError: It is no classifier of pictures, or has no head that gives maps.
    """
    from gapcam.models.label_lists import given_labels
    from gapcam.models.onnx_graphs.foreign import OriginalEngine, open_onnx

    for name in ("checkpoint", "device"):
        if getattr(options, name) is not None:
            raise ArgumentError(f"{path}: an ONNX file takes no {name}: leave it out")
    if options.engine == "torch" or options.method != "cam":
        raise ArgumentError(
            f"{path}: an ONNX file runs on ONNX Runtime only, without gradients. Give the PyTorch "
            "module that it was made from"
        )
    with _as_model_errors(str(path)):
        network = open_onnx(path, options.preprocessing, options.size_hw, options.layer)
    if options.labels is None:
        raise ArgumentError(
            f"{path}: an ONNX file does not name its {len(network.bias)} classes: give labels, a "
            "list or a file with one name a line, or 'imagenet'"
        )
    named = given_labels(options.labels, len(network.bias))
    sources = {"network": path.name, "weights": path.name, "labels": named.source}
    of = _Named(path.stem, named.names, named.aliases, sources)
    card = _card(of, _head_of(network), _sizes_of(network), network.fixed_batch)
    original = OriginalEngine(network)
    return _made(network, card, "the file itself", lambda x, _: (original.logits(x), None))


def _card(
    of: SourceModel | _Named, head: Head, sizes: Sizes, fixed_batch: int | None = None
) -> ModelCard:
    if not isinstance(of, _Named) and of.embedded:
        return embedded.model_card(DEFAULT)
    stride = head.size_hw[0] / head.layout.grid_hw[0]
    return ModelCard(
        name=of.name,
        labels=of.labels,
        aliases=of.aliases,
        head=head.kind,
        map_stride=stride,
        size_multiple=sizes.multiple,
        recipe=default_for(head.size_hw, stride, head.fine),
        sources=dict(of.sources),
        version=metadata.version("gapcam"),
        features_at=head.words,
        fixed_hw=sizes.fixed_hw,
        fixed_batch=fixed_batch,
        fine_features=head.fine,
    )


def card_of_network(
    network: Network,
    *,
    name: str,
    labels: tuple[str, ...],
    aliases: tuple[tuple[str, ...], ...],
    sources: Mapping[str, str],
    recipe: Recipe | None = None,
    **fields: Any,
) -> ModelCard:
    """What a network that has been trained here says of itself.

    Args:
        network: The network.
        name: The model's name.
        labels: One a class.
        aliases: Other names of each class.
        sources: Where network, weights and labels come from.
        recipe: Its default recipe; None: the one for its size and stride.
        **fields: Other fields of `ModelCard`.
    """
    of = _Named(name, labels, aliases, sources)
    card = _card(of, _head_of(network), _sizes_of(network), network.fixed_batch)
    return replace(card, recipe=recipe or card.recipe, **fields)


def _sizes_of(network: Network) -> Sizes:
    return Sizes(network.fixed_hw, network.size_multiple)


def _head_of(network: Network) -> Head:
    size_hw, fine = network.preprocessing.size_hw, network.fine is not None
    return Head(network.kind, network.words, size_hw, network.layout, fine)


def _made(
    network: Network,
    card: ModelCard,
    against: str,
    reference: Callable[[ByteArray, IntArray], tuple[FloatArray, FloatArray | None]],
) -> Made:
    from gapcam.models.file.build import model_bytes

    larger = larger_size(network.preprocessing.size_hw, network.layout)
    return Made(model_bytes(network, card), card, against, larger, reference)
