"""The scores of an evaluation, as tables on the terminal."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from gapcam.terminal import counted, printing

UPPER_BOUND = "upper bound"
GENERAL = (
    ("top1", "Top-1 classification"),
    ("top5", "Top-5 classification"),
    ("top1_loc", "Top-1 Loc"),
    ("top5_loc", "Top-5 Loc"),
    ("gt_known", "GT-known Loc"),
    ("mean_iou", "mean IoU"),
    ("pointing", "pointing game"),
    ("pointing_15px", "pointing game, 15 px"),
    ("energy", "energy on the object"),
    ("pxap", "PxAP"),
)


def print_scores(result: dict[str, Any]) -> None:
    """The headline with intervals, the thresholds side by side, the trivial boxes: percent."""
    with printing() as console:
        console.print(f"[bold]{escape(_title(result))}[/]", soft_wrap=True)
        for note in result["data"]["notes"]:
            console.print(escape(f"note: {note}"), soft_wrap=True)
        for note in (result["selection"] or {"notes": []})["notes"]:
            console.print(escape(f"note on the selection set: {note}"), soft_wrap=True)
        console.print(_general(result))
        console.print()
        console.print(_thresholds(result))
        console.print()
        console.print(_protocol(result["protocol"]))


def _title(result: dict[str, Any]) -> str:
    count = counted(result["n"], "picture")
    if result["n"] != result["n_total"]:
        count = f"{result['n']} of {counted(result['n_total'], 'picture')}"
    pairs = "" if result["n_targets"] == result["n"] else f", {result['n_targets']} classes in them"
    partial = "PARTIAL: " if result["partial"] else ""
    return (
        f"{partial}{result['data']['name']}: {count}{pairs}. "
        f"{result['model']['name']}, recipe {result['recipe']['name']}, protocol "
        f"{result['protocol']['name']}"
    )


def _general(result: dict[str, Any]) -> Table:
    table = _table("score", "%", "95 % interval", "")
    for key, words in GENERAL:
        if result[key] is not None:
            table.add_row(words, _percent(result[key]), _interval(result["ci95"].get(key)), "")
    for key, words in (("whole_image", "the whole picture"), ("centred_box", "the centred box")):
        row = (result["baselines"] or {}).get(key, {"gain": None})
        if row["gain"] is not None:
            interval = _interval(row["gain_ci95"])
            table.add_row(f"  GT-known less {words}", f"{100 * row['gain']:+.1f}", interval, "")
    even = (result["baselines"] or {}).get("whole_image", {}).get("pxap")
    if even is not None:
        table.add_row("PxAP of an even map", _percent(even), "", "")
    for iou, value in (result["max_box_acc"] or {}).items():
        interval = _interval(result["ci95"].get(f"max_box_acc.{iou}"))
        table.add_row(f"MaxBoxAcc, IoU {iou}", _percent(value), interval, UPPER_BOUND)
    if result["max_box_acc_v2"] is not None:
        interval = _interval(result["ci95"]["max_box_acc_v2"])
        table.add_row("MaxBoxAccV2", _percent(result["max_box_acc_v2"]), interval, UPPER_BOUND)
    return table


def _thresholds(result: dict[str, Any]) -> Table:
    masks = any(row["mask"] for row in result["thresholds"])
    boxes = result["gt_known"] is not None
    headings = ["threshold"]
    headings += ["GT-known", "95 % interval", "IoU .3", "IoU .7"] if boxes else []
    headings += ["pixel IoU", "precision", "recall"] if masks else []
    table = _table(*headings, "where it comes from", wide=True)
    for row in result["thresholds"]:
        at = "each" if row["threshold"] is None else f"{row['threshold']:.3g}"
        cells = [at, *(_box_cells(row) if boxes else []), *(_mask_cells(row) if masks else [])]
        star = " (reported above)" if row["headline"] else ""
        table.add_row(*cells, escape(row["words"]) + star)
    for row in (result["baselines"] or {}).values():
        cells = ["", *(_box_cells(row) if boxes else []), *(_mask_cells(row) if masks else [])]
        table.add_row(*cells, escape(row["words"]))
    return table


def _mask_cells(row: dict[str, Any]) -> list[str]:
    mask = row["mask"] or {}
    return [_percent(mask.get(key)) for key in ("iou", "precision", "recall")]


def _protocol(protocol: dict[str, str]) -> Table:
    """How it was scored, aspect by aspect."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, style="dim")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, words in protocol.items():
        table.add_row("protocol" if key == "name" else key, escape(words))
    return table


def _box_cells(row: dict[str, Any]) -> list[str]:
    accuracy = row["box_acc"]
    interval = _interval(row["gt_known_ci95"])
    return [
        _percent(row["gt_known"]),
        interval,
        _percent(accuracy["0.3"]),
        _percent(accuracy["0.7"]),
    ]


def _table(first: str, *headings: str, wide: bool = False) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, justify="right" if wide else "left", no_wrap=True)
    for heading in headings[:-1]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(headings[-1], overflow="fold")
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _interval(interval: list[float] | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
