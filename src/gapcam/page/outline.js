/** The outline of the regions {heat > threshold}, as lines between the samples. */

import { between, quadrants } from "./instances.js";

/** A Path2D over a canvas of a size. Cells of regions that are not kept count as cold. */
export function outlineOf(place, width, height) {
  const { heat, labels, regions, threshold } = place;
  const kept = new Set(regions.map(({ label }) => label));
  const leftOut = (cell) => labels && labels[cell] && !kept.has(labels[cell]);
  const value = (x, y) => {
    if (x < 0 || y < 0 || x > heat.width + 1 || y > heat.height + 1) return 0;
    const column = Math.min(Math.max(x - 1, 0), heat.width - 1);
    const row = Math.min(Math.max(y - 1, 0), heat.height - 1);
    const cell = row * heat.width + column;
    return leftOut(cell) ? 0 : heat.data[cell];
  };
  // Samples lie at cell centres; beyond the outermost ones heat is constant up to the border.
  const at = (i, cells, pixels) => (Math.min(Math.max(i - 0.5, 0), cells) / cells) * pixels;
  const path = new Path2D();
  for (let y = -1; y <= heat.height + 1; y++) {
    for (let x = -1; x <= heat.width + 1; x++) {
      const corners = [
        [x, y],
        [x + 1, y],
        [x + 1, y + 1],
        [x, y + 1],
      ];
      const values = corners.map(([i, j]) => value(i, j));
      if (values.every((one) => one > threshold === values[0] > threshold)) continue;
      const points = [];
      for (let side = 0; side < 4; side++) {
        const [a, b] = [values[side], values[(side + 1) % 4]];
        if (a > threshold === b > threshold) continue;
        const share = (threshold - a) / (b - a);
        const [[ax, ay], [bx, by]] = [corners[side], corners[(side + 1) % 4]].map(([i, j]) => [
          at(i, heat.width, width),
          at(j, heat.height, height),
        ]);
        points.push([ax + share * (bx - ax), ay + share * (by - ay)]);
      }
      if (points.length === 4 && values[0] <= threshold) points.push(points.shift());
      for (let i = 0; i + 1 < points.length; i += 2) {
        path.moveTo(...points[i]);
        path.lineTo(...points[i + 1]);
      }
    }
  }
  if (place.split) divide(path, place, width, height);
  return path;
}

/** Adds the lines on which the parts of a component meet: between quarters of cells. */
function divide(path, { heat, labels, threshold }, width, height) {
  const owner = quadrants(heat, labels);
  const [columns, rows] = [2 * heat.width, 2 * heat.height];
  const hot = (x, y) => between(heat, x / 2, y / 2) > threshold;
  const add = (one, other, from, to) => {
    if (owner[one] === owner[other] || !owner[one] || !owner[other]) return;
    if (!hot(...from) && !hot(...to)) return;
    path.moveTo((from[0] / columns) * width, (from[1] / rows) * height);
    path.lineTo((to[0] / columns) * width, (to[1] / rows) * height);
  };
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const at = y * columns + x;
      if (x + 1 < columns) add(at, at + 1, [x + 1, y], [x + 1, y + 1]);
      if (y + 1 < rows) add(at, at + columns, [x, y + 1], [x + 1, y + 1]);
    }
  }
}
