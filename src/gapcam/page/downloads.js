/** Files to keep: the picture with what is drawn over it, the record, COCO. */

import { openBitmap } from "./bitmaps.js";
import { paintPlace } from "./paint.js";
import { toCoco, toRecord } from "./records.js";

/** No side of a saved picture is longer: browsers have no larger canvas. */
const LONGEST = 8192;

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const stem = (name) => name.replace(/\.[^.]+$/, "");

/** The views of a picture side by side at its own size. `views`: [{ place, tag }]. */
export async function saveOverlay(picture, views, { show, opacity }) {
  const { width, height } = picture.seen;
  const scale = Math.min(1, LONGEST / Math.max(width * views.length, height));
  const bitmap = picture.bitmap ? await openBitmap(picture.blob, LONGEST) : null;
  const size = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const whole = new OffscreenCanvas(size[0] * views.length, size[1]);
  const unit = Math.max(0.5, Math.sqrt(size[0] * size[1]) / 600);
  views.forEach(({ place, tag }, i) => {
    const one = new OffscreenCanvas(...size);
    const pen = one.getContext("2d");
    pen.fillStyle = bitmap ? "#fff" : "#77777f";
    pen.fillRect(0, 0, ...size);
    pen.imageSmoothingQuality = "high";
    if (bitmap) pen.drawImage(bitmap, 0, 0, ...size);
    paintPlace(pen, place, picture.seen, { show, opacity, unit, tag });
    whole.getContext("2d").drawImage(one, i * size[0], 0);
  });
  bitmap?.close();
  save(await whole.convertToBlob({ type: "image/png" }), `${stem(picture.name)}_cam.png`);
}

export function saveRecord(picture, state, answers) {
  const text = `${JSON.stringify(toRecord(picture, state, answers))}\n`;
  save(new Blob([text], { type: "application/json" }), `${stem(picture.name)}.json`);
}

/** COCO of all pictures that were looked at. */
export function saveCoco(state, answers) {
  const done = state.pictures.filter(({ seen }) => seen);
  const records = done.map((picture) => toRecord(picture, state, answers));
  const text = `${JSON.stringify(toCoco(records, state.model.labels))}\n`;
  save(new Blob([text], { type: "application/json" }), "annotations.json");
}
