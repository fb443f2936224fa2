/** What the maps of a looked-at picture say: heat, regions and boxes, ranks, what is at a point. */

import { findRegions, scaleBox } from "./boxes.js";
import { evidenceOf, heatOf, maximum, mean, valueAt } from "./maps.js";

/** How many classes' heat is kept for each picture. */
const KEPT = 64;

/** Half a step of the 16-bit numbers that maps travel in, as a share. */
const ROUNDING = 2 ** -11;

export function createAnswers(model) {
  const { recipe } = model;
  const placeless = new Set(model.placeless);
  const heats = new WeakMap();
  const places = new WeakMap();

  /** The heat of a class; all zero where nothing speaks for it. */
  function heat(seen, classId) {
    if (!heats.has(seen)) heats.set(seen, new Map());
    const kept = heats.get(seen);
    if (!kept.has(classId)) {
      if (kept.size >= KEPT) kept.delete(kept.keys().next().value);
      const made = heatOf(evidenceOf(seen, classId, recipe), seen.maps.get(classId), recipe);
      if (placeless.has(classId)) made.data.fill(0); // it means that nothing is there
      kept.set(classId, made);
    }
    return kept.get(classId);
  }

  /** Where a class is: { heat, threshold, labels, regions }, in pixels of the picture. */
  function place(seen, classId, threshold) {
    const hot = heat(seen, classId);
    const last = places.get(hot);
    if (last?.threshold === threshold) return last;
    const { labels, split, regions } = findRegions(hot, { ...recipe, threshold });
    const found = {
      ...{ heat: hot, threshold, labels, split },
      regions: regions.map(({ box, peak, label }) => ({
        label,
        box: scaleBox(box, hot, seen),
        peak: scaleBox([...peak, ...peak], hot, seen).slice(0, 2),
      })),
    };
    places.set(hot, found);
    return found;
  }

  /** The classes with the highest maps at a point: [{ classId, value }], logit units. */
  function strongest(seen, { u, v }, count) {
    const all = Array.from(seen.maps.keys(), (classId) => ({
      classId,
      value: valueAt(seen.maps.get(classId), u, v),
    }));
    return all.sort((a, b) => b.value - a.value || a.classId - b.classId).slice(0, count);
  }

  /** The proof for one class: mean of the map + bias = logit. `bias` is null where unknown. */
  function proof(seen, classId) {
    const { data } = seen.maps.get(classId);
    const average = mean(data);
    const logit = seen.logits[classId];
    const bias = model.bias?.[classId] ?? null;
    const gap = bias === null ? null : average + bias - logit;
    const size = maximum(data.map(Math.abs));
    const range = maximum(seen.logits) + maximum(seen.logits.map((x) => -x));
    const equal = gap !== null && Math.abs(gap) <= 1e-4 * Math.max(range, 1) + ROUNDING * size;
    return { average, bias, logit, gap, equal };
  }

  return {
    ...{ heat, place, strongest, proof },
    knows: (seen, classId) => seen.maps.has(classId),
    isPlaceless: (classId) => placeless.has(classId),
    nothing: (seen, classId) => maximum(heat(seen, classId).data) <= 0,
  };
}
