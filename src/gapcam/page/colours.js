/** Heat to colours. */

import { resample } from "./maps.js";

/** The upper three quarters of matplotlib's "inferno". */
const STOPS = [
  [87, 16, 110],
  [188, 55, 84],
  [249, 142, 9],
  [252, 255, 164],
];

/** How much finer than the heat the coloured picture is, before the canvas scales it. */
const FINER = 4;

/** RGBA of 256 levels: opacity rises with the heat, slowly at first, so cold parts stay clear. */
const RISE = 1.5;
const LEVELS = new Uint8ClampedArray(256 * 4);
for (let level = 0; level < 256; level++) {
  const at = (level / 255) * (STOPS.length - 1);
  const below = Math.min(Math.floor(at), STOPS.length - 2);
  for (let channel = 0; channel < 3; channel++) {
    const [low, high] = [STOPS[below][channel], STOPS[below + 1][channel]];
    LEVELS[level * 4 + channel] = low + (high - low) * (at - below);
  }
  LEVELS[level * 4 + 3] = 255 * (level / 255) ** RISE;
}

/** Heat as ImageData of a size, bilinear. */
export function colourHeat(heat, height, width, opacity = 1) {
  const { data } = resample(heat, height, width, "bilinear");
  const image = new ImageData(width, height);
  for (let i = 0; i < data.length; i++) {
    const level = Math.round(255 * Math.min(Math.max(data[i], 0), 1));
    for (let channel = 0; channel < 3; channel++) {
      image.data[i * 4 + channel] = LEVELS[level * 4 + channel];
    }
    image.data[i * 4 + 3] = LEVELS[level * 4 + 3] * opacity;
  }
  return image;
}

const made = new WeakMap();

/** Heat as a small coloured canvas, made once: the canvas that it is drawn on scales it. */
export function heatCanvas(heat, finer = FINER) {
  if (!made.has(heat)) made.set(heat, {});
  const sizes = made.get(heat);
  if (!sizes[finer]) {
    sizes[finer] = new OffscreenCanvas(heat.width * finer, heat.height * finer);
    const image = colourHeat(heat, sizes[finer].height, sizes[finer].width);
    sizes[finer].getContext("2d").putImageData(image, 0, 0);
  }
  return sizes[finer];
}
