/** What is drawn over a picture: heat, outlines, boxes with a tag, the crosshair. */

import { heatCanvas } from "./colours.js";
import { outlineOf } from "./outline.js";

const [INK, PAPER] = ["#18181b", "#ffffff"];

/**
 * Paints over a picture that fills the canvas. `place` is where a class is (see answers.js), `size`
 * the picture's { width, height }, `show` says what, `unit` is a thin line in canvas pixels.
 */
export function paintPlace(pen, place, size, { show, opacity, unit, tag }) {
  const { width, height } = pen.canvas;
  if (show.heat && place.regions.length) {
    pen.globalAlpha = opacity;
    pen.imageSmoothingEnabled = true;
    pen.drawImage(heatCanvas(place.heat), 0, 0, width, height);
    pen.globalAlpha = 1;
  }
  if (show.outline && place.regions.length) {
    const path = outlineOf(place, width, height);
    stroke(pen, unit, () => pen.stroke(path));
  }
  if (!show.box) return;
  const boxes = place.regions.map(({ box: [x0, y0, x1, y1] }) => {
    const [across, down] = [width / size.width, height / size.height];
    return inside([x0 * across, y0 * down, x1 * across, y1 * down], width, height, unit);
  });
  for (const [x0, y0, x1, y1] of boxes.toReversed()) {
    stroke(pen, unit, () => pen.strokeRect(x0, y0, x1 - x0, y1 - y0));
  }
  if (tag && boxes.length) paintTag(pen, boxes[0], tag, unit);
}

/** A light line between two dark ones: seen on any picture. */
function stroke(pen, unit, draw) {
  pen.lineJoin = "miter";
  for (const [colour, thickness] of [
    [INK, 3.4 * unit],
    [PAPER, 1.7 * unit],
  ]) {
    pen.strokeStyle = colour;
    pen.lineWidth = thickness;
    draw();
  }
}

/** A side at the picture's border moves in so that its line can be seen. */
function inside([x0, y0, x1, y1], width, height, unit) {
  const edge = 1.7 * unit;
  return [
    Math.max(x0, edge),
    Math.max(y0, edge),
    Math.min(x1, width - edge),
    Math.min(y1, height - edge),
  ];
}

function paintTag(pen, [x0, y0, ,], text, unit) {
  const size = 12.5 * unit;
  const pad = 0.5 * size;
  const { width, height } = pen.canvas;
  if (height < 4 * size || width < 6 * size) return;
  pen.font = `600 ${size}px system-ui, sans-serif`;
  const words = shorten(pen, text, width - 4 * pad);
  const wide = pen.measureText(words).width + 2 * pad;
  const tall = 1.7 * size;
  const left = Math.max(0, Math.min(x0 - 1.7 * unit, width - wide));
  const top = y0 >= tall ? y0 - tall : y0;
  pen.fillStyle = INK;
  pen.fillRect(left, top, wide, tall);
  pen.fillStyle = PAPER;
  pen.textBaseline = "middle";
  pen.fillText(words, left + pad, top + tall / 2);
}

function shorten(pen, text, room) {
  let words = text;
  while (words.length > 1 && pen.measureText(words).width > room) {
    words = `${words.slice(0, -2)}…`;
  }
  return words;
}

/** The crosshair at a point (shares of width and height). */
export function paintCrosshair(pen, { u, v }, unit) {
  const [x, y] = [u * pen.canvas.width, v * pen.canvas.height];
  const [gap, arm] = [5 * unit, 14 * unit];
  const path = new Path2D();
  path.arc(x, y, gap, 0, 2 * Math.PI);
  for (const [dx, dy] of [
    [1, 0],
    [-1, 0],
    [0, 1],
    [0, -1],
  ]) {
    path.moveTo(x + dx * gap, y + dy * gap);
    path.lineTo(x + dx * arm, y + dy * arm);
  }
  stroke(pen, unit, () => pen.stroke(path));
}
