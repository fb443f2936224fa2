"""`timm:NAME[.TAG]`: timm's classifiers with their weights, classes and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapcam.models.label_lists import IMAGENET_CLASSES, Labels, imagenet_labels, library_labels
from gapcam.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, USUAL_SIZE_HW, from_unit_range
from gapcam.models.sources.checkpoint import load_into, read_state
from gapcam.models.sources.common import (
    LABELS_ADVICE,
    SourceModel,
    Wishes,
    first_line,
    hub_address,
    hub_reachable,
    library,
    reachable,
    refuse_download,
    refuse_unknown,
)
from gapcam.types import ArgumentError, ModelError, Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

HUB, FOLDER = "hf-hub", "local-dir"
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
CHECKPOINT_ADVICE = "Download the weights elsewhere and pass the file as checkpoint"
LOADING_ERRORS = (RuntimeError, OSError, ValueError, KeyError, TypeError, AssertionError)


@dataclass(frozen=True, slots=True)
class _Named:
    """A model's name in timm's terms: `source` is empty for the models of timm itself."""

    source: str
    name: str

    def __str__(self) -> str:
        return f"{self.source}:{self.name}" if self.source else self.name


def open_timm(name: str, wishes: Wishes) -> SourceModel:
    """A timm classifier.

    Args:
        name: As timm calls it: `resnet50`, `resnet50.a1_in1k`, `hf-hub:OWNER/NAME`,
            `local-dir:FOLDER`.
        wishes: With a checkpoint, its weights are loaded and the others are not needed.

    Raises:
        ArgumentError: An unknown name, or labels are needed.
        ModelError: timm is missing, the download failed, there are no weights or no classes, or
            the checkpoint does not fit.
    """
    timm = library("timm")
    named = _named(timm, name)
    options = _size_options(timm, named, wishes)
    notes: tuple[str, ...] = ()
    if wishes.checkpoint is None:
        module = _pretrained(timm, named, options, wishes)
    else:
        module, notes = _from_checkpoint(timm, named, options, wishes.checkpoint)
    if getattr(module, "num_classes", 1) == 0:
        raise ModelError(
            f"timm's {named} gives features and no class scores; choose weights with classes "
            "(names with in1k are ImageNet's)"
        )
    labels = wishes.labels_or(lambda: timm_labels(module, str(named)), module_classes(module))
    preprocessing = wishes.preprocessing_or(lambda: timm_preprocessing(module, str(named)))
    return SourceModel(
        name=_plain_name(module, named),
        module=module.eval(),
        labels=labels.names,
        aliases=labels.aliases,
        preprocessing=preprocessing,
        sources={
            "network": f"timm {timm.__version__}, {named}",
            "weights": _weights_words(module, named, wishes),
            "labels": labels.source,
        },
        notes=(*notes, *_notes(module, named, wishes), *labels.notes),
    )


def timm_labels(module: nn.Module, name: str) -> Labels:
    """The labels that go with a timm module: its own, or those of the ImageNet that it scores.

    Raises:
        ArgumentError: Nothing says what its classes are.
    """
    config: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    classes = module_classes(module)
    names = config.get("label_names")
    if names and len(names) == classes:
        described = config.get("label_descriptions") or {}
        return library_labels([described.get(n, n) for n in names], f"{name}'s configuration")
    if classes == config.get("num_classes") and _is_timms_own(config):
        found = _imagenet(classes, name)
        if found is not None:
            return found
    raise ArgumentError(
        f"timm's {name} has {classes} classes and nothing says what they are; {LABELS_ADVICE}"
    )


def timm_preprocessing(module: nn.Module, name: str) -> Preprocessing:
    """What a timm module's configuration says of pictures.

    Raises:
        ArgumentError: It does not take three channels.
    """
    config: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    channels, *size = config.get("input_size") or (3, *USUAL_SIZE_HW)
    if channels != 3:
        raise ArgumentError(f"timm's {name} takes {channels} channels; pictures have 3")
    mean, std = config.get("mean") or IMAGENET_MEAN, config.get("std") or IMAGENET_STD
    return from_unit_range(mean, std, (size[0], size[1]), f"timm's {name}")


def module_classes(module: nn.Module) -> int | None:
    """How many classes a timm module says it has."""
    count = getattr(module, "num_classes", None)
    return count if isinstance(count, int) else None


def _is_timms_own(config: Mapping[str, Any]) -> bool:
    """Whether the weights are listed by timm, which knows them to be ImageNet's."""
    return config.get("source") not in (HUB, FOLDER)


def _imagenet(classes: int | None, name: str) -> Labels | None:
    if classes == IMAGENET_CLASSES:
        return imagenet_labels()
    data = library("timm.data")
    subset = data.infer_imagenet_subset({"num_classes": classes})
    if subset is None:
        return None
    info = data.ImageNetInfo(subset)
    labels = library_labels(info.label_descriptions(), f"timm's {subset}, by {name}'s class count")
    aliases = zip(info.label_names(), labels.aliases, strict=True)
    return Labels(
        labels.names, tuple((wnid, *o) for wnid, o in aliases), labels.source, labels.notes
    )


def _named(timm: Any, name: str) -> _Named:
    """Tell timm's own names from the hub's and folders; refuse the unknown."""
    source, colon, rest = name.partition(":")
    if colon:
        source = source.lower().replace("_", "-")
        if source not in (HUB, FOLDER) or not rest:
            raise ArgumentError(
                f"timm model {name!r}: expected a name, {HUB}:OWNER/NAME or {FOLDER}:FOLDER"
            )
        return _Named(source, rest)
    if not timm.is_model(name) or "/" in name:
        refuse_unknown("timm model", name, timm.list_models())
    _refuse_unknown_tag(timm, name)
    return _Named("", name)


def _refuse_unknown_tag(timm: Any, name: str) -> None:
    stem, dot, tag = name.partition(".")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{stem}.*")]
    if dot and tag not in tags:
        refuse_unknown(f"weights of timm's {stem}:", tag, tags)


def _size_options(timm: Any, named: _Named, wishes: Wishes) -> dict[str, Any]:
    """Nets of a fixed input size are made for the user's."""
    if wishes.size_hw is None or named.source:
        return {}
    config = timm.get_pretrained_cfg(named.name)
    fixed = config is not None and config.fixed_input_size
    return {"img_size": tuple(wishes.size_hw)} if fixed else {}


def _create(timm: Any, name: str, **options: Any) -> nn.Module:
    """The builder of timm; what it raises becomes a ModelError."""
    try:
        module: nn.Module = timm.create_model(name, **options)
    except LOADING_ERRORS as error:
        raise ModelError(
            f"timm's {name} could not be made: {type(error).__name__}: {first_line(error)}"
        ) from error
    return module


def _pretrained(timm: Any, named: _Named, options: dict[str, Any], wishes: Wishes) -> nn.Module:
    """The network with the weights that timm knows, through timm's own loader."""
    if named.source == FOLDER:
        return _create(timm, str(named), pretrained=True, **options)
    if named.source == HUB:
        return _from_hub(timm, named, options, wishes)
    config = timm.get_pretrained_cfg(named.name)
    if config is None or not config.has_weights:
        raise ModelError(
            f"timm has no weights for {named}; pass a file with weights as checkpoint, or choose "
            "a model of timm.list_pretrained()"
        )
    local = _local_file(config, named)
    if local is None:
        wishes.tell(f"Loading {named} through timm (downloads its weights once) ...")
        return _create(timm, named.name, pretrained=True, **options)
    overlay = {"file": str(local), "custom_load": config.custom_load}
    return _create(timm, named.name, pretrained=True, pretrained_cfg_overlay=overlay, **options)


def _local_file(config: Any, named: _Named) -> Path | None:
    """Without a network: the cached file; None when the library may ask the network."""
    what = f"the weights of timm's {named}"
    if not config.hf_hub_id:
        if config.url and not reachable(config.url) and not _torch_cached(config.url):
            refuse_download(what, f"{config.url} does not answer", CHECKPOINT_ADVICE)
        return None
    if hub_reachable():
        return None
    files = (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES
    cached = _hub_cached(config.hf_hub_id, files)
    if cached is None:
        refuse_download(
            f"{what} ({hub_address()}/{config.hf_hub_id})",
            f"{hub_address()} does not answer, and they are not in the cache",
            CHECKPOINT_ADVICE,
        )
    return cached


def _from_hub(timm: Any, named: _Named, options: dict[str, Any], wishes: Wishes) -> nn.Module:
    return _create(timm, _hub_name(named, wishes), pretrained=True, **options)


def _hub_name(named: _Named, wishes: Wishes) -> str:
    """The name that timm loads: the hub's, or with no network the folder of the cached files."""
    if hub_reachable():
        wishes.tell(f"Loading {named} through timm (downloads it once) ...")
        return str(named)
    cached = _hub_cached(named.name, ("config.json",))
    if cached is None:
        refuse_download(
            f"{named}",
            f"{hub_address()} does not answer, and it is not in the cache",
            f"Download its files into a folder elsewhere and use timm:{FOLDER}:FOLDER",
        )
    return f"{FOLDER}:{cached.parent}"


def _hub_cached(repository: str, files: tuple[str, ...]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = repository.partition("@")
    for file in files:
        found = try_to_load_from_cache(name, file, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def _torch_cached(url: str) -> bool:
    from torch import hub

    return (Path(hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]).is_file()


def _from_checkpoint(
    timm: Any, named: _Named, options: dict[str, Any], path: Path
) -> tuple[nn.Module, tuple[str, ...]]:
    """The network with a file's weights, and a note where timm had to convert them."""
    state = read_state(path)

    def build(classes: int | None) -> nn.Module:
        count = {} if classes is None else {"num_classes": classes}
        return _create(timm, str(named), pretrained=False, **options, **count)

    usual = module_classes(build(None)) or 0
    try:
        return load_into(build, state, usual, str(path))[0], ()
    except ModelError as differs:
        converted = None if named.source else _converted(timm, named, options, state)
        if converted is None:
            raise
        short = str(differs).partition(": ")[2].partition(". Name the network")[0]
        return converted, (f"{path.name} was converted by timm's own rules, since {short}",)


def _converted(
    timm: Any, named: _Named, options: dict[str, Any], state: Mapping[str, Tensor]
) -> nn.Module | None:
    """The network with weights of other names or another input size, where timm knows how."""
    overlay = {"state_dict": dict(state)}
    try:
        return _create(
            timm, named.name, pretrained=True, pretrained_cfg_overlay=overlay, **options
        ).eval()
    except ModelError:
        return None


def _plain_name(module: nn.Module, named: _Named) -> str:
    if named.source == FOLDER:
        return Path(named.name).name
    if named.source == HUB or "." in named.name:
        return named.name
    tag = (getattr(module, "pretrained_cfg", None) or {}).get("tag")
    return f"{named.name}.{tag}" if tag else named.name


def _weights_words(module: nn.Module, named: _Named, wishes: Wishes) -> str:
    if wishes.checkpoint is not None:
        return wishes.checkpoint.name
    config: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    return str(config.get("hf_hub_id") or config.get("url") or named)


def _notes(module: nn.Module, named: _Named, wishes: Wishes) -> tuple[str, ...]:
    config: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    tag = config.get("tag")
    if wishes.checkpoint is not None:
        return (f"what the network expects of a picture is taken from timm's {named}",)
    if tag and not named.source and "." not in named.name:
        return (f"timm's default weights: {named}.{tag}",)
    return ()
