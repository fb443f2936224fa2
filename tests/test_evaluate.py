"""The scores of `evaluate`, against plain loops over what the localizer says."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
from PIL import Image

import gapcam
from gapcam.boxes import find_regions, scale_box
from gapcam.data import Dataset, load_mask, read_dataset
from gapcam.evaluate import evaluate
from gapcam.metrics.otsu import otsu_thresholds
from scored_sets import sample, write_rows

IOUS = (0.3, 0.5, 0.7)


@pytest.fixture(scope="module")
def result(quick: gapcam.Localizer, boxed: Dataset) -> dict:
    return evaluate(quick, boxed).result


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (total - width * height)


def pairs_of(dataset):
    return [(example, target) for example in dataset.examples for target in example.targets]


def best(box, target):
    return 0.0 if box is None else max(iou(box, truth) for truth in target.boxes)


def own_detection(localizer, example, target):
    return localizer(example.path, classes=target.class_names[:1]).detections[0]


def at_threshold(localizer, heat, example, threshold):
    """The box of a threshold, cut by itself."""
    recipe = dataclasses.replace(localizer.recipe, threshold=threshold)
    regions = find_regions(heat, recipe)
    size_hw = example.size_wh[::-1]
    return scale_box(regions[0].box_xyxy, heat.shape, size_hw) if regions else None


def test_localization_scores_are_those_of_the_boxes_that_a_user_gets(quick, boxed, result):
    hits, ious, ranked = [], [], []
    for example, target in pairs_of(boxed):
        detection = own_detection(quick, example, target)
        ious.append(best(detection.box_xyxy, target))
        hits.append(ious[-1] >= 0.5)
        order = [d.class_id for d in quick(example.path, top=1000).detections]
        ranked.append(order.index(detection.class_id))
    assert result["n"] == len(boxed.examples) == 8
    assert result["n_targets"] == len(hits) == 9
    assert 0 < sum(hits) < len(hits)
    assert result["gt_known"] == pytest.approx(np.mean(hits), abs=1e-6)
    assert result["mean_iou"] == pytest.approx(np.mean(ious), abs=1e-6)
    names = [example.name for example, _ in pairs_of(boxed)]
    for key, rank in (("top1_loc", 1), ("top5_loc", 5)):
        right = {n for n, hit, r in zip(names, hits, ranked, strict=True) if hit and r < rank}
        assert result[key] == pytest.approx(len(right) / 8, abs=1e-6)
    for key, rank in (("top1", 1), ("top5", 5)):
        right = {n for n, r in zip(names, ranked, strict=True) if r < rank}
        assert result[key] == pytest.approx(len(right) / 8, abs=1e-6)


def test_pointing_and_energy_against_pixels(quick, boxed, result):
    near = {"pointing": 0.0, "pointing_15px": 15.0}
    hits = {key: [] for key in near}
    energy = []
    for example, target in pairs_of(boxed):
        detection = own_detection(quick, example, target)
        x, y = detection.peak_xy
        for key, tolerance in near.items():
            distances = [
                np.hypot(max(x0 - x, 0, x - x1), max(y0 - y, 0, y - y1))
                for x0, y0, x1, y1 in target.boxes
            ]
            hits[key].append(min(distances) <= tolerance)
        width, height = example.size_wh
        columns = (np.arange(width * 2) / 2 * detection.heat.shape[1] / width).astype(int)
        rows = (np.arange(height * 2) / 2 * detection.heat.shape[0] / height).astype(int)
        large = detection.heat[np.ix_(rows, columns)].astype(np.float64)
        inside = np.zeros_like(large, bool)
        for box in target.boxes:
            x0, y0, x1, y1 = (round(2 * v) for v in box)
            inside[y0:y1, x0:x1] = True
        energy.append((large * inside).sum() / large.sum())
    for key, values in hits.items():
        assert result[key] == pytest.approx(np.mean(values), abs=1e-6)
    assert result["energy"] == pytest.approx(np.mean(energy), abs=2e-3)


def test_curves_and_upper_bounds_against_a_loop_over_thresholds(quick, boxed, result):
    thresholds = result["curves"]["thresholds"]
    assert thresholds == pytest.approx([t / 100 for t in range(100)])
    ious = np.array(
        [
            [best(at_threshold(quick, heat, example, t), target) for t in thresholds]
            for example, target in pairs_of(boxed)
            for heat in [own_detection(quick, example, target).heat]
        ]
    )
    for delta in IOUS:
        accuracy = (ious >= delta).mean(0)
        assert result["curves"]["single"][str(delta)] == pytest.approx(accuracy, abs=1e-6)
        assert result["max_box_acc"][str(delta)] == pytest.approx(accuracy.max(), abs=1e-6)
    oracle = next(row for row in result["thresholds"] if row["source"] == "oracle")
    at = int((ious >= 0.5).mean(0).argmax())
    assert oracle["threshold"] == thresholds[at]
    assert oracle["gt_known"] == result["max_box_acc"]["0.5"]
    assert oracle["mean_iou"] == pytest.approx(ious[:, at].mean(), abs=1e-6)


def test_multi_takes_the_best_of_all_components(quick, boxed, result):
    recipe = dataclasses.replace(quick.recipe, components="all", min_area_share=0.0)
    for t in (0.1, 0.46, 0.8):
        hits = []
        for example, target in pairs_of(boxed):
            detection = own_detection(quick, example, target)
            found = find_regions(detection.heat, dataclasses.replace(recipe, threshold=t))
            size_hw = example.size_wh[::-1]
            boxes = [scale_box(r.box_xyxy, detection.heat.shape, size_hw) for r in found]
            hits.append(max((best(box, target) for box in boxes), default=0.0) >= 0.5)
        at = result["curves"]["thresholds"].index(t)
        assert result["curves"]["multi"]["0.5"][at] == pytest.approx(np.mean(hits), abs=1e-6)
    v2 = np.mean([max(result["curves"]["multi"][str(delta)]) for delta in IOUS])
    assert result["max_box_acc_v2"] == pytest.approx(v2, abs=2e-6)


def test_otsu_cuts_each_map_for_itself(quick, boxed, result):
    ious = []
    for example, target in pairs_of(boxed):
        heat = own_detection(quick, example, target).heat
        levels = np.minimum((heat * 256).astype(int), 255).astype(np.uint8)
        level, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
        box = at_threshold(quick, heat, example, (level + 1) / 256)
        ious.append(best(box, target))
    otsu = next(row for row in result["thresholds"] if row["source"] == "otsu")
    assert otsu["threshold"] is None
    assert otsu["mean_iou"] == pytest.approx(np.mean(ious), abs=0.02)


def test_trivial_boxes_stand_beside_the_result(boxed, result):
    for key in ("whole_image", "centred_box"):
        row = result["baselines"][key]
        w, h = row["share_wh"]
        ious = [
            best(((1 - w) / 2 * x, (1 - h) / 2 * y, (1 + w) / 2 * x, (1 + h) / 2 * y), target)
            for example, target in pairs_of(boxed)
            for x, y in [example.size_wh]
        ]
        assert row["gt_known"] == pytest.approx(np.mean(np.array(ious) >= 0.5), abs=1e-6)
        assert row["mean_iou"] == pytest.approx(np.mean(ious), abs=1e-6)
        assert row["gain"] == pytest.approx(result["gt_known"] - row["gt_known"], abs=2e-6)
        low, high = row["gain_ci95"]
        assert low <= row["gain"] <= high
    assert result["baselines"]["centred_box"]["upper_bound"]
    assert "baselines.centred_box" in result["upper_bounds"]
    assert "an upper bound" in result["baselines"]["centred_box"]["words"]


def test_groups_hold_every_pair_once(boxed, result):
    sizes, counts = {}, {}
    for example, target in pairs_of(boxed):
        x, y = example.size_wh
        area = max((b[2] - b[0]) * (b[3] - b[1]) for b in target.boxes) / (x * y)
        size = "below 10 % of the picture" if area < 0.1 else None
        size = size or ("10 to 25 %" if area < 0.25 else None)
        size = size or ("25 to 50 %" if area < 0.5 else "50 % and more")
        sizes[size] = sizes.get(size, 0) + 1
        count = "1 object" if len(target.boxes) == 1 else "2 objects"
        counts[count] = counts.get(count, 0) + 1
    assert {row["bin"]: row["n"] for row in result["by_size"]} == sizes
    assert {row["bin"]: row["n"] for row in result["by_count"]} == counts
    for name in ("by_size", "by_count", "by_class"):
        total = sum(row["gt_known"] * row["n"] for row in result[name])
        assert total / 9 == pytest.approx(result["gt_known"], abs=1e-5)
    assert sum(result["iou_histogram"]["counts"]) == 9
    by_class = {row["class"]: row for row in result["by_class"]}
    assert by_class["Egyptian cat"]["n"] == 4
    assert list(by_class) == [
        row["class"] for row in sorted(result["by_class"], key=lambda r: r["class_id"])
    ]


def test_the_result_is_json_and_the_same_whatever_the_workers(quick, boxed, result):
    for workers in (1, 3):
        again = evaluate(quick, boxed, workers=workers).result
        assert {**again, "speed": None} == {**result, "speed": None}
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_masks_give_pixel_scores_and_no_box_scores(quick, masked):
    done = evaluate(quick, masked).result
    positives = negatives = 0
    scores, truths, heats = [], [], []
    for example, target in pairs_of(masked):
        mask, ignore = load_mask(target, example)
        assert ignore is None
        heat = own_detection(quick, example, target).heat
        heats.append(heat)
        scores.append(cv2.resize(heat, example.size_wh, interpolation=cv2.INTER_LINEAR).ravel())
        truths.append(mask.ravel())
    scores, truths = np.concatenate(scores), np.concatenate(truths)
    cut = scores > quick.recipe.threshold
    positives, negatives = (cut & truths).sum(), (cut & ~truths).sum()
    row = done["thresholds"][0]["mask"]
    assert row["precision"] == pytest.approx(positives / (positives + negatives), abs=1e-6)
    assert row["recall"] == pytest.approx(positives / truths.sum(), abs=1e-6)
    assert row["iou"] == pytest.approx(positives / (truths.sum() + negatives), abs=1e-6)
    thresholds = np.arange(1001) * 0.001
    inside, every = np.sort(scores[truths]), np.sort(scores)
    hits = len(inside) - np.searchsorted(inside, thresholds)
    precision = hits / np.maximum(len(every) - np.searchsorted(every, thresholds), 1)
    recall = hits / len(inside)
    pxap = (precision[:-1] * -np.diff(recall)).sum() + precision[-1] * recall[-1]
    assert done["pxap"] == pytest.approx(pxap, abs=1e-6)
    low, high = done["ci95"]["pxap"]
    assert low < done["pxap"] < high
    for key in ("gt_known", "top1_loc", "mean_iou", "max_box_acc", "max_box_acc_v2"):
        assert done[key] is None
    assert done["by_size"] == []
    assert done["iou_histogram"] is None
    assert done["upper_bounds"] == ["thresholds.oracle"]
    oracle = done["thresholds"][-1]
    assert oracle["mask"]["iou"] >= row["iou"]
    hits = found = 0
    for (example, target), heat in zip(pairs_of(masked), heats, strict=True):
        mask, _ = load_mask(target, example)
        threshold = otsu_thresholds(heat[np.newaxis])[0]
        large = cv2.resize(heat, example.size_wh, interpolation=cv2.INTER_LINEAR)
        hits, found = hits + ((large > threshold) & mask).sum(), found + (large > threshold).sum()
    otsu = done["thresholds"][1]["mask"]
    assert otsu["precision"] == pytest.approx(hits / found, abs=1e-6)
    assert otsu["recall"] == pytest.approx(hits / truths.sum(), abs=1e-6)
    share = truths.mean()
    assert done["baselines"]["whole_image"]["pxap"] == pytest.approx(share, abs=1e-6)
    assert done["baselines"]["whole_image"]["mask"]["iou"] == pytest.approx(share, abs=1e-6)
    json.dumps(done, allow_nan=False)


def test_boxes_in_stored_pixels_are_turned_with_the_picture(quick, boxed, tmp_path):
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned right: stored (x, y) is shown at (height - y, x)
    stored = sample("cat").transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "images" / "cat.png", exif=exif)
    width, height = stored.size
    write_rows(tmp_path / "b.csv", [("cat.png", "Egyptian cat", width, height, 0, 73, 300, 451)])
    turned = evaluate(quick, read_dataset(tmp_path / "images", tmp_path / "b.csv")).result
    upright = [e for e in boxed.examples if e.name == "a/cat.png"]
    plain = evaluate(quick, dataclasses.replace(boxed, examples=tuple(upright))).result
    assert turned["mean_iou"] == plain["mean_iou"]
    assert turned["gt_known"] == plain["gt_known"] == 1
