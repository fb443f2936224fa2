/**
 * Class maps to evidence, and evidence to heat: gapcam's refine.py, maps.py and resample.py.
 * A plane is { data, height, width }: numbers in rows. Resizing has half-pixel centres throughout.
 */

/** Input pixels between the samples that a map is cut on. */
const GRID_STRIDE = 4;

const TINY = 1e-12;

/**
 * What the recipe makes of a class's raw map: spread over places that look alike where it refines,
 * and averaged with the second pass where it has two. The maps must be in `seen`.
 */
export function evidenceOf(seen, classId, recipe) {
  const first = refined(seen.maps.get(classId), seen.similarity, recipe);
  if (!recipe.evidence_size_hw) return first;
  return fuse(first, refined(seen.finer.get(classId), seen.similarity, recipe));
}

function refined(map, similarity, recipe) {
  return recipe.refine === "affinity" ? spread(map, similarity) : map;
}

/** The positive part of a map, averaged over the places that are similar to each. */
function spread(map, similarity) {
  const { height, width } = similarity;
  const places = height * width;
  const data = new Float64Array(places);
  if (maximum(map.data) <= 0) return { data, height, width };
  const seeds = resample(map, height, width, "bicubic").data;
  const { data: alike, sums } = withSums(similarity);
  for (let from = 0; from < places; from++) {
    const seed = seeds[from];
    if (seed <= 0) continue;
    for (let to = 0; to < places; to++) data[to] += seed * alike[from * places + to];
  }
  for (let to = 0; to < places; to++) data[to] /= sums[to];
  return { data, height, width };
}

const known = new WeakMap();

/** A similarity with the sums of its rows (as it is symmetric: of its columns), made once. */
function withSums(similarity) {
  if (!known.has(similarity)) {
    const { data } = similarity;
    const places = similarity.height * similarity.width;
    const sums = new Float64Array(places);
    for (let i = 0; i < data.length; i++) sums[i % places] += data[i];
    known.set(similarity, { data, sums: sums.map((sum) => Math.max(sum, TINY)) });
  }
  return known.get(similarity);
}

/** The average of two passes' evidence on the first's grid, each scaled to peak at 1. */
function fuse(first, second) {
  const { height, width } = first;
  const same = second.height === height && second.width === width;
  const other = same ? second : resample(second, height, width, "bicubic");
  const [one, two] = [first, other].map(({ data }) => Math.max(maximum(data), 0) || Infinity);
  const data = new Float64Array(height * width);
  for (let i = 0; i < data.length; i++) {
    data[i] = (Math.max(first.data[i], 0) / one + Math.max(other.data[i], 0) / two) / 2;
  }
  return { data, height, width };
}

/**
 * Evidence as heat in 0..1, on the grid that is cut. A class whose map is nowhere positive has no
 * heat: it is never stretched into a hot spot.
 */
export function heatOf(evidence, map, recipe) {
  const [height, width] = recipe.input_size_hw.map((side) => Math.floor(side / GRID_STRIDE));
  const plane = resample(evidence, height, width, recipe.upsample);
  const high = maximum(plane.data);
  if (maximum(map.data) <= 0 || high <= 0) {
    return { height, width, data: new Float32Array(height * width) };
  }
  const low = lowest(plane.data, recipe);
  const base = low < high ? low : 0;
  const data = new Float32Array(height * width);
  for (let i = 0; i < data.length; i++) data[i] = Math.max(plane.data[i] - base, 0) / (high - base);
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

const made = new Map();

function taps(nIn, nOut, kind) {
  const key = `${nIn} ${nOut} ${kind}`;
  if (!made.has(key)) {
    const offsets = kind === "bilinear" ? [0, 1] : [-1, 0, 1, 2];
    const weight = kind === "bilinear" ? (d) => 1 - d : cubic;
    const list = Array.from({ length: nOut }, (_, i) => {
      const at = ((i + 0.5) * nIn) / nOut - 0.5;
      const first = Math.floor(at);
      return offsets.map((offset) => [
        Math.min(Math.max(first + offset, 0), nIn - 1),
        weight(Math.abs(at - first - offset)),
      ]);
    });
    made.set(key, list);
  }
  return made.get(key);
}

function cubic(d) {
  return d <= 1 ? (1.25 * d - 2.25) * d * d + 1 : -0.75 * (((d - 5) * d + 8) * d - 4);
}

/** A plane's value at a point, bilinear; `u` and `v` are shares of its width and height, 0..1. */
export function valueAt({ data, height, width }, u, v) {
  const x = Math.min(Math.max(u * width - 0.5, 0), width - 1);
  const y = Math.min(Math.max(v * height - 0.5, 0), height - 1);
  const [left, top] = [Math.floor(x), Math.floor(y)];
  const [right, low] = [Math.min(left + 1, width - 1), Math.min(top + 1, height - 1)];
  const [a, b] = [x - left, y - top];
  return (
    (1 - b) * ((1 - a) * data[top * width + left] + a * data[top * width + right]) +
    b * ((1 - a) * data[low * width + left] + a * data[low * width + right])
  );
}

export function mean(values) {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return sum / values.length;
}

export function maximum(values) {
  let highest = -Infinity;
  for (let i = 0; i < values.length; i++) if (values[i] > highest) highest = values[i];
  return highest;
}
