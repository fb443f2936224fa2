/** Picture files to pixels, and pixels to the network's input. */

/** Longer pictures are drawn at this size first: some browsers have no larger canvas. */
const LONGEST_SIDE = 4096;

/**
 * A picture file (Blob), upright, on white: { data, rows, columns, height, width, bitmap }.
 * `data` is RGBA bytes of `rows` x `columns`; `height` and `width` are the picture's own, which
 * boxes are in. They differ for huge pictures only.
 */
export async function readPicture(blob) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  const bitmap = await createImageBitmap(blob, options);
  const shrink = Math.min(1, LONGEST_SIDE / Math.max(bitmap.height, bitmap.width));
  const rows = Math.max(1, Math.round(bitmap.height * shrink));
  const columns = Math.max(1, Math.round(bitmap.width * shrink));
  const canvas = new OffscreenCanvas(columns, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, columns, rows);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, columns, rows);
  const { data } = context.getImageData(0, 0, columns, rows);
  return { data, rows, columns, height: bitmap.height, width: bitmap.width, bitmap };
}

/**
 * Squash RGBA bytes to the network's input, RGB bytes: antialiased bilinear, aspect ignored.
 * The same numbers as Pillow's, to one level; a canvas's own differ from browser to browser.
 */
export function squash({ data, rows, columns }, [height, width]) {
  const narrow = new Uint8Array(rows * width * 3);
  antialiasedTaps(columns, width).forEach(({ first, weights }, x) => {
    for (let y = 0; y < rows; y++) {
      for (let channel = 0; channel < 3; channel++) {
        const at = (y * columns + first) * 4 + channel;
        narrow[(y * width + x) * 3 + channel] = weighted(data, at, 4, weights);
      }
    }
  });
  const small = new Uint8Array(height * width * 3);
  antialiasedTaps(rows, height).forEach(({ first, weights }, y) => {
    for (let i = 0; i < width * 3; i++) {
      small[y * width * 3 + i] = weighted(narrow, first * width * 3 + i, width * 3, weights);
    }
  });
  return small;
}

const UNIT = 2 ** 22; // weights are whole numbers of 1/UNIT, as Pillow's

function antialiasedTaps(nIn, nOut) {
  const scale = nIn / nOut;
  const reach = Math.max(scale, 1);
  return Array.from({ length: nOut }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const last = Math.min(Math.trunc(centre + reach + 0.5), nIn);
    const shares = Array.from({ length: last - first }, (_, k) =>
      Math.max(1 - Math.abs((first + k - centre + 0.5) / reach), 0),
    );
    const total = shares.reduce((sum, share) => sum + share, 0);
    return { first, weights: shares.map((share) => Math.floor((share / total) * UNIT + 0.5)) };
  });
}

function weighted(values, at, step, weights) {
  let sum = UNIT / 2;
  for (let k = 0; k < weights.length; k++) sum += values[at + k * step] * weights[k];
  return Math.min(Math.floor(sum / UNIT), 255);
}
