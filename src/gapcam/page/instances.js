/**
 * One component of heat, several objects: gapcam's instances.py. A peak that rises by more than
 * the prominence above the saddle to any higher one is an object of its own; the objects grow
 * downhill until they meet, on midlines between the samples.
 */

import { around } from "./grid.js";

const LEVELS = 4;
const COLD = -2;

/** { labels, count } of the objects, the highest first, or null where no component is split. */
export function splitComponents(heat, { threshold, prominence }, components) {
  const cut = Math.fround(threshold);
  const surface = { ...heat, data: heat.data.map((value) => (value > cut ? value : COLD)) };
  const { domes, count } = findPeaks(surface, Math.fround(prominence));
  return count > components ? { labels: grow(surface, domes, count, threshold), count } : null;
}

/** The peaks' domes, numbered from 1: the cells around no lower than it less the prominence. */
function findPeaks({ data, height, width }, prominence) {
  const cells = [...data.keys()].filter((cell) => data[cell] > COLD);
  const summits = cells.filter((cell) => {
    for (const other of around(cell, height, width)) if (data[other] > data[cell]) return false;
    return true;
  });
  summits.sort((a, b) => data[b] - data[a] || a - b);
  const domes = new Int32Array(data.length);
  const seen = new Uint8Array(data.length);
  let count = 0;
  for (const summit of summits) {
    if (seen[summit]) continue;
    const dome = flood(summit, Math.fround(data[summit] - prominence), { data, height, width });
    for (const cell of dome) seen[cell] = 1;
    if (dome.some((cell) => data[cell] > data[summit])) continue;
    count++;
    for (const cell of dome) domes[cell] = count;
  }
  return { domes, count };
}

function flood(start, least, { data, height, width }) {
  const found = [start]; // grows while it is read
  const reached = new Set(found);
  for (let i = 0; i < found.length; i++) {
    for (const cell of around(found[i], height, width)) {
      if (reached.has(cell) || data[cell] < least || data[cell] <= COLD) continue;
      reached.add(cell);
      found.push(cell);
    }
  }
  return found;
}

/** The domes' numbers spread to all hot cells, the hottest first; a tie is the higher peak's. */
function grow(surface, domes, count, threshold) {
  let grown = domes.map((number) => (number ? count + 1 - number : 0));
  const high = surface.data.reduce((highest, value) => Math.max(highest, value), COLD);
  for (let step = 1; step <= LEVELS; step++) {
    const level = Math.fround(high + (threshold - high) * (step / LEVELS));
    let next = grown;
    while ((next = ring(surface, grown, level))) grown = next;
  }
  return grown.map((number) => (number ? count + 1 - number : 0));
}

/** One ring of cells more, at the same pace for all; null when none is left above the level. */
function ring({ data, height, width }, grown, level) {
  const next = grown.slice();
  let changed = false;
  for (let cell = 0; cell < data.length; cell++) {
    if (grown[cell] || !(data[cell] > level)) continue;
    for (const other of around(cell, height, width))
      next[cell] = Math.max(next[cell], grown[other]);
    changed ||= next[cell] > 0;
  }
  return changed ? next : null;
}

/** The exact box of each part on the bilinear surface, grid units. */
export function partBoxes(heat, { labels, count }, threshold) {
  const cut = Math.fround(threshold);
  const rows = heat.height * 2;
  const columns = heat.width * 2;
  const owner = quadrants(heat, labels);
  const corner = (x, y) => between(heat, x / 2, y / 2);
  const turned = (y, x) => owner[y * columns + x];
  const across = extents(rows, columns, corner, (x, y) => turned(y, x), count, cut);
  const down = extents(columns, rows, (y, x) => corner(x, y), turned, count, cut);
  return across.map(([x0, x1], i) => [x0, down[i][0], x1, down[i][1]]);
}

/** The heat at a grid point of halves, where cell i is read at i + 1/2. */
export function between({ data, height, width }, x, y) {
  const columns = [Math.ceil(x) - 1, Math.floor(x)].map((i) => Math.min(Math.max(i, 0), width - 1));
  const rows = [Math.ceil(y) - 1, Math.floor(y)].map((i) => Math.min(Math.max(i, 0), height - 1));
  let sum = 0;
  for (const row of rows) for (const column of columns) sum += data[row * width + column];
  return sum / 4;
}

/**
 * The owner of each quarter of a cell, 0 for none: the part of its cell; near others a cold one's
 * can be hot, and is then of the hottest of the three others that the surface joins there.
 */
export function quadrants({ data, height, width }, labels) {
  const owner = new Int32Array(4 * height * width);
  for (let row = 0; row < 2 * height; row++) {
    for (let column = 0; column < 2 * width; column++) {
      const [y, x] = [row >> 1, column >> 1];
      const beyondY = Math.min(Math.max(((row - 1) >> 1) + (row % 2), 0), height - 1);
      const beyondX = Math.min(Math.max(((column - 1) >> 1) + (column % 2), 0), width - 1);
      const others = [y * width + beyondX, beyondY * width + x, beyondY * width + beyondX];
      let best = labels[y * width + x];
      let top = COLD;
      if (!best) {
        for (const cell of others) {
          if (!labels[cell] || data[cell] < top) continue;
          if (data[cell] === top && labels[cell] > best) continue;
          best = labels[cell];
          top = data[cell];
        }
      }
      owner[row * 2 * width + column] = best;
    }
  }
  return owner;
}

/** Where each part begins and ends along one axis, from the heat on its quadrants' edges. */
function extents(lines, steps, corner, owner, count, cut) {
  const found = Array.from({ length: count }, () => [Infinity, -Infinity]);
  for (let line = 0; line < lines; line++) {
    for (let step = 0; step < steps; step++) {
      const part = owner(step, line);
      if (!part) continue;
      const side = found[part - 1];
      for (const edge of [line, line + 1]) {
        const [left, right] = [corner(step, edge), corner(step + 1, edge)];
        const crossing = (left - cut) / (left - right);
        if (left > cut) side[0] = Math.min(side[0], step / 2);
        else if (right > cut) side[0] = Math.min(side[0], (step + crossing) / 2);
        if (right > cut) side[1] = Math.max(side[1], (step + 1) / 2);
        else if (left > cut) side[1] = Math.max(side[1], (step + crossing) / 2);
      }
    }
  }
  return found;
}
