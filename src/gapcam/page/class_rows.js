/** Rows of classes (a small picture of the heat, the name, a number, a bar), and lists of them. */

import { heatCanvas } from "./colours.js";

const SMALL = 44;

/** A row for { classId, label, number, share, more, badge }; `paint` draws its small picture. */
export function classRow(item, id, paint) {
  const row = document.createElement("li");
  row.id = id;
  row.setAttribute("role", "option");
  row.dataset.classId = item.classId;
  const small = document.createElement("canvas");
  small.width = small.height = SMALL;
  small.setAttribute("aria-hidden", "true");
  const [name, number, bar] = ["b", "span", "i"].map((tag) => document.createElement(tag));
  name.textContent = item.label;
  if (item.more) {
    const more = document.createElement("small");
    more.textContent = item.more;
    name.append(" ", more);
  }
  number.textContent = item.number;
  bar.style.setProperty("--share", Math.min(Math.max(item.share, 0), 1));
  bar.setAttribute("aria-hidden", "true");
  const badge = document.createElement("em");
  badge.hidden = true;
  row.append(small, name, number, bar, badge);
  paint?.(small, item.classId);
  return row;
}

/** A thumbnail with a class's heat over it. */
export function paintSmall(canvas, thumb, heat) {
  const pen = canvas.getContext("2d");
  const side = canvas.width;
  pen.clearRect(0, 0, side, side);
  if (thumb) pen.drawImage(thumb, 0, 0, side, side);
  if (heat) {
    pen.globalAlpha = 0.8;
    pen.drawImage(heatCanvas(heat, 1), 0, 0, side, side);
    pen.globalAlpha = 1;
  }
}

/**
 * A list box of classes: `preview(classId | null)` while one is under the pointer,
 * `choose(classId)` when one is clicked or walked to with the arrows.
 */
export function createClassList(list, { preview, choose, paint }) {
  let items = [];
  const rowOf = (event) => event.target.closest("li");
  const idOf = (row) => Number(row.dataset.classId);
  list.addEventListener("pointerover", (event) => {
    const row = rowOf(event);
    if (row && event.pointerType !== "touch") preview(idOf(row));
  });
  list.addEventListener("pointerleave", () => preview(null));
  list.addEventListener("click", (event) => {
    const row = rowOf(event);
    if (row) choose(idOf(row));
  });
  list.addEventListener("keydown", (event) => {
    const at = items.findIndex(({ classId }) => `${list.id}-${classId}` === activeId());
    const to = { ArrowDown: at + 1, ArrowUp: at < 0 ? 0 : at - 1, Home: 0, End: items.length - 1 }[
      event.key
    ];
    if (to === undefined || !items.length) return;
    event.preventDefault();
    choose(items[Math.min(Math.max(to, 0), items.length - 1)].classId);
    list.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  });
  const activeId = () => list.getAttribute("aria-activedescendant");

  /** Shows the items; `selected` is a class, `badges` maps classes to letters. */
  function render(next, selected, badges = new Map()) {
    if (next !== items) {
      items = next;
      list.replaceChildren(
        ...items.map((item) => classRow(item, `${list.id}-${item.classId}`, paint)),
      );
    }
    for (const row of list.children) {
      const classId = idOf(row);
      row.setAttribute("aria-selected", classId === selected);
      const badge = row.querySelector("em");
      badge.textContent = badges.get(classId) ?? "";
      badge.hidden = !badges.has(classId);
    }
    const there = items.some(({ classId }) => classId === selected);
    if (there) list.setAttribute("aria-activedescendant", `${list.id}-${selected}`);
    else list.removeAttribute("aria-activedescendant");
  }

  return { render };
}
