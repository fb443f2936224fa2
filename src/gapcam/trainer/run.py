"""One training run, from labelled pictures to the model file and the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gapcam.engines.onnx import OnnxEngine
from gapcam.loading import proved
from gapcam.localizer import Localizer
from gapcam.maps import class_scores
from gapcam.outputs import replacing
from gapcam.parallel import in_chunks
from gapcam.trainer.files import card_for, network_of, placeless, plain_card
from gapcam.trainer.report import TrainReport
from gapcam.trainer.sheets import SampleSheet
from gapcam.training.inspect import Inspection, inspect_pictures
from gapcam.training.plan import EpochRecord, Progress, TrainOptions
from gapcam.training.run_data import data_facts
from gapcam.training.split import Split, make_split
from gapcam.training.split_file import read_split, write_split
from gapcam.training.validation import validate
from gapcam.types import ByteArray, FloatArray, IntArray, ModelCard

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn

    from gapcam.models.file.network import Network
    from gapcam.trainer.nets import Backbone
    from gapcam.training.labelled import LabelledSet
    from gapcam.training.run_folder import RunFolder

SHEET_QUALITY = 85
LARGE_LOSS = 1e4


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What training gives.

    Attributes:
        network: The net to keep, as ONNX.
        best_epoch: Whose net it is; None: no epochs, a head was fitted.
        logits: Of the validation pictures `[m, C]` where training knows them, else None.
        words: How it was chosen.
    """

    network: Network
    best_epoch: int | None
    logits: FloatArray | None
    words: str


class Run:
    """The stages of a run, in order; each finds what an earlier, killed run has done.

    Args:
        folder: Where everything goes; held by this process.
        data: The labelled pictures.
        backbone: The net with its new head.
        options: What is asked.
        tell: Called with a word of progress.
        progress: Called with what is done, how much of it, and of how much.
    """

    def __init__(
        self,
        folder: RunFolder,
        data: LabelledSet,
        backbone: Backbone,
        options: TrainOptions,
        tell: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self._folder, self._data, self._backbone = folder, data, backbone
        self._options, self._tell, self._progress = options, tell, progress
        self._trained_on = 0

    def go(self) -> TrainReport:
        """Train, write everything, and say what came out."""
        split = self._split()
        self._trained_on = len(split.train)
        sheet = SampleSheet(self._data, split.validation, self._placeless)
        if self._options.method == "head-only":
            trained = self._fit_head(split)
        else:
            trained = self._finetune(split, sheet)
        localizer = self._keep(trained)
        logits = trained.logits
        if logits is None:
            logits = self._validation_logits(localizer, split.validation)
        validation = validate(
            class_scores(logits, localizer.card.scores),
            self._data.targets[split.validation],
            self._data.classes,
            [self._data.names[i] for i in split.validation],
            single=self._data.single,
        )
        self._folder.write_validation(validation)
        self._draw(self._folder.final_sample, sheet.draw(localizer))
        proof = localizer.check([self._data.paths[i] for i in sheet.indices])
        self._folder.finish(
            {
                "accuracy": validation.accuracy,
                "pictures": validation.pictures,
                "interval": validation.interval,
                "best_epoch": trained.best_epoch,
                "chosen": trained.words,
                "proof": str(proof),
                "recipe": localizer.recipe.name,
            }
        )
        self._report()
        return TrainReport.of(self._folder)

    def _report(self) -> None:
        from gapcam.training.report import write_training_report  # it needs what nobody else does

        write_training_report(self._folder.path)

    @property
    def _placeless(self) -> Sequence[int]:
        return placeless(self._data.classes, self._options.normal)

    def _split(self) -> Split:
        path = self._folder.split
        if self._folder.resumed and path.is_file():
            return read_split(path, self._data)
        seen = inspect_pictures(self._data, self._progress)
        split = make_split(self._data, seen, self._options.validation_share, self._options.seed)
        self._say_split(split, seen)
        names = self._data.names
        self._folder.write_unreadable((names[i], why) for i, why in seen.unreadable.items())
        self._folder.write_data(
            data_facts(
                names,
                self._data.classes,
                self._data.targets,
                split.train,
                split.validation,
                split=split.words,
                duplicates=split.duplicates,
                notes=self._data.notes,
            )
        )
        write_split(path, self._data, split, seen)  # last: whoever finds it finds the rest
        return split

    def _say_split(self, split: Split, seen: Inspection) -> None:
        for i, why in seen.unreadable.items():
            self._tell(f"{self._data.names[i]}: left out, it cannot be read ({why})")
        self._tell(
            f"{len(self._data.names):,} pictures of {len(self._data.classes):,} classes: "
            f"{split.words}"
        )

    # --- the two ways to train -----------------------------------------------------------------

    def _fit_head(self, split: Split) -> Trained:
        from gapcam.trainer.head_only import fit_head_only

        return fit_head_only(
            self._backbone,
            self._data,
            split,
            self._options,
            self._folder,
            card=self._card,
            tell=self._tell,
            progress=self._progress,
        )

    def _finetune(self, split: Split, sheet: SampleSheet) -> Trained:
        from gapcam.training.finetune import finetune

        plain = self._plain_card()

        def on_epoch(record: EpochRecord, net: nn.Module) -> None:
            self._folder.record(record)
            self._tell(epoch_words(record, self._options.epochs, single=self._data.single))
            image = sheet.draw_net(net, self._backbone.preprocessing, plain)
            self._draw(self._folder.sample(record.epoch), image)
            self._report()

        result = finetune(
            self._backbone.net,
            self._data,
            split,
            self._options,
            self._backbone.preprocessing,
            self._folder.path,
            resume=self._folder.resumed,
            on_epoch=on_epoch,
            progress=self._progress,
        )
        network = network_of(self._backbone, result.net, self._progress)
        words = f"epoch {result.best_epoch} has the best validation score ({result.stopped})"
        return Trained(network, result.best_epoch, None, words)

    def _plain_card(self) -> ModelCard:
        return plain_card(
            self._backbone,
            classes=self._data.classes,
            single=self._data.single,
            normal=self._options.normal,
        )

    # --- what is kept --------------------------------------------------------------------------

    def _card(self, network: Network) -> ModelCard:
        how = "its head alone" if self._options.method == "head-only" else "the whole net"
        path = Path(self._folder.config["data"])
        data = path.stem if path.suffix.lower() == ".csv" else path.name
        return card_for(
            self._backbone,
            network,
            name=f"{self._backbone.name} on {data}",
            classes=self._data.classes,
            sources={
                "weights": f"{self._backbone.sources.get('weights', 'unknown')}; {how} trained on "
                f"class labels of {self._trained_on:,} pictures of {data}",
                "labels": "the training data's class names",
            },
            single=self._data.single,
            normal=self._options.normal,
        )

    def _keep(self, trained: Trained) -> Localizer:
        """Write the model file, and open it as anybody would."""
        from gapcam.models.file.build import model_bytes

        card = self._card(trained.network)
        with replacing(self._folder.model, binary=True) as out:
            out.write(model_bytes(trained.network, card))
        engine = OnnxEngine(self._folder.model, threads=1)
        return proved(engine, card, None, str(self._folder.model))

    def _validation_logits(self, localizer: Localizer, indices: IntArray) -> FloatArray:
        """`[m, C]`, by the model file itself."""
        rows: list[FloatArray] = []

        def work(chunk: Sequence[Path]) -> Sequence[FloatArray]:
            pixels: ByteArray = np.stack([localizer.read(path).pixels for path in chunk])
            return list(localizer.engine.run(pixels).logits)

        for row in in_chunks(work, [self._data.paths[i] for i in indices]):
            rows.append(row)
            self._progress("validating the model file", len(rows), len(indices))
        return np.stack(rows)

    def _draw(self, path: Path, image: Image.Image) -> None:
        with replacing(path, binary=True) as out:
            image.save(out, format="JPEG", quality=SHEET_QUALITY)


def epoch_words(record: EpochRecord, epochs: int, *, single: bool) -> str:
    """A line for an epoch."""
    score = "accuracy" if single else "mean average precision"
    first = "" if record.train_loss is None else f"training loss {_loss(record.train_loss)}, "
    return (
        f"Epoch {record.epoch} of {epochs}: {first}validation loss "
        f"{_loss(record.validation_loss)}, {score} {record.validation_accuracy:.1%} "
        f"({record.seconds:.0f} s)"
    )


def _loss(value: float) -> str:
    return f"{value:.3f}" if value < LARGE_LOSS else f"{value:.1e}"
