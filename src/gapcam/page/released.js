/**
 * The box rule of the code that was released with the paper: gapcam's dt_box.py, which says what
 * it does and why. It runs on a raster, as it counts in pixels.
 */

import { maximum, resample } from "./maps.js";

/** The three thresholds, as multiples of the first. */
const RATIOS = [1, 5, 5.5];
const RASTER_SIDE = 500;
/** How many pixels at the right and at the bottom no rectangle enters. */
const MARGIN = 5;

/** The boxes of a heat map, largest first: { box, peak, area } in grid units. */
export function releasedBoxes(heat, threshold) {
  const raster = {
    height: Math.max(RASTER_SIDE, heat.height),
    width: Math.max(RASTER_SIDE, heat.width),
  };
  const large = resample(heat, raster.height, raster.width, "bilinear").data;
  const peak = maximum(large);
  if (peak <= 0) return [];
  const levels = large.map((value) => Math.floor((value / peak) * 255 + 0.5));
  const found = RATIOS.flatMap((ratio) => {
    const cut = Math.round(255 * ratio * threshold);
    const hot = new Uint8Array(levels.length);
    for (let i = 0; i < hot.length; i++) hot[i] = levels[i] > cut ? 1 : 0;
    return rectangles(eroded(hot, raster), raster).sort(
      (a, b) => a.y0 - b.y0 || a.x0 - b.x0 || a.y1 - b.y1 || a.x1 - b.x1,
    );
  });
  found.sort((a, b) => areaOf(b) - areaOf(a));
  return merged(found).map((rectangle) => onGrid(rectangle, heat, raster));
}

const areaOf = ({ x0, y0, x1, y1 }) => (x1 - x0) * (y1 - y0);

/** The pixels whose distance to the cold ones is at least 10.5/255 of the largest there is. */
function eroded(hot, raster) {
  if (!hot.includes(0) || !hot.includes(1)) return hot;
  const squared = squaredDistances(hot, raster);
  const least = Math.ceil((441 * maximum(squared)) / 260100);
  return hot.map((value, i) => (squared[i] >= least ? value : 0));
}

/** Squared Euclidean distance of each pixel to the nearest cold one: columns, then rows. */
function squaredDistances(hot, { height, width }) {
  const squared = new Float64Array(hot.length).fill(height + width);
  for (let i = 0; i < hot.length; i++) {
    if (!hot[i]) squared[i] = 0;
    else if (i >= width) squared[i] = squared[i - width] + 1;
  }
  for (let i = hot.length - width - 1; i >= 0; i--) {
    squared[i] = Math.min(squared[i], squared[i + width] + 1);
  }
  for (let i = 0; i < squared.length; i++) squared[i] *= squared[i];
  for (let y = 0; y < height; y++) lowerEnvelope(squared.subarray(y * width, (y + 1) * width));
  return squared;
}

/** In place: the lowest at each place of the parabolas that stand on the values of a row. */
function lowerEnvelope(row) {
  const values = row.slice();
  const centres = new Int32Array(row.length);
  const starts = new Float64Array(row.length);
  const meet = (a, b) => (values[b] + b * b - values[a] - a * a) / (2 * (b - a));
  let last = 0;
  starts[0] = -Infinity;
  for (let x = 1; x < row.length; x++) {
    while (last > 0 && meet(centres[last], x) <= starts[last]) last--;
    starts[last + 1] = meet(centres[last], x);
    centres[++last] = x;
  }
  for (let x = 0, at = 0; x < row.length; x++) {
    while (at < last && starts[at + 1] < x) at++;
    row[x] = (x - centres[at]) ** 2 + values[centres[at]];
  }
}

/** Around each region (connected at sides and corners) and each hole (at sides), clipped. */
function rectangles(kept, { height, width }) {
  const found = [];
  const cold = kept.map((value) => 1 - value);
  for (const [plane, corners, rim] of [
    [kept, true, 0],
    [cold, false, 1],
  ]) {
    for (const part of parts(plane, height, width, corners)) {
      const outside = part.x0 === 0 || part.y0 === 0 || part.x1 === width || part.y1 === height;
      if (rim && outside) continue; // a cold region at the border is outside, no hole
      const x1 = Math.min(part.x1 + rim, width - MARGIN);
      const y1 = Math.min(part.y1 + rim, height - MARGIN);
      const [x0, y0] = [part.x0 - rim, part.y0 - rim];
      if (x0 < x1 && y0 < y1) found.push({ x0, y0, x1, y1, pixels: part.pixels });
    }
  }
  return found;
}

/** Bounds of the connected parts of a plane, from its rows' runs. */
function parts(plane, height, width, corners) {
  const reach = corners ? 1 : 0;
  const roots = [];
  const rootOf = (i) => (roots[i] === i ? i : (roots[i] = rootOf(roots[i])));
  const runs = [];
  let above = 0; // the first run of the row above
  for (let y = 0; y < height; y++) {
    const first = runs.length;
    let near = above;
    for (let x = 0; x < width; x++) {
      if (!plane[y * width + x]) continue;
      const x0 = x;
      while (x < width && plane[y * width + x]) x++;
      const own = runs.push({ x0, x1: x, y }) - 1;
      roots.push(own);
      while (near < first && runs[near].x1 + reach <= x0) near++;
      for (let i = near; i < first && runs[i].x0 < x + reach; i++) roots[rootOf(i)] = rootOf(own);
    }
    above = first;
  }
  const found = new Map();
  runs.forEach(({ x0, x1, y }, i) => {
    const root = rootOf(i);
    const part = found.get(root) ?? { x0, y0: y, x1, y1: y + 1, pixels: 0 };
    part.x0 = Math.min(part.x0, x0);
    part.x1 = Math.max(part.x1, x1);
    part.y1 = y + 1;
    part.pixels += x1 - x0;
    found.set(root, part);
  });
  return found.values();
}

/** Drops what shares too much with a larger one; as released, an erasure skips the next. */
function merged(rectangles) {
  const left = [...rectangles];
  for (let first = 0; first < left.length; first++) {
    for (let other = first + 1; other < left.length; other++) {
      if (2 * shared(left[first], left[other]) > areaOf(left[first])) left.splice(other, 1);
    }
  }
  return left;
}

function shared(a, b) {
  const width = Math.min(a.x1, b.x1) - Math.max(a.x0, b.x0);
  const height = Math.min(a.y1, b.y1) - Math.max(a.y0, b.y0);
  return Math.max(width, 0) * Math.max(height, 0);
}

function onGrid({ x0, y0, x1, y1, pixels }, heat, raster) {
  const [along, down] = [heat.width / raster.width, heat.height / raster.height];
  const box = [x0 * along, y0 * down, x1 * along, y1 * down];
  let peak = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
  let high = -Infinity;
  for (let row = 0; row < heat.height; row++) {
    if (row + 0.5 < box[1] || row + 0.5 >= box[3]) continue;
    for (let column = 0; column < heat.width; column++) {
      if (column + 0.5 < box[0] || column + 0.5 >= box[2]) continue;
      if (heat.data[row * heat.width + column] <= high) continue;
      high = heat.data[row * heat.width + column];
      peak = [column + 0.5, row + 0.5];
    }
  }
  return { box, peak, area: Math.max(1, Math.round(pixels * along * down)) };
}
