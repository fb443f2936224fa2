"""Pictures in: what each step of an epoch reads, and the batches that come of it.

What a picture looks like depends on the seed, the epoch and the picture alone: not on the processes
that read or train, not on what ran before. So a run that is resumed sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from gapcam.images import load_picture, resize_picture
from gapcam.parallel import in_chunks
from gapcam.training.augment import augment_picture, cut_mix, mean_colour
from gapcam.types import BoolArray, ByteArray, GapcamError, IntArray, Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

    from gapcam.training.labelled import LabelledSet
    from gapcam.training.plan import TrainOptions

DECODE_MARGIN = 2
"""As the localizer's: a JPEG is decoded at no less than twice the network's size."""
_ORDER, _PICTURE, _BATCH = range(3)  # what a generator is for: no two share their numbers


class Request(NamedTuple):
    """What one step of one process reads.

    Attributes:
        epoch: From 1; 0: as it is, without augmentation.
        step: From 0.
        rows: Indices of the pictures in the data set.
        share: The factor that makes the sum of the processes' and accumulated steps' mean losses
            the mean over their pictures, whatever Lightning divides by.
    """

    epoch: int
    step: int
    rows: tuple[int, ...]
    share: float = 1.0


class Batch(NamedTuple):
    """What was read.

    Attributes:
        pixels: `uint8` RGB `[B, h, w, 3]`.
        targets: `float32 [B, C]`: 0 or 1, between them where labels are mixed.
        rows: `int64 [B]`, indices of the pictures in the data set.
        share: As the request's.
        error: Why the pictures cannot be read; empty: they were.
    """

    pixels: Tensor
    targets: Tensor
    rows: Tensor
    share: float
    error: str


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """How an epoch's pictures are split into steps: every picture once, steps equal to one picture.

    Attributes:
        pictures: How many.
        batch_size: Of each process; steps hold at most this many (one more where that alone gives
            every process a picture in every step).
        processes: How many train together.
        accumulate: Steps whose gradients are summed before weights change.
    """

    pictures: int
    batch_size: int
    processes: int
    accumulate: int

    @property
    def steps(self) -> int:
        """In one epoch, the same in every process."""
        wanted = -(-self.pictures // (self.batch_size * self.processes))
        return min(wanted, self.pictures // self.processes)

    @property
    def updates(self) -> int:
        """Changes of the weights in one epoch."""
        return -(-self.steps // self.accumulate)

    def requests(self, epoch: int, order: IntArray, process: int) -> list[Request]:
        """What one process reads in one epoch; `order` holds every training picture once."""
        batches = np.array_split(order, self.steps)
        requests = []
        for step, batch in enumerate(batches):
            first = step - step % self.accumulate
            together = sum(map(len, batches[first : first + self.accumulate]))
            mine = np.array_split(batch, self.processes)[process]
            share = self.accumulate * self.processes * len(mine) / together
            requests.append(Request(epoch, step, tuple(mine.tolist()), share))
        return requests


def epoch_order(rows: IntArray, seed: int, epoch: int) -> IntArray:
    """The training pictures in the order of one epoch."""
    return np.random.default_rng([seed, epoch, _ORDER]).permutation(rows)


def evaluation_requests(
    rows: IntArray, batch_size: int, process: int, processes: int
) -> list[Request]:
    """A process's share of pictures that are seen as they are; each is in one process, once."""
    mine: list[int] = rows[process::processes].tolist()
    starts = range(0, len(mine), batch_size)
    return [
        Request(0, step, tuple(mine[start : start + batch_size]))
        for step, start in enumerate(starts)
    ]


class Reader:
    """Reads requests; safe in threads, and small enough to be sent to other processes."""

    def __init__(
        self, data: LabelledSet, options: TrainOptions, preprocessing: Preprocessing
    ) -> None:
        self.paths: tuple[Path, ...] = data.paths
        self.targets: BoolArray = data.targets
        self.seed = options.seed
        self.augment = frozenset(options.augment)
        self.size_hw = preprocessing.size_hw
        self.fill = mean_colour(preprocessing.mean, preprocessing.channels)

    def picture(self, epoch: int, row: int) -> ByteArray:
        """One picture at the network's size, `[h, w, 3]`: augmented, or squashed at epoch 0.

        Raises:
            PictureError: It cannot be read.
        """
        height, width = self.size_hw
        at_least = (height * DECODE_MARGIN, width * DECODE_MARGIN)
        pixels = load_picture(self.paths[row], at_least_hw=at_least).pixels
        if epoch == 0:
            return resize_picture(pixels, self.size_hw)
        chance = np.random.default_rng([self.seed, epoch, _PICTURE, row])
        return augment_picture(pixels, self.size_hw, self.augment, self.fill, chance)

    def picture_or_error(self, epoch: int, row: int) -> ByteArray | GapcamError:
        """`picture`, with the error for its value: errors do not travel well between processes."""
        try:
            return self.picture(epoch, row)
        except GapcamError as error:
            return error

    def join(self, request: Request, pictures: Sequence[ByteArray | GapcamError]) -> Batch:
        """The batch of these pictures, mixed if that is asked for."""
        rows = np.array(request.rows, np.int64)
        targets = self.targets[rows].astype(np.float32)
        failed = [str(item) for item in pictures if isinstance(item, GapcamError)]
        if failed:
            empty = torch.empty((0, *self.size_hw, 3), dtype=torch.uint8)
            return Batch(empty, torch.from_numpy(targets), torch.from_numpy(rows), 0.0, failed[0])
        pixels = np.stack([item for item in pictures if not isinstance(item, GapcamError)])
        if request.epoch and "cutmix" in self.augment:
            chance = np.random.default_rng([self.seed, request.epoch, _BATCH, request.rows[0]])
            pixels, targets = cut_mix(pixels, targets, chance)
        seen, labels = torch.from_numpy(pixels), torch.from_numpy(targets)
        return Batch(seen, labels, torch.from_numpy(rows), request.share, "")

    def __getitem__(self, request: Request) -> Batch:
        """A whole batch: what a `DataLoader` asks of a data set."""
        return self.join(request, [self.picture_or_error(request.epoch, r) for r in request.rows])


class Source:
    """Reads pictures ahead of training.

    By threads of this process (Pillow works outside the interpreter lock), or by `workers`
    processes, which start once, share no memory with this one's threads, and end with `close`.
    One pass at a time: a second one begins when the first is done.
    """

    def __init__(self, reader: Reader, workers: int, *, pinned: bool = False) -> None:
        self._reader = reader
        self._sampler = _Sampler()
        self._loader = _loader(reader, self._sampler, workers, pinned) if workers else None

    def read(self, requests: list[Request]) -> Iterator[Batch]:
        """Their batches, in order; begins when the first is asked for."""
        if self._loader is None:
            yield from read_in_threads(self._reader, requests)
        else:
            self._sampler.requests = requests
            yield from self._loader

    def close(self) -> None:
        """End the processes."""
        self._loader = None


class Batches:
    """What Lightning iterates over: the epoch that `requests` gives, each time anew."""

    def __init__(self, source: Source, requests: Callable[[], list[Request]], length: int) -> None:
        self._source = source
        self._requests = requests
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        return self._source.read(self._requests())


def read_in_threads(reader: Reader, requests: Sequence[Request]) -> Iterator[Batch]:
    """Batches in order, their pictures read in threads, a few ahead."""
    jobs = ((request.epoch, row) for request in requests for row in request.rows)

    def read(chunk: Sequence[tuple[int, int]]) -> list[ByteArray | GapcamError]:
        return [reader.picture_or_error(epoch, row) for epoch, row in chunk]

    with closing(in_chunks(read, jobs)) as pictures:
        for request in requests:
            yield reader.join(request, list(islice(pictures, len(request.rows))))


class _Sampler:
    """Hands a `DataLoader` the requests of the pass that begins."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)


def _loader(reader: Reader, sampler: _Sampler, workers: int, pinned: bool) -> Iterable[Batch]:
    dataset: Any = reader  # a DataLoader takes anything with __getitem__
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pinned,
        persistent_workers=True,
        multiprocessing_context="spawn",  # a forked process may hang in a lock of this one
        generator=torch.Generator(),  # else it draws from the global one
    )


def _as_it_is(batch: Any) -> Any:
    return batch
