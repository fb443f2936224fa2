"""From a run's epochs to its charts: loss, accuracy and learning rate, and the head's path."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from gapcam.report.charts import Curve, Mark, Ticks, Values, plot, thinned
from gapcam.report.words import percent
from gapcam.training.plan import EpochRecord
from gapcam.training.run_tables import HeadPoint

TRAIN, VALIDATION = "on-train", "on-validation"
_MOST_TICKS = 6
_LEAST = 0.01  # half of the axis around values that are all the same, as a fraction


class Reading(NamedTuple):
    """A line of a legend.

    Attributes:
        name: What the line is called.
        series: Its class in the style sheet; empty for the position itself.
        dashed: Whether it is drawn dashed.
        text: The value where the cursor stands at first.
        values: All values, blank-separated, `-` where there is none.
        percent: Whether they are shown as percent.
    """

    name: str
    series: str
    dashed: bool
    text: str
    values: str
    percent: bool


class RunChart(NamedTuple):
    """A chart that can be read off at every position.

    Attributes:
        title: What it shows.
        words: What to know of it.
        asks: What its slider chooses.
        svg: The drawing.
        places: Positions of the values on x, blank-separated, 0..1.
        start: Index of the position where the cursor stands at first.
        readings: The legend.
        marked: What the mark says; empty without one.
    """

    title: str
    words: str
    asks: str
    svg: Markup
    places: str
    start: int
    readings: list[Reading]
    marked: str


class Series(NamedTuple):
    """A line: its name, its class in the style sheet, its values and whether it is dashed."""

    name: str
    kind: str
    values: Values
    dashed: bool


def epoch_charts(
    records: Sequence[EpochRecord], best: int | None, measure: str, finished: bool
) -> list[RunChart]:
    """Loss, accuracy and learning rate over the epochs; none without epochs.

    Args:
        records: In order.
        best: The epoch to mark.
        measure: What accuracy is called: `accuracy`, or `mean average precision`.
        finished: Whether the marked epoch is kept for good.
    """
    if not records:
        return []
    kept = [records[i] for i in thinned(len(records))]
    kept = sorted(
        {r.epoch: r for r in (*kept, *(r for r in records if r.epoch == best))}.values(),
        key=lambda r: r.epoch,
    )
    draw = _Drawing(kept, best, "kept" if finished else "best so far")
    return [
        draw.chart(
            "Loss",
            "Mean cross-entropy. The training loss is what is optimized: with the run's "
            "augmentation, mixed labels and label smoothing, which keeps it above 0. So it can be "
            "the higher one, and the two are not comparable.",
            [
                Series("training", TRAIN, [r.train_loss for r in kept], True),
                Series("validation", VALIDATION, [r.validation_loss for r in kept], False),
            ],
            from_zero=True,
        ),
        draw.chart(
            measure[0].upper() + measure[1:],
            "The scale is cut to the values. Training pictures are augmented; where labels are "
            "mixed or a picture may show several classes, they have no score.",
            [
                Series("training", TRAIN, [r.train_accuracy for r in kept], True),
                Series("validation", VALIDATION, [r.validation_accuracy for r in kept], False),
            ],
            percents=True,
        ),
        draw.chart(
            "Learning rate",
            "Of the head, at the end of each epoch.",
            [Series("learning rate", TRAIN, [r.learning_rate for r in kept], False)],
            from_zero=True,
        ),
    ]


class _Drawing:
    """Charts of the same epochs."""

    def __init__(self, records: Sequence[EpochRecord], best: int | None, says: str) -> None:
        self.epochs = [record.epoch for record in records]
        first, last = self.epochs[0], self.epochs[-1]
        self.xs = [(e - first) / (last - first) if last > first else 0.5 for e in self.epochs]
        self.best = self.epochs.index(best) if best in self.epochs else None
        self.says = says
        steps = nice_steps(first, last, whole=True, most=8)
        self.ticks: Ticks = [(x, f"{e}") for e, x in zip(self.epochs, self.xs, strict=True)]
        if last > first:
            self.ticks = [
                ((v - first) / (last - first), f"{v:g}") for v in steps if first <= v <= last
            ]

    def chart(
        self,
        title: str,
        words: str,
        series: Sequence[Series],
        *,
        percents: bool = False,
        from_zero: bool = False,
    ) -> RunChart:
        shown = percent if percents else plain
        start = len(self.epochs) - 1 if self.best is None else self.best
        scale = _Scale([v for line in series for v in line.values], percents, from_zero)
        svg = plot(
            f"{title} over the epochs",
            _in_words(series, self.epochs, shown),
            [Curve(s.kind, self.xs, scale.of(s.values), s.dashed) for s in series],
            self._marks(series, scale, shown),
            ("epoch", f"{title.lower()}{', %' if percents else ''}"),
            self.xs[start],
            (self.ticks, scale.ticks),
        )
        readings = [_position("epoch", list(map(str, self.epochs)), start)]
        readings += [_reading(s, start, percents) for s in series]
        marked = "" if self.best is None else f"epoch {self.epochs[self.best]}, {self.says}"
        places = _numbers(self.xs)
        return RunChart(title, words, "Epoch to read", svg, places, start, readings, marked)

    def _marks(
        self, series: Sequence[Series], scale: _Scale, shown: Callable[[float | None], str]
    ) -> list[Mark]:
        """The kept epoch; a line through a single epoch would not be seen without its mark."""
        places = range(1) if len(self.epochs) == 1 else [self.best]
        return [
            Mark(
                self.xs[i],
                y,
                f"{s.name}, epoch {self.epochs[i]}: {shown(s.values[i])}",
                s.kind,
                False,
            )
            for s in series
            if s.kind == VALIDATION or len(self.epochs) == 1
            for i in places
            if i is not None and (y := scale.of(s.values)[i]) is not None
        ]


def head_chart(points: Sequence[HeadPoint], measure: str) -> RunChart | None:
    """The loss at each strength of regularization; None without any.

    Args:
        points: In the order in which they were tried.
        measure: What accuracy is called.
    """
    if not points:
        return None
    xs = [i / (len(points) - 1) if len(points) > 1 else 0.5 for i in range(len(points))]
    lines = [
        Series("training loss", TRAIN, [p.train_loss for p in points], True),
        Series("validation loss", VALIDATION, [p.validation_loss for p in points], False),
    ]
    scale = _Scale([v for line in lines for v in line.values], percents=False, from_zero=True)
    labels = [plain(point.decay) for point in points]
    chosen = next((i for i, point in enumerate(points) if point.chosen), None)
    start = chosen or 0
    svg = plot(
        "Loss by weight decay",
        _in_words(lines, labels, plain),
        [Curve(line.kind, xs, scale.of(line.values), line.dashed) for line in lines],
        _tried(xs, lines[1], scale, labels, chosen),
        ("weight decay", "loss"),
        xs[start],
        ([(xs[i], labels[i]) for i in _labelled(len(points), start)], scale.ticks),
    )
    scores = Series(f"validation {measure}", "", [p.validation_accuracy for p in points], False)
    readings = [_position("weight decay", labels, start)]
    readings += [_reading(line, start, False) for line in lines] + [_reading(scores, start, True)]
    return RunChart(
        "Regularization",
        "A linear head was fitted with each weight decay; the filled mark is the one that is kept.",
        "Weight decay to read",
        svg,
        _numbers(xs),
        start,
        readings,
        "" if chosen is None else f"{labels[chosen]}, kept",
    )


def _tried(
    xs: Sequence[float], line: Series, scale: _Scale, labels: Sequence[str], chosen: int | None
) -> list[Mark]:
    ys = scale.of(line.values)
    return [
        Mark(xs[i], y, f"{labels[i]}: {plain(line.values[i])}", line.kind, i != chosen)
        for i, y in enumerate(ys)
        if y is not None
    ]


def _labelled(length: int, wanted: int) -> range:
    """Indices evenly apart, the wanted one among them, few enough for a narrow page."""
    step = math.ceil(length / _MOST_TICKS)
    return range(wanted % step, length, step)


class _Scale:
    """From values to 0..1 of an axis whose ends are round numbers."""

    def __init__(self, values: Values, percents: bool, from_zero: bool) -> None:
        known = [v for v in values if v is not None] or [0.0, 1.0]
        low, high = (0.0 if from_zero else min(known)), max(known)
        if percents and low == high:
            low, high = max(0.0, low - _LEAST), min(1.0, high + _LEAST)
        steps = nice_steps(low, high)
        if percents:
            steps = [v for v in steps if -1e-9 <= v <= 1 + 1e-9]
        self._low, self._high = steps[0], steps[-1]
        self.ticks: Ticks = [
            (self._of(v), f"{100 * v:.10g}" if percents else f"{v:.10g}") for v in steps
        ]

    def of(self, values: Values) -> list[float | None]:
        return [None if v is None else self._of(v) for v in values]

    def _of(self, value: float) -> float:
        return (value - self._low) / (self._high - self._low)


def nice_steps(low: float, high: float, *, whole: bool = False, most: int = 6) -> list[float]:
    """Round numbers, evenly apart, that reach from `low` or below to `high` or above.

    Args:
        low: The lowest value.
        high: The highest value; may equal the lowest.
        whole: Whole numbers only.
        most: About how many at most.
    """
    width = high - low if high > low else max(abs(high), 1e-3) / 2
    rough = width / (most - 1)
    tens = 10.0 ** math.floor(math.log10(rough))
    step = next(tens * k for k in (1, 2, 5, 10) if tens * k >= rough * (1 - 1e-9))
    step = max(round(step), 1) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(i * step, 12) for i in range(first, last + 1)]


def plain(value: float | None) -> str:
    """A number with three figures; None is an en dash."""
    return "–" if value is None else f"{value:.3g}"


def _in_words(
    series: Sequence[Series], places: Sequence[object], shown: Callable[[float | None], str]
) -> str:
    parts = []
    for line in series:
        known = [(place, v) for place, v in zip(places, line.values, strict=True) if v is not None]
        if known:
            (first, start), (last, end) = known[0], known[-1]
            parts.append(f"{line.name}: {shown(start)} at {first}, {shown(end)} at {last}")
    return "; ".join(parts) + "."


def _position(name: str, labels: Sequence[str], start: int) -> Reading:
    return Reading(name, "", False, labels[start], " ".join(labels), False)


def _reading(line: Series, start: int, percents: bool) -> Reading:
    text = (percent if percents else plain)(line.values[start])
    return Reading(
        line.name, line.kind, line.dashed, text, _numbers(line.values, percents), percents
    )


def _numbers(values: Values, percents: bool = True) -> str:
    figures = 4 if percents else 3
    return " ".join("-" if v is None else f"{v:.{figures}g}" for v in values)
