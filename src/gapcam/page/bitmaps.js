/** Picture files to what the page draws. */

/** The longest side that is kept for drawing, and the side of a thumbnail. */
const LONGEST = 2048;
const THUMB = 112;

/** A picture upright, at most `longest` on a side: an ImageBitmap. Throws where it is none. */
export async function openBitmap(blob, longest = LONGEST) {
  const whole = await createImageBitmap(blob, { imageOrientation: "from-image" });
  const shrink = longest / Math.max(whole.width, whole.height);
  if (shrink >= 1) return whole;
  const [width, height] = [whole.width, whole.height].map((side) =>
    Math.max(1, Math.round(side * shrink)),
  );
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(whole, 0, 0, width, height);
  whole.close();
  return canvas.transferToImageBitmap();
}

/** A square out of the middle, on white; plain grey for what cannot be drawn. */
export function makeThumb(bitmap) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = THUMB;
  const pen = canvas.getContext("2d");
  pen.fillStyle = bitmap ? "#fff" : "#77777f";
  pen.fillRect(0, 0, THUMB, THUMB);
  if (!bitmap) return canvas;
  const side = Math.min(bitmap.width, bitmap.height);
  const [x, y] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, x, y, side, side, 0, 0, THUMB, THUMB);
  return canvas;
}

/** The whole picture, squashed to a square: what small maps are drawn over. */
export function makeSquare(bitmap) {
  const canvas = new OffscreenCanvas(THUMB, THUMB);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, THUMB, THUMB);
  pen.drawImage(bitmap, 0, 0, THUMB, THUMB);
  return canvas;
}
