"""Say what is in a picture and where, with a model file and no gapcam.

Needs `pip install onnxruntime numpy pillow`. The model file (`gapcam export MODEL OUT.onnx`) holds
the network, its preprocessing, the class maps, the labels and the recipe:

    python onnxruntime_numpy.py model.onnx photo.jpg overlay.png

Everything after the network is here in full: maps to heat, heat to box. The maps, and for recipes
that keep the largest region the box too, are gapcam's own, to rounding.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

GRID_STRIDE = 4  # input pixels between the samples that a map is cut on
LONGEST_SIDE = 1600  # of the overlay, pixels
COLOURS = np.array([[87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32)


def read_metadata(session):
    """What the file says of itself: labels, recipe, input size, ..."""
    stored = session.get_modelmeta().custom_metadata_map
    if "gapcam.recipe" not in stored:
        raise SystemExit("not a model file that gapcam exported: it has no key gapcam.recipe")
    return {key.removeprefix("gapcam."): json.loads(value) for key, value in stored.items()}


def read_picture(path):
    """The picture as it is shown: upright, RGB, transparent parts on white."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def run(session, pixels):
    """One forward pass over one picture `uint8 [H, W, 3]`: every output of the file, by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": pixels[np.newaxis]}), strict=True))


def probabilities(logits, rule):
    """Probabilities `[C]` of logits `[C]`: softmax, or sigmoid where classes go together."""
    if rule == "sigmoid" or len(logits) == 1:
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def interpolation(n_in, n_out, kind):
    """The matrix `[n_out, n_in]` that interpolates one axis: half-pixel centres, edges repeated."""
    at = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    d = np.abs(at[:, np.newaxis] - np.arange(-2, n_in + 2))
    if kind == "bilinear":
        weights = np.maximum(1 - d, 0)
    else:  # cubic convolution with a = -0.75, as in ONNX, PyTorch and OpenCV
        near, far = (1.25 * d - 2.25) * d * d + 1, -0.75 * (((d - 5) * d + 8) * d - 4)
        weights = np.where(d <= 1, near, np.where(d < 2, far, 0))
    matrix = weights[:, 2:-2].copy()
    matrix[:, 0] += weights[:, :2].sum(1)
    matrix[:, -1] += weights[:, -2:].sum(1)
    return matrix


def resample(plane, height, width, kind):
    """A map `[h, w]` on another grid, `[height, width]`."""
    rows = interpolation(plane.shape[0], height, kind)
    columns = interpolation(plane.shape[1], width, kind)
    return rows @ plane @ columns.T


def heat_of(evidence, class_map, recipe):
    """Evidence `[h, w]` as heat in 0..1 on the grid that is cut.

    A class whose map is nowhere positive has no heat: it is never stretched into a hot spot.
    """
    height, width = (side // GRID_STRIDE for side in recipe["input_size_hw"])
    plane = resample(evidence, height, width, recipe["upsample"])
    if class_map.max() <= 0 or plane.max() <= 0:
        return np.zeros_like(plane)
    flat = plane.min() == plane.max()  # positive and the same everywhere: hot everywhere
    if flat or recipe["normalize"] == "max":
        low = 0
    elif recipe["normalize"] == "minmax":
        low = plane.min()
    else:  # "ivr"
        low = np.quantile(plane, recipe["ivr_percentile"])
    plane = np.maximum(plane - low, 0)
    return plane / plane.max()


def largest_region(hot):
    """The largest connected part of `bool [h, w]` (corners connect), or None. A flood fill."""
    left, best = hot.copy(), []
    for start in np.argwhere(hot):
        found, frontier = [], [tuple(start)]
        while frontier:
            y, x = frontier.pop()
            if left[y, x]:
                left[y, x] = False
                found.append((y, x))
                rows = range(max(y - 1, 0), min(y + 2, hot.shape[0]))
                columns = range(max(x - 1, 0), min(x + 2, hot.shape[1]))
                frontier += [(row, column) for row in rows for column in columns]
        best = max(best, found, key=len)
    region = np.zeros_like(hot)
    region[tuple(np.array(best).T)] = bool(best)
    return region if best else None


def first_edge(heat, region, threshold):
    """Where the region begins from the left, in cells.

    Between two samples the heat is a straight line, so the side lies where that line crosses the
    threshold. Beyond the outermost samples the heat stays as it is.
    """
    x = int(region.any(0).argmax())
    if x == 0:
        return 0.0
    rows = region[:, x]
    inner, outer = heat[rows, x], heat[rows, x - 1]
    return x + 0.5 - float(((inner - threshold) / (inner - outer)).max())


def box_of(heat, threshold, picture_width, picture_height):
    """`x0, y0, x1, y1` around the largest region, pixels of the picture; or None."""
    region = largest_region(heat > threshold)
    if region is None:
        return None
    (height, width), down = heat.shape, (heat.T, region.T)
    x0, y0 = first_edge(heat, region, threshold), first_edge(*down, threshold)
    x1 = width - first_edge(heat[:, ::-1], region[:, ::-1], threshold)
    y1 = height - first_edge(down[0][:, ::-1], down[1][:, ::-1], threshold)
    across, along = picture_width / width, picture_height / height
    return x0 * across, y0 * along, x1 * across, y1 * along


def localize(session, image):
    """What is in a picture and where: a dictionary for each of the best classes."""
    card = read_metadata(session)
    recipe = card["recipe"]
    height, width = card["input_size_hw"]
    outputs = run(session, np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)))
    if recipe["refine"] != "none" and "top_refined" not in outputs:
        raise SystemExit(f"recipe {recipe['name']!r} takes two passes: export a recipe of one pass")
    logits = outputs["logits"][0]
    scores = probabilities(logits, card["scores"])
    found = []
    for i, class_id in enumerate(outputs["top_classes"][0].tolist()):
        class_map = outputs["top_maps"][0, i]
        heat = heat_of(outputs.get("top_refined", outputs["top_maps"])[0, i], class_map, recipe)
        if class_id in card["placeless"]:  # it means that nothing is there
            heat = np.zeros_like(heat)
        found.append(
            {
                "label": card["labels"][class_id],
                "score": float(scores[class_id]),
                "box": box_of(heat, recipe["threshold"], *image.size),
                "map": class_map,  # raw: signed, logit units
                "heat": heat,
                "gap": float(class_map.mean() + outputs["head_bias"][class_id] - logits[class_id]),
            }
        )
    return found


def draw(image, detection):
    """The heat and the box over the picture; what is cold stays the plain picture."""
    canvas = image.copy()
    canvas.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    heat = resample(detection["heat"], canvas.height, canvas.width, "bilinear")
    stops = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(heat, stops, channel) for channel in COLOURS.T], axis=-1)
    opacity = 0.7 * heat[..., np.newaxis]
    blended = np.asarray(canvas) * (1 - opacity) + colour * opacity
    drawn = Image.fromarray(np.rint(blended).astype(np.uint8))
    if detection["box"]:
        box = [side * canvas.width / image.width for side in detection["box"]]
        line = max(2, min(canvas.size) // 150)
        ImageDraw.Draw(drawn).rectangle(box, outline="white", width=line)
    return drawn


def main():
    """Localize one picture."""
    if len(sys.argv) != 4:
        raise SystemExit("usage: python onnxruntime_numpy.py MODEL.onnx PICTURE OVERLAY")
    model, picture, overlay = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    image = read_picture(picture)
    found = localize(session, image)
    for d in found:
        box = " ".join(f"{side:.1f}" for side in d["box"]) if d["box"] else "nowhere"
        print(f"{d['label']}: {d['score']:.1%}, box {box}")
    print(f"mean(map) + bias - logit: {max(abs(d['gap']) for d in found):.1e} at most")
    draw(image, found[0]).save(overlay)


if __name__ == "__main__":
    main()
