/**
 * Heat to regions and boxes: gapcam's boxes.py. Between its samples heat is bilinear, so a side
 * lies where a straight line crosses the threshold; beyond the outermost samples it is constant.
 */

import { around } from "./grid.js";
import { partBoxes, splitComponents } from "./instances.js";
import { releasedBoxes } from "./released.js";

/** The box around the largest region above the threshold, in the picture's pixels, or null. */
export function boxOf(heat, threshold, picture) {
  const [region] = findRegions(heat, { components: "largest", threshold }).regions;
  return region ? scaleBox(region.box, heat, picture) : null;
}

/**
 * The regions that the recipe keeps, largest first: { labels, split, regions }. A region is
 * { box, peak, area, label }: box and peak in grid units, and the cells of `labels` that hold its
 * number. `labels` is null with `released`, whose boxes need not be components; `split` says that
 * components are split into parts.
 */
export function findRegions(heat, recipe) {
  if (recipe.components === "released") {
    return { labels: null, split: false, regions: releasedBoxes(heat, recipe.threshold) };
  }
  const whole = components(heat, recipe.threshold);
  const splits = recipe.components === "instances" && whole.count > 0;
  const parts = splits ? splitComponents(heat, recipe, whole.count) : null;
  const { labels, count } = parts ?? whole;
  const regions = measure(heat, labels, count);
  const boxes = parts ? partBoxes(heat, parts, recipe.threshold) : null;
  const kept = choose(regions, recipe);
  for (const region of kept) {
    region.box = boxes
      ? boxes[region.label - 1]
      : exactBox(heat, labels, region.label, recipe.threshold);
  }
  return { labels, split: parts !== null, regions: kept };
}

/** A box in grid units, in pixels of the picture. */
export function scaleBox([x0, y0, x1, y1], grid, picture) {
  const [across, down] = [picture.width / grid.width, picture.height / grid.height];
  return [x0 * across, y0 * down, x1 * across, y1 * down];
}

/** The connected cells above the threshold (corners connect): their numbers from 1, else 0. */
function components({ data, height, width }, threshold) {
  const cut = Math.fround(threshold);
  const labels = new Int32Array(data.length);
  let count = 0;
  for (let start = 0; start < data.length; start++) {
    if (labels[start] || !(data[start] > cut)) continue;
    labels[start] = ++count;
    const found = [start]; // grows while it is read
    for (let i = 0; i < found.length; i++) {
      for (const cell of around(found[i], height, width)) {
        if (labels[cell] || !(data[cell] > cut)) continue;
        labels[cell] = count;
        found.push(cell);
      }
    }
  }
  return { labels, count };
}

function measure({ data, width }, labels, count) {
  const regions = Array.from({ length: count }, (_, i) => ({ label: i + 1, area: 0, high: -1 }));
  for (let cell = 0; cell < labels.length; cell++) {
    if (!labels[cell]) continue;
    const region = regions[labels[cell] - 1];
    region.area++;
    if (data[cell] > region.high) {
      region.high = data[cell];
      region.peak = [(cell % width) + 0.5, Math.floor(cell / width) + 0.5];
    }
  }
  return regions;
}

/** Largest first; of two as large the hotter. */
function choose(regions, recipe) {
  const order = regions.sort((a, b) => b.area - a.area || b.high - a.high);
  if (recipe.components === "largest" || !order.length) return order.slice(0, 1);
  const total = order.reduce((sum, { area }) => sum + area, 0);
  const least = Math.min(recipe.min_area_share * total, order[0].area);
  return order.filter(({ area }) => area >= least);
}

function exactBox({ data, height, width }, labels, label, threshold) {
  const edge = (steps, lines, index) =>
    firstEdge(steps, lines, index, data, labels, label, threshold);
  return [
    edge(width, height, (x, y) => y * width + x),
    edge(height, width, (y, x) => y * width + x),
    width - edge(width, height, (x, y) => y * width + width - 1 - x),
    height - edge(height, width, (y, x) => (height - 1 - y) * width + x),
  ];
}

/** Where a region begins along one axis, in cells. */
function firstEdge(steps, lines, index, data, labels, label, threshold) {
  for (let step = 0; step < steps; step++) {
    let share = -1;
    for (let line = 0; line < lines; line++) {
      if (labels[index(step, line)] !== label) continue;
      if (step === 0) return 0;
      const inner = data[index(step, line)];
      const outer = data[index(step - 1, line)];
      share = Math.max(share, (inner - threshold) / (inner - outer));
    }
    if (share >= 0) return step + 0.5 - share;
  }
  return steps;
}
