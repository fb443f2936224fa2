/** One view of the picture: the picture below, what a class's map says above it, a crosshair. */

import { paintCrosshair, paintPlace } from "./paint.js";
import { percent } from "./state.js";

/** Of the picture's sides, for one press of an arrow key; with Shift. */
const STEP = 0.02;
const LARGE_STEP = 0.1;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * A view in `parent`. `actions`: point({ u, v } | null), activate(index), tipAt({ u, v }) -> words.
 * `render(facts)` draws { picture, label, score, place, nothing, words, ... } where they changed.
 */
export function createView(parent, index, actions) {
  const pane = document.getElementById("pane").content.firstElementChild.cloneNode(true);
  const [frame, below, above] = [".frame", ".below", ".above"].map((css) =>
    pane.querySelector(css),
  );
  parent.append(pane);
  let last = {};
  listen(frame, pane.querySelector(".tip"), actions, () => last.point);
  pane.addEventListener("pointerdown", () => actions.activate(index));
  frame.addEventListener("focus", () => actions.activate(index));
  const letter = pane.querySelector(".letter");
  letter.textContent = "AB"[index];
  letter.addEventListener("click", () => actions.activate(index));

  function render(facts) {
    const { picture, size } = facts;
    const dense = Math.min(globalThis.devicePixelRatio || 1, 2);
    const [width, height] = [size.width, size.height].map((side) => Math.max(1, Math.round(side)));
    const resized = last.width !== width || last.height !== height || last.dense !== dense;
    if (resized) {
      frame.style.width = `${width}px`;
      frame.style.height = `${height}px`;
      for (const canvas of [below, above]) {
        canvas.width = Math.round(width * dense);
        canvas.height = Math.round(height * dense);
      }
    }
    if (resized || last.bitmap !== picture.bitmap) drawPicture(below, picture.bitmap);
    drawAbove(above, facts, dense);
    caption(pane, facts);
    const what = facts.label ? ` with the map of ${facts.label}` : "";
    const at = facts.point
      ? ` Crosshair at ${percent(facts.point.u)} across, ${percent(facts.point.v)} down.`
      : "";
    frame.setAttribute("aria-label", `${picture.name}${what}. Arrow keys move a crosshair.${at}`);
    last = { ...facts, width, height, dense, bitmap: picture.bitmap };
  }

  return { pane, frame, render };
}

function drawPicture(canvas, bitmap) {
  const pen = canvas.getContext("2d");
  pen.fillStyle = bitmap ? "#fff" : "#77777f"; // transparent parts are seen on white
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  if (bitmap) pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
}

function drawAbove(canvas, { picture, place, tag, show, opacity, point }, dense) {
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (place) paintPlace(pen, place, picture.seen, { show, opacity, unit: dense, tag });
  if (point) paintCrosshair(pen, point, dense);
}

function caption(pane, { label, score, words, compare, active }) {
  const set = (css, text) => {
    const element = pane.querySelector(css);
    if (element.textContent !== text) element.textContent = text;
  };
  set("figcaption b", label ?? "");
  set(".score", label ? percent(score) : "");
  set(".words", words);
  const letter = pane.querySelector(".letter");
  letter.hidden = !compare;
  letter.setAttribute("aria-pressed", active);
  letter.setAttribute("aria-label", `View ${letter.textContent}: the lists choose for this one`);
  pane.classList.toggle("active", compare && active);
}

/** Mouse, touch and keys on the frame. */
function listen(frame, tip, actions, pointNow) {
  const place = (event) => {
    const { left, top, width, height } = frame.getBoundingClientRect();
    const share = (at, side) => Math.min(Math.max(at / side, 0), 1);
    return { u: share(event.clientX - left, width), v: share(event.clientY - top, height) };
  };
  const hideTip = () => (tip.hidden = true);
  frame.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.pointerType === "touch") return; // a touch may be a scroll
    frame.setPointerCapture(event.pointerId);
    actions.point(place(event));
    hideTip();
  });
  frame.addEventListener("click", (event) => {
    if (event.pointerType === "touch") actions.point(place(event));
  });
  frame.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    if (frame.hasPointerCapture(event.pointerId)) {
      actions.point(place(event));
      return;
    }
    const at = place(event);
    tip.textContent = actions.tipAt(at);
    tip.hidden = !tip.textContent;
    tip.classList.toggle("left", at.u > 0.5);
    tip.style.left = `${at.u * 100}%`;
    tip.style.top = `${at.v * 100}%`;
  });
  frame.addEventListener("pointerleave", hideTip);
  frame.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    if (event.key === "Escape") actions.point(null);
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const far = event.shiftKey ? LARGE_STEP : STEP;
    const now = pointNow();
    const moved = (at, by) => Math.min(Math.max(at + by * far, 0), 1);
    const next = now ? { u: moved(now.u, step[0]), v: moved(now.v, step[1]) } : { u: 0.5, v: 0.5 };
    actions.point(next);
  });
}
