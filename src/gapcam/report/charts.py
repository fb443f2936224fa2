"""Charts as inline SVG.

Every chart's SVG *is* its plot area: positions are percentages of it, so a chart fits any width
while its text, dots and strokes keep their size. Labels of the axes lie outside the area, where
the style sheet leaves room (`overflow: visible`). Curves are drawn in a nested SVG whose box is
stretched; their strokes are not (`vector-effect`). Colours come from classes in the style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from markupsafe import Markup

from gapcam.report.words import count, percent, span

Values: TypeAlias = Sequence["float | None"]
Kind: TypeAlias = Literal["dot", "bar", "baseline"]
Ticks: TypeAlias = Sequence[tuple[float, str]]
"""Places on an axis, 0..1, and what stands there."""

CURVE_SIDE = 1000
"""The nested SVG of curves is this many units wide and high."""

_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_FRACTIONS: Ticks = tuple((v, f"{v:g}") for v in _QUARTERS)
_PERCENTS: Ticks = tuple((v, f"{100 * v:.0f}") for v in _QUARTERS)
_LABEL_GAP = 0.05  # of the height of a chart, between two labels at its side
_BELOW, _ABOVE = 17, -7  # where a label stands to its curve, pixels
_FLOOR = 0.1  # lower curves are labelled above, as the axis is below


class Tick(NamedTuple):
    """A baseline beside a score.

    Attributes:
        name: In words.
        value: A fraction, or None.
        kind: The class of its mark: `whole` or `centred`.
        hollow: Whether it is an upper bound.
    """

    name: str
    value: float | None
    kind: str
    hollow: bool


class Mark(NamedTuple):
    """A point on a curve: filled where the threshold was given, hollow for an upper bound."""

    x: float
    y: float
    words: str
    series: str
    hollow: bool


class Curve(NamedTuple):
    """A curve: its class in the style sheet, its points, and a label at its start."""

    series: str
    xs: Values
    ys: Values
    dashed: bool = False
    label: str = ""


def share(value: float) -> str:
    """A fraction as an SVG percentage: 0.702 is `70.2%`."""
    return f"{round(100 * value, 2) + 0.0:g}%"


def axis_labels() -> Markup:
    """The percent labels of the axis that all dots and bars of a table share."""
    texts = Markup("").join(
        Markup('<text x="{}" y="50%" dy="0.35em">{}</text>').format(share(v), f"{100 * v:.0f}")
        for v in _QUARTERS
    )
    return Markup('<svg class="axis" aria-hidden="true">{}</svg>').format(texts)


def whisker(
    name: str,
    value: float | None,
    interval: Sequence[float] | None,
    *,
    kind: Kind = "dot",
    hollow: bool = False,
    ticks: Sequence[Tick] = (),
) -> Markup:
    """A score with its interval and its baselines, on the axis 0 to 100 %.

    Args:
        name: What is scored, for the title.
        value: A fraction, or None: then only the grid is drawn.
        interval: `[low, high]`, or None.
        kind: A dot, a bar from 0, or the mark of a baseline.
        hollow: Draws an upper bound.
        ticks: Baselines.
    """
    parts = [_grid()]
    if value is not None:
        parts += _value_marks(value, interval, kind, hollow)
        shown = [tick for tick in ticks if tick.value is not None]
        parts += [_tick(tick) for tick in shown]
        title = _whisker_title(name, value, interval, hollow, shown)
    else:
        title = f"{name}: no score"
    body = Markup("").join(parts)
    return Markup('<svg class="whisker" role="img"><title>{}</title>{}</svg>').format(title, body)


def _value_marks(
    value: float, interval: Sequence[float] | None, kind: Kind, hollow: bool
) -> list[Markup]:
    style = f"{kind} hollow" if hollow else kind
    parts = []
    if kind == "bar":
        bar = Markup(
            '<rect class="{}" y="50%" width="{}" height="14" rx="2" transform="translate(0 -7)"/>'
        )
        parts.append(bar.format(style, share(value)))
    if interval is not None:
        line = Markup('<line class="interval" x1="{}" x2="{}" y1="50%" y2="50%"/>')
        parts.append(line.format(share(interval[0]), share(interval[1])))
    if kind != "bar":
        dot = Markup('<circle class="{}" cx="{}" cy="50%" r="{}"/>')
        parts.append(dot.format(style, share(value), "4" if kind == "baseline" else "5"))
    return parts


def _tick(tick: Tick) -> Markup:
    style = f"tick {tick.kind}" + (" hollow" if tick.hollow else "")
    at = share(tick.value or 0.0)
    line = Markup('<line class="{}" x1="{}" x2="{}" y1="18%" y2="82%"><title>{}</title></line>')
    return line.format(style, at, at, f"{tick.name}: {percent(tick.value)}")


def _whisker_title(
    name: str, value: float, interval: Sequence[float] | None, hollow: bool, ticks: Sequence[Tick]
) -> str:
    between = f", 95 % interval {span(interval)}" if interval is not None else ""
    bound = ", an upper bound" if hollow else ""
    others = "".join(
        f"; {tick.name} {percent(tick.value)}{', an upper bound' if tick.hollow else ''}"
        for tick in ticks
    )
    return f"{name}: {percent(value)}{between}{bound}{others}"


def _grid() -> Markup:
    return Markup("").join(
        Markup('<line class="grid" x1="{0}" x2="{0}" y1="0" y2="100%"/>').format(share(v))
        for v in _QUARTERS
    )


def plot(
    title: str,
    words: str,
    curves: Sequence[Curve],
    marks: Sequence[Mark],
    axes: tuple[str, str],
    cursor: float | None = None,
    ticks: tuple[Ticks, Ticks] = (_FRACTIONS, _PERCENTS),
) -> Markup:
    """Curves in the unit square.

    Args:
        title: What it shows.
        words: What is to be seen, for those who do not see it.
        curves: Drawn in order; points without a value break the line.
        marks: Points, drawn above all curves.
        axes: What is on x and on y, in words.
        cursor: Where the movable line stands at first, in 0..1; it is hidden without.
        ticks: What stands along x and along y.
    """
    side = CURVE_SIDE
    paths = Markup("").join(
        Markup('<path class="curve {}{}" d="{}"/>').format(
            curve.series, " dashed" if curve.dashed else "", path_data(curve.xs, curve.ys)
        )
        for curve in curves
    )
    return Markup(
        '<svg class="plot" role="img"><title>{title}</title>'
        "<desc>{words}</desc>{frame}"
        '<svg viewBox="0 0 {side} {side}" preserveAspectRatio="none" width="100%" height="100%">'
        "{paths}</svg>{line}{marks}{labels}</svg>"
    ).format(
        title=title,
        words=words,
        frame=_frame(axes, ticks),
        side=side,
        paths=paths,
        line=_cursor(cursor),
        marks=Markup("").join(map(_mark, marks)),
        labels=_side_labels([curve for curve in curves if curve.label]),
    )


def path_data(xs: Values, ys: Values, side: int = CURVE_SIDE) -> str:
    """The `d` of a path through points of the unit square, y upward; None breaks the line."""
    steps, pen = [], "M"
    for x, y in zip(xs, ys, strict=True):
        if x is None or y is None:
            pen = "M"
        else:
            steps.append(f"{pen}{_units(x, side)} {_units(1 - y, side)}")
            pen = "L"
    return "".join(steps)


def thinned(length: int, most: int = 256) -> list[int]:
    """At most about so many indices, evenly spaced, the first and the last among them."""
    if length <= most:
        return list(range(length))
    return [round(i * (length - 1) / (most - 1)) for i in range(most)]


def _units(value: float, side: int) -> str:
    return f"{round(value * side, 1) + 0.0:g}"


def _frame(axes: tuple[str, str], ticks: tuple[Ticks, Ticks]) -> Markup:
    lines = Markup("").join(
        Markup(
            '<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
            '<text class="y" x="0" y="{y}" dx="-8" dy="0.35em">{label}</text>'
        ).format(y=share(1 - v), label=label)
        for v, label in ticks[1]
    )
    return lines + _names(axes, ticks[0])


def _names(axes: tuple[str, str], ticks: Ticks = _FRACTIONS) -> Markup:
    """What is on x and on y, and the numbers along x."""
    places = Markup("").join(
        Markup('<text class="x" x="{}" y="100%" dy="18">{}</text>').format(share(v), label)
        for v, label in ticks
    )
    names = Markup(
        '<text class="x name" x="50%" y="100%" dy="40">{}</text>'
        '<text class="y name" x="0" y="0" dx="-36" dy="-16">{}</text>'
    )
    return places + names.format(*axes)


def _cursor(at: float | None) -> Markup:
    hidden = Markup(' style="display:none"') if at is None else ""
    place = share(at or 0.0)
    line = Markup('<line class="cursor" x1="{0}" x2="{0}" y1="0" y2="100%"{1}/>')
    return line.format(place, hidden)


def _mark(mark: Mark) -> Markup:
    return Markup(
        '<circle class="mark {}{}" cx="{}" cy="{}" r="5"><title>{}</title></circle>'
    ).format(
        mark.series, " hollow" if mark.hollow else "", share(mark.x), share(1 - mark.y), mark.words
    )


def _side_labels(curves: Sequence[Curve]) -> Markup:
    """Names where the curves begin, below them, moved apart where they would overlap."""
    starts = [(curve, y) for curve in curves if (y := _first(curve.ys)) is not None]
    places = spread([y for _, y in starts], _LABEL_GAP)
    return Markup("").join(
        Markup('<text class="label {}" x="0" y="{}" dx="8" dy="{}">{}</text>').format(
            curve.series, share(1 - place), _BELOW if place > _FLOOR else _ABOVE, curve.label
        )
        for (curve, _), place in zip(starts, places, strict=True)
    )


def _first(values: Values) -> float | None:
    return next((value for value in values if value is not None), None)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """The same places in 0..1, the higher of two neighbours moved up until they are apart."""
    placed = dict.fromkeys(range(len(values)), 0.0)
    below = -math.inf
    for i in sorted(placed, key=lambda i: values[i]):
        below = placed[i] = max(values[i], below + gap)
    return list(placed.values())


def histogram(
    title: str, words: str, edges: Sequence[float], counts: Sequence[int], split: float
) -> Markup:
    """Bars over bins of 0..1, those from `split` on in full colour.

    Args:
        title: What it shows.
        words: What is to be seen, for those who do not see it.
        edges: The bins' edges, one more than bins, in 0..1.
        counts: How many are in each bin.
        split: Bins that begin below it are pale.
    """
    total = sum(counts) or 1
    top, steps = _nice_scale(max(counts, default=0))
    bars = Markup("").join(
        Markup(
            '<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
        ).format(
            "column" if low >= split - 1e-9 else "column pale",
            share(low),
            share(1 - n / top),
            share(high - low),
            share(n / top),
            f"IoU {low:g} to {high:g}: {count(n)} ({percent(n / total)})",
        )
        for low, high, n in zip(edges, edges[1:], counts, strict=False)
    )
    return Markup(
        '<svg class="plot short" role="img"><title>{title}</title>'
        "<desc>{words}</desc>{frame}{bars}{line}</svg>"
    ).format(
        title=title, words=words, frame=_count_frame(steps, top), bars=bars, line=_split(split)
    )


def _split(split: float) -> Markup:
    line = Markup('<line class="split" x1="{0}" x2="{0}" y1="0" y2="100%"/>')
    return line.format(share(split))


def _nice_scale(most: int) -> tuple[int, list[int]]:
    """The top of an axis of counts, and where its lines are: multiples of 1, 2 or 5 tens."""
    rough = max(most, 1) / 4
    tens = 10 ** math.floor(math.log10(rough)) if rough >= 1 else 1
    step = next(int(tens * k) for k in (1, 2, 5, 10) if tens * k >= rough)
    top = step * math.ceil(max(most, 1) / step)
    return top, list(range(0, top + 1, step))


def _count_frame(steps: Iterable[int], top: int) -> Markup:
    lines = Markup("").join(
        Markup(
            '<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
            '<text class="y" x="0" y="{y}" dx="-8" dy="0.35em">{label}</text>'
        ).format(y=share(1 - step / top), label=count(step))
        for step in steps
    )
    return lines + _names(("IoU of the predicted box", "pairs"))
