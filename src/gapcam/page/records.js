/** Looked-at pictures as records and as COCO: what gapcam's formats.py writes. */

import { chosenClasses, thresholdOf } from "./state.js";

const rounded = (value, digits) => Number(value.toFixed(digits));
const inPixels = (values) => values.map((value) => rounded(value, 2));

/** The record of a picture: its best classes, and those that the page shows of it. */
export function toRecord(picture, state, answers) {
  const { model } = state;
  const { seen, name, ranked } = picture;
  const threshold = thresholdOf(state);
  const asked = chosenClasses(picture).slice(0, state.compare ? 2 : 1);
  const classes = [...new Set([...ranked.slice(0, model.recipe.top), ...asked])];
  const notes = [...seen.notes];
  if (threshold !== model.recipe.threshold) {
    const own = rounded(model.recipe.threshold, 4);
    notes.push(`cut at ${rounded(threshold, 4)} instead of the recipe's ${own}`);
  }
  const detections = classes
    .filter((classId) => answers.knows(seen, classId))
    .flatMap((classId) => {
      const score = rounded(seen.scores[classId], 6);
      const of = { label: model.labels[classId], class_id: classId, score };
      const { regions } = answers.place(seen, classId, threshold);
      if (!regions.length) return [{ ...of, box: null, peak: null }];
      return regions.map(({ box, peak }) => ({ ...of, box: inPixels(box), peak: inPixels(peak) }));
    });
  return {
    ...{ path: name, width: seen.width, height: seen.height },
    ...{ model: model.name, recipe: model.recipe.name, detections },
    ...(notes.length ? { notes } : {}),
  };
}

/** A COCO data set of records. */
export function toCoco(records, labels) {
  const annotations = [];
  records.forEach(({ detections }, i) => {
    for (const { class_id: classId, score, box } of detections) {
      if (!box) continue;
      const [width, height] = [rounded(box[2] - box[0], 2), rounded(box[3] - box[1], 2)];
      annotations.push({
        ...{ id: annotations.length + 1, image_id: i + 1, category_id: classId + 1 },
        ...{ bbox: [box[0], box[1], width, height], area: rounded(width * height, 2) },
        ...{ iscrowd: 0, score },
      });
    }
  });
  return {
    info: { description: "gapcam" },
    annotations,
    images: records.map(({ path, width, height }, i) => ({
      id: i + 1,
      file_name: path,
      width,
      height,
    })),
    categories: labels.map((name, i) => ({ id: i + 1, name })),
  };
}
