"""`hf:NAME_OR_FOLDER`: image classifiers of Transformers, from the Hugging Face hub or a folder.

Only files of data are fetched (JSON, weights), and the library then loads them from the folder: no
code of a repository is ever there to run, and nothing is unpickled but tensors.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapcam.models.label_lists import Labels, library_labels, names_by_id
from gapcam.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, from_unit_range
from gapcam.models.sources.checkpoint import load_into, read_state
from gapcam.models.sources.common import (
    LABELS_ADVICE,
    PREPROCESSING_ADVICE,
    SourceModel,
    Wishes,
    first_line,
    hub_address,
    hub_reachable,
    library,
    refuse_download,
)
from gapcam.models.sources.processor import preprocessing_of_processor
from gapcam.types import ArgumentError, ModelError, Preprocessing

if TYPE_CHECKING:
    from torch import nn

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
CONFIG_FILES = ("config.json", *PROCESSOR_FILES)
SAFE_FILES = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
PICKLED_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
FOLDER_ADVICE = (
    "Download its config.json, preprocessor_config.json and model.safetensors into a folder "
    "elsewhere and use hf:FOLDER"
)
LARGEST_JSON = 2**24  # bytes
UNNAMED = "LABEL_"


def open_transformers(name: str, wishes: Wishes) -> SourceModel:
    """An image classifier of Transformers.

    Args:
        name: A folder that `save_pretrained` wrote, or a repository of the hub, `OWNER/NAME`,
            `OWNER/NAME@REVISION`.
        wishes: With a checkpoint, its weights are loaded, and the folder needs none.

    Raises:
        ArgumentError: Nothing says what classes or pictures are.
        ModelError: Transformers is missing, the download failed, the folder holds no classifier of
            its own code, or the weights do not fit.
    """
    transformers = library("transformers")
    folder = _folder(name, wishes)
    config = _config(transformers, folder, name)
    if wishes.checkpoint is None:
        module = _with_own_weights(transformers, folder, config, name)
        classes = len(config.id2label)
    else:
        module, classes = _with_checkpoint(transformers, config, wishes.checkpoint)
    labels = wishes.labels_or(lambda: config_labels(config, classes, f"hf:{name}"), classes)
    preprocessing = wishes.preprocessing_or(lambda: folder_preprocessing(folder, config, name))
    return SourceModel(
        name=Path(name).name if Path(name).is_dir() else name,
        module=module.eval(),
        labels=labels.names,
        aliases=labels.aliases,
        preprocessing=preprocessing,
        sources={
            "network": f"transformers {transformers.__version__}, {type(module).__name__}",
            "weights": wishes.checkpoint.name if wishes.checkpoint else f"hf:{name}",
            "labels": labels.source,
        },
        notes=labels.notes,
    )


def config_labels(config: Any, classes: int, origin: str) -> Labels:
    """The labels in a Transformers configuration.

    Args:
        config: With `id2label`.
        classes: How many the network has.
        origin: What it belongs to, for people.

    Raises:
        ArgumentError: They are not one a class.
    """
    table = getattr(config, "id2label", None) or {}
    if len(table) != classes:
        raise ArgumentError(
            f"{origin}: its configuration names {len(table)} classes and the network has "
            f"{classes}; {LABELS_ADVICE}"
        )
    names = names_by_id(table, f"{origin}: id2label")
    labels = library_labels(names, f"{origin}, id2label")
    if names == [f"{UNNAMED}{i}" for i in range(classes)]:
        note = f"{origin} has no names for its classes: called {UNNAMED}0, {UNNAMED}1, ...; "
        return Labels(labels.names, labels.aliases, labels.source, (note + LABELS_ADVICE,))
    return labels


def folder_preprocessing(folder: Path, config: Any, name: str) -> Preprocessing:
    """What the image processor saved in a folder does to pictures.

    Raises:
        ArgumentError: There is none, or it does what `Preprocessing` cannot say.
    """
    found = _processor(folder, name)
    if found is not None:
        return preprocessing_of_processor(found, f"hf:{name}")
    timm_config = getattr(config, "pretrained_cfg", None)  # TimmWrapper has no processor file
    if isinstance(timm_config, Mapping) and len(timm_config.get("input_size", ())) == 3:
        mean, std = timm_config.get("mean", IMAGENET_MEAN), timm_config.get("std", IMAGENET_STD)
        _, height, width = timm_config["input_size"]
        return from_unit_range(mean, std, (height, width), f"hf:{name}")
    raise ArgumentError(
        f"hf:{name} has no {PROCESSOR_FILES[0]}, so nothing says what the network expects of a "
        f"picture; {PREPROCESSING_ADVICE}"
    )


def fetched(name: str, patterns: tuple[str, ...], *, online: bool) -> Path | None:
    """The folder with a repository's files of these names, from the hub or the hub's cache.

    Args:
        name: `OWNER/NAME` or `OWNER/NAME@REVISION`.
        patterns: Names of files; others are left alone.
        online: Whether the hub may be asked.

    Returns:
        The folder; None when it is neither in the cache nor to be had.

    Raises:
        ModelError: The hub refuses.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        found = huggingface_hub.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=list(patterns),
            local_files_only=not online,
        )
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ArgumentError(
            f"hf:{name}: there is no such folder, and it is no repository's name "
            f"({first_line(error)})"
        ) from error
    except Exception as error:  # of the HTTP library and of the hub's many answers
        refuse_download(f"hf:{name}", first_line(error), FOLDER_ADVICE)
    return Path(found)


def _folder(name: str, wishes: Wishes) -> Path:
    """The local folder with the configuration and, where they are needed, the weights."""
    if not name:
        raise ArgumentError("hf: expected hf:FOLDER or hf:OWNER/NAME, got no name")
    if Path(name).is_dir():
        return Path(name)
    online = hub_reachable()
    if online:
        wishes.tell(f"Loading {name} from {hub_address()} (downloads it once) ...")
    needed = CONFIG_FILES if wishes.checkpoint else CONFIG_FILES + SAFE_FILES
    folder = fetched(name, needed, online=online)
    if folder is not None and not wishes.checkpoint and not _has_any(folder, SAFE_FILES):
        folder = fetched(name, CONFIG_FILES + PICKLED_FILES, online=online)
    if folder is None or not (folder / "config.json").is_file():
        reason = (
            "the repository has no config.json"
            if online
            else f"{hub_address()} does not answer, it is not in the cache, and no folder is "
            "called so"
        )
        refuse_download(f"hf:{name}", reason, FOLDER_ADVICE)
    return folder


def _has_any(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def _config(transformers: Any, folder: Path, name: str) -> Any:
    _read_json(folder / "config.json", name)  # whose errors are clearer than the library's
    try:
        return transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"hf:{name}: its config.json is not one that this version of Transformers knows "
            f"({first_line(error)}); code from a repository is never run"
        ) from error


def _with_own_weights(transformers: Any, folder: Path, config: Any, name: str) -> nn.Module:
    import torch

    safe = _has_any(folder, SAFE_FILES)
    if not safe and not _has_any(folder, PICKLED_FILES):
        raise ModelError(
            f"hf:{name}: expected {SAFE_FILES[0]} in {folder}; pass a file with weights as "
            "checkpoint, or save the model again with save_pretrained"
        )
    try:
        with _quiet(transformers):
            module, info = transformers.AutoModelForImageClassification.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=safe,
                weights_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # of Transformers, PyTorch, pickle and safetensors
        raise ModelError(f"hf:{name}: {_loading_words(error, safe, folder)}") from error
    _refuse_untrained(info, name)
    return module  # type: ignore[no-any-return]  # the library has no types here


def _loading_words(error: Exception, safe: bool, folder: Path) -> str:
    if "Unrecognized configuration class" in str(error):
        return (
            "Transformers has no image classifier of this kind; choose one fine-tuned for classes"
        )
    if safe:
        return f"its weights in {folder} cannot be loaded ({first_line(error)})"
    return (
        "its only weights are pickled, and cannot be loaded as tensors alone "
        f"({first_line(error)}); gapcam runs no pickled code. Where they are trusted, convert "
        "them to model.safetensors"
    )


def _refuse_untrained(info: Mapping[str, Any], name: str) -> None:
    """Transformers fills what a file lacks with random numbers and only warns."""
    missing = [key for key in info["missing_keys"] if not key.endswith("num_batches_tracked")]
    if missing:
        some = ", ".join(sorted(missing)[:3])
        raise ModelError(
            f"hf:{name}: its weights lack {len(missing)} of the classifier's tensors ({some}), so "
            "its scores would be random. Choose a model fine-tuned for classification, or pass a "
            "checkpoint that has them"
        )


def _with_checkpoint(transformers: Any, config: Any, path: Path) -> tuple[nn.Module, int]:
    def build(classes: int | None) -> nn.Module:
        wanted = copy.deepcopy(config)
        if classes is not None:
            wanted.num_labels = classes
        try:
            with _quiet(transformers):
                made = transformers.AutoModelForImageClassification.from_config(
                    wanted, trust_remote_code=False
                )
        except ValueError as error:
            raise ModelError(f"{path}: {_loading_words(error, True, path)}") from error
        return made.float()  # type: ignore[no-any-return]

    module, classes = load_into(build, read_state(path), len(config.id2label), str(path))
    if classes != len(config.id2label):
        config.id2label = {}  # the names of other classes
    return module, classes


def _processor(folder: Path, name: str) -> dict[str, Any] | None:
    for file in PROCESSOR_FILES:
        if (folder / file).is_file():
            found = _read_json(folder / file, name)
            inner = found.get("image_processor", found)
            if isinstance(inner, dict) and ("size" in inner or "image_mean" in inner):
                return inner
    return None


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ModelError(f"hf:{name}: {path} is larger than {LARGEST_JSON} bytes")
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"hf:{name}: {path} cannot be read ({reason}); expected a folder that save_pretrained "
            "wrote"
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"hf:{name}: {path}: expected a JSON object, got {type(found).__name__}")
    return found


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without progress bars and warnings: what they tell is told by errors here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
