/**
 * A gapcam model file in a web page: what is in a picture, and where.
 *
 * Pure functions; the only thing needed beside them is onnxruntime-web, which is passed in:
 *
 *     import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
 *     import { fetchModel, localize, readPicture } from "./localize.js";
 *
 *     const model = await fetchModel(ort, "model.onnx");
 *     const found = await localize(ort, model, await readPicture(file));
 *     found[0].label, found[0].score, found[0].box, found[0].heat
 *
 * A plane is { data, height, width }: numbers in rows. Boxes are [x0, y0, x1, y1] in pixels of the
 * picture, upright. Resizing has half-pixel centres throughout.
 */

/** Input pixels between the samples that a map is cut on. */
const GRID_STRIDE = 4;

/** Longer pictures are drawn at this size first: some browsers have no larger canvas. */
const LONGEST_SIDE = 4096;

// ---- the model file --------------------------------------------------------------------------

/**
 * What a model file says of itself: labels, recipe, input_size_hw, head, ...
 *
 * onnxruntime-web does not hand out an ONNX file's metadata, but an ONNX file is one protobuf
 * message, and its field 14 holds the metadata as entries of a key (1) and a value (2).
 */
export function readMetadata(bytes) {
  const text = new TextDecoder();
  const found = {};
  for (const [field, value] of protobufFields(bytes)) {
    if (field !== 14) continue;
    const entry = Object.fromEntries(protobufFields(value));
    const key = text.decode(entry[1]);
    if (key.startsWith("gapcam.")) found[key.slice(7)] = JSON.parse(text.decode(entry[2]));
  }
  if (!found.recipe) throw new Error("this ONNX file was not exported by gapcam");
  return found;
}

/** The [number, value] of each field of one protobuf message; messages inside stay bytes. */
function* protobufFields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let unit = 1; at < bytes.length; unit *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * unit; // a shift would lose what is beyond 32 bits
      if (byte < 128) return value;
    }
    throw new Error("not an ONNX file, or one cut short");
  };
  const take = (length) => {
    if (at + length > bytes.length) throw new Error("not an ONNX file, or one cut short");
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const tag = varint();
    const wire = tag % 8;
    if (![0, 1, 2, 5].includes(wire)) throw new Error("not an ONNX file");
    const value = wire === 0 ? varint() : take(wire === 2 ? varint() : wire === 1 ? 8 : 4);
    yield [Math.floor(tag / 8), value];
  }
}

/** A model from a file's bytes (Uint8Array): { session, card }. */
export async function loadModel(ort, bytes) {
  const card = readMetadata(bytes);
  const options = { executionProviders: ["wasm"], logSeverityLevel: 3 }; // errors only
  const session = await ort.InferenceSession.create(bytes, options);
  const { recipe } = card;
  if (recipe.refine !== "none" && !session.outputNames.includes("top_refined")) {
    throw new Error(`recipe "${recipe.name}" takes two passes: export a recipe of one pass`);
  }
  return { session, card };
}

/** A model from an address. */
export async function fetchModel(ort, url) {
  const answer = await fetch(url);
  if (!answer.ok) {
    throw new Error(`${url}: no model file there (${answer.status}). gapcam export makes one.`);
  }
  return loadModel(ort, new Uint8Array(await answer.arrayBuffer()));
}

// ---- the picture -----------------------------------------------------------------------------

/**
 * A picture file (Blob), upright, on white: { data, rows, columns, height, width, bitmap }.
 * `data` is RGBA bytes of `rows` x `columns`; `height` and `width` are the picture's own, which
 * boxes are in. They differ for huge pictures only.
 */
export async function readPicture(blob) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  const bitmap = await createImageBitmap(blob, options);
  const shrink = Math.min(1, LONGEST_SIDE / Math.max(bitmap.height, bitmap.width));
  const rows = Math.max(1, Math.round(bitmap.height * shrink));
  const columns = Math.max(1, Math.round(bitmap.width * shrink));
  const canvas = new OffscreenCanvas(columns, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, columns, rows);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, columns, rows);
  const { data } = context.getImageData(0, 0, columns, rows);
  return { data, rows, columns, height: bitmap.height, width: bitmap.width, bitmap };
}

/**
 * Squash RGBA bytes to the network's input, RGB bytes: antialiased bilinear, aspect ignored.
 * The same numbers as Pillow's, to one level; a canvas's own differ from browser to browser.
 */
export function squash({ data, rows, columns }, [height, width]) {
  const narrow = new Uint8Array(rows * width * 3);
  antialiasedTaps(columns, width).forEach(({ first, weights }, x) => {
    for (let y = 0; y < rows; y++) {
      for (let channel = 0; channel < 3; channel++) {
        const at = (y * columns + first) * 4 + channel;
        narrow[(y * width + x) * 3 + channel] = weighted(data, at, 4, weights);
      }
    }
  });
  const small = new Uint8Array(height * width * 3);
  antialiasedTaps(rows, height).forEach(({ first, weights }, y) => {
    for (let i = 0; i < width * 3; i++) {
      small[y * width * 3 + i] = weighted(narrow, first * width * 3 + i, width * 3, weights);
    }
  });
  return small;
}

const UNIT = 2 ** 22; // weights are whole numbers of 1/UNIT, as Pillow's

function antialiasedTaps(nIn, nOut) {
  const scale = nIn / nOut;
  const reach = Math.max(scale, 1);
  return Array.from({ length: nOut }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const last = Math.min(Math.trunc(centre + reach + 0.5), nIn);
    const shares = Array.from({ length: last - first }, (_, k) =>
      Math.max(1 - Math.abs((first + k - centre + 0.5) / reach), 0),
    );
    const total = shares.reduce((sum, share) => sum + share, 0);
    return { first, weights: shares.map((share) => Math.floor((share / total) * UNIT + 0.5)) };
  });
}

function weighted(values, at, step, weights) {
  let sum = UNIT / 2;
  for (let k = 0; k < weights.length; k++) sum += values[at + k * step] * weights[k];
  return Math.min(Math.floor(sum / UNIT), 255);
}

// ---- the network -----------------------------------------------------------------------------

/** One forward pass over RGB bytes of the input size: logits, classes, maps, evidence, bias. */
export async function run(ort, { session, card }, pixels) {
  const [height, width] = card.input_size_hw;
  const images = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  const wanted = ["logits", "top_classes", "top_maps", "top_refined", "head_bias"];
  const names = wanted.filter((name) => session.outputNames.includes(name));
  const outputs = await session.run({ images }, names);
  const maps = planes(outputs.top_maps);
  return {
    logits: outputs.logits.data,
    classes: Array.from(outputs.top_classes.data, Number),
    maps, // raw class maps: signed, logit units
    evidence: outputs.top_refined ? planes(outputs.top_refined) : maps,
    bias: outputs.head_bias?.data,
  };
}

function planes({ data, dims }) {
  const [, count, height, width] = dims;
  const size = height * width;
  return Array.from({ length: count }, (_, i) => ({
    data: data.slice(i * size, (i + 1) * size),
    height,
    width,
  }));
}

/** Probabilities of logits: softmax, or sigmoid where classes go together. */
export function probabilities(logits, rule) {
  if (rule === "sigmoid" || logits.length === 1) {
    return Array.from(logits, (logit) => 1 / (1 + Math.exp(-logit)));
  }
  const highest = maximum(logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - highest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

/** What is in a picture and where: one object for each of the best classes, best first. */
export async function localize(ort, model, picture) {
  const { input_size_hw: size, labels, placeless, recipe } = model.card;
  const seen = await run(ort, model, squash(picture, size));
  const scores = probabilities(seen.logits, model.card.scores);
  return seen.classes.map((classId, i) => {
    const heat = heatOf(seen.evidence[i], seen.maps[i], recipe);
    if (placeless.includes(classId)) heat.data.fill(0); // it means that nothing is there
    const mean = seen.maps[i].data.reduce((sum, x) => sum + x, 0) / seen.maps[i].data.length;
    return {
      classId,
      label: labels[classId],
      score: scores[classId],
      logit: seen.logits[classId],
      explained: seen.bias ? mean + seen.bias[classId] : null, // the logit, where maps are exact
      map: seen.maps[i],
      heat,
      box: boxOf(heat, recipe.threshold, picture),
    };
  });
}

// ---- maps, heat and boxes --------------------------------------------------------------------

/**
 * Evidence as heat in 0..1, on the grid that is cut. A class whose map is nowhere positive has no
 * heat: it is never stretched into a hot spot.
 */
export function heatOf(evidence, map, recipe) {
  const [height, width] = recipe.input_size_hw.map((side) => Math.floor(side / GRID_STRIDE));
  const plane = resample(evidence, height, width, recipe.upsample);
  const high = maximum(plane.data);
  if (maximum(map.data) <= 0 || high <= 0) {
    return { height, width, data: new Float64Array(height * width) };
  }
  const low = lowest(plane.data, recipe);
  const peak = high - (low < high ? low : 0);
  const data = plane.data.map((x) => Math.max(x - (low < high ? low : 0), 0) / peak);
  return { height, width, data };
}

function lowest(values, recipe) {
  if (recipe.normalize === "max") return 0;
  const sorted = Float64Array.from(values).sort();
  if (recipe.normalize === "minmax" || sorted[0] === sorted.at(-1)) return sorted[0];
  const at = recipe.ivr_percentile * (sorted.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}

/** A plane on another grid; kind is "bilinear" or "bicubic" (a = -0.75), edges are repeated. */
export function resample(plane, height, width, kind) {
  const across = taps(plane.width, width, kind);
  const down = taps(plane.height, height, kind);
  const wide = new Float64Array(plane.height * width);
  for (let y = 0; y < plane.height; y++) {
    for (let x = 0; x < width; x++) {
      for (const [cell, weight] of across[x]) {
        wide[y * width + x] += weight * plane.data[y * plane.width + cell];
      }
    }
  }
  const data = new Float64Array(height * width);
  for (let y = 0; y < height; y++) {
    for (const [cell, weight] of down[y]) {
      for (let x = 0; x < width; x++) data[y * width + x] += weight * wide[cell * width + x];
    }
  }
  return { data, height, width };
}

function taps(nIn, nOut, kind) {
  const offsets = kind === "bilinear" ? [0, 1] : [-1, 0, 1, 2];
  const weight = kind === "bilinear" ? (d) => 1 - d : cubic;
  return Array.from({ length: nOut }, (_, i) => {
    const at = ((i + 0.5) * nIn) / nOut - 0.5;
    const first = Math.floor(at);
    return offsets.map((offset) => [
      Math.min(Math.max(first + offset, 0), nIn - 1),
      weight(Math.abs(at - first - offset)),
    ]);
  });
}

function cubic(d) {
  return d <= 1 ? (1.25 * d - 2.25) * d * d + 1 : -0.75 * (((d - 5) * d + 8) * d - 4);
}

/** The box around the largest region above the threshold, in the picture's pixels, or null. */
export function boxOf(heat, threshold, picture) {
  const region = largestRegion(heat, threshold);
  if (!region) return null;
  const { height, width } = heat;
  const edge = (steps, lines, index) => firstEdge(steps, lines, index, heat, region, threshold);
  const x0 = edge(width, height, (x, y) => y * width + x);
  const y0 = edge(height, width, (y, x) => y * width + x);
  const x1 = width - edge(width, height, (x, y) => y * width + width - 1 - x);
  const y1 = height - edge(height, width, (y, x) => (height - 1 - y) * width + x);
  const [across, along] = [picture.width / width, picture.height / height];
  return [x0 * across, y0 * along, x1 * across, y1 * along];
}

/** The cells of the largest region above the threshold (corners connect), as a Set, or null. */
function largestRegion({ data, height, width }, threshold) {
  const left = Array.from(data, (value) => value > threshold);
  let best = [];
  for (let start = 0; start < data.length; start++) {
    if (!left[start]) continue;
    left[start] = false;
    const found = [start]; // grows while it is read
    for (let i = 0; i < found.length; i++) {
      const [x, y] = [found[i] % width, Math.floor(found[i] / width)];
      for (let row = Math.max(y - 1, 0); row <= Math.min(y + 1, height - 1); row++) {
        for (let column = Math.max(x - 1, 0); column <= Math.min(x + 1, width - 1); column++) {
          const cell = row * width + column;
          if (left[cell]) found.push(cell);
          left[cell] = false;
        }
      }
    }
    if (found.length > best.length) best = found;
  }
  return best.length ? new Set(best) : null;
}

/**
 * Where a region begins along one axis, in cells. Between two samples heat is a straight line, so
 * the side lies where that line crosses the threshold; beyond the outermost ones it stays.
 */
function firstEdge(steps, lines, index, { data }, region, threshold) {
  for (let step = 0; step < steps; step++) {
    let share = -1;
    for (let line = 0; line < lines; line++) {
      if (!region.has(index(step, line))) continue;
      if (step === 0) return 0;
      const inner = data[index(step, line)];
      const outer = data[index(step - 1, line)];
      share = Math.max(share, (inner - threshold) / (inner - outer));
    }
    if (share >= 0) return step + 0.5 - share;
  }
  return steps;
}

function maximum(values) {
  return values.reduce((highest, x) => Math.max(highest, x), -Infinity);
}

// ---- colours ---------------------------------------------------------------------------------

/** The upper three quarters of matplotlib's "inferno". */
const COLOURS = [
  [87, 16, 110],
  [188, 55, 84],
  [249, 142, 9],
  [252, 255, 164],
];

/** Heat as ImageData of a size: its opacity rises with the heat, so cold parts stay clear. */
export function colourHeat(heat, height, width, opacity = 0.7) {
  const { data } = resample(heat, height, width, "bilinear");
  const image = new ImageData(width, height);
  data.forEach((value, i) => {
    const at = Math.min(Math.max(value, 0), 1) * (COLOURS.length - 1);
    const below = Math.min(Math.floor(at), COLOURS.length - 2);
    for (let channel = 0; channel < 3; channel++) {
      const [low, high] = [COLOURS[below][channel], COLOURS[below + 1][channel]];
      image.data[i * 4 + channel] = low + (high - low) * (at - below);
    }
    image.data[i * 4 + 3] = 255 * opacity * value;
  });
  return image;
}
