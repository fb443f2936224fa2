/** Cells of a grid in rows. */

/** A cell and those that touch it, at sides and corners. */
export function* around(cell, height, width) {
  const [x, y] = [cell % width, Math.floor(cell / width)];
  for (let row = Math.max(y - 1, 0); row <= Math.min(y + 1, height - 1); row++) {
    for (let column = Math.max(x - 1, 0); column <= Math.min(x + 1, width - 1); column++) {
      yield row * width + column;
    }
  }
}
