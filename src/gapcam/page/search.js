/** Finds any class of the model by its name or another name: a combo box with a list. */

import { classRow } from "./class_rows.js";
import { inClasses } from "./facts.js";

const MOST = 24;

/** Names as they are compared: as gapcam.labels does, and an e finds an é. */
const plain = (name) => {
  const bare = name.normalize("NFKD").replace(/\p{M}/gu, "");
  return bare.replace(/[_-]/g, " ").toLowerCase().split(/\s+/).join(" ").trim();
};

/** What can be found: [{ classId, names }], the label first. Aliases come by id or by label. */
export function makeIndex({ labels, aliases }) {
  return labels.map((label, classId) => {
    const others = aliases?.[classId] ?? aliases?.[label] ?? [];
    const names = [label, ...others].map((name) => ({ name, plain: plain(name) }));
    return { classId, label, names };
  });
}

/** The classes that fit a text, best first: [{ classId, label, more }]. */
export function findClasses(index, text) {
  const asked = plain(text);
  const found = [];
  for (const { classId, label, names } of index) {
    const fits = names.map(({ plain: name }, i) => fitOf(name, asked) + (i ? 0.5 : 0));
    const best = Math.min(...fits);
    if (best === Infinity) continue;
    const by = fits.indexOf(best);
    found.push({ classId, label, best, more: by ? names[by].name : "" });
  }
  return found.sort(
    (a, b) => a.best - b.best || a.label.length - b.label.length || a.classId - b.classId,
  );
}

function fitOf(name, asked) {
  if (name === asked) return 0;
  if (name.startsWith(asked)) return 1;
  if (name.includes(` ${asked}`)) return 2;
  return asked.length > 1 && name.includes(asked) ? 3 : Infinity;
}

/** `facts(classId)` gives a row's number and share; `paint` its small picture. */
export function createSearch(input, list, { preview, choose, facts, paint, announce }) {
  let index = [];
  let found = [];
  let at = -1;

  function open() {
    const text = input.value.trim();
    found = text ? findClasses(index, text) : [];
    at = -1;
    const rows = found.slice(0, MOST).map((item) => {
      const row = classRow({ ...item, ...facts(item.classId) }, `match-${item.classId}`, paint);
      row.setAttribute("aria-selected", "false");
      return row;
    });
    const rest = text && (found.length > MOST || !found.length) ? [lastRow(found.length)] : [];
    list.replaceChildren(...rows, ...rest);
    list.scrollTop = 0;
    list.hidden = !text;
    input.setAttribute("aria-expanded", !list.hidden);
    input.removeAttribute("aria-activedescendant");
    if (text) announce(`${inClasses(found.length)} found`);
  }

  function close() {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
    preview(null);
  }

  function take(classId) {
    input.value = "";
    close();
    choose(classId);
  }

  function walk(to) {
    const rows = list.querySelectorAll("[role=option]");
    if (!rows.length) return;
    rows[at]?.setAttribute("aria-selected", "false");
    at = (to + rows.length) % rows.length;
    rows[at].setAttribute("aria-selected", "true");
    rows[at].scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", rows[at].id);
    preview(found[at].classId);
  }

  input.addEventListener("input", open);
  input.addEventListener("focus", () => input.value && open());
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      if (list.hidden) input.value = "";
      close();
    } else if (event.key === "Enter" && found.length && !list.hidden) {
      take(found[Math.max(at, 0)].classId);
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) open();
      const down = event.key === "ArrowDown";
      walk(down ? at + 1 : at < 0 ? -1 : at - 1);
    }
  });
  list.addEventListener("pointerdown", (event) => event.preventDefault()); // the focus stays
  list.addEventListener("click", (event) => {
    const row = event.target.closest("[role=option]");
    if (row) take(Number(row.dataset.classId));
  });
  list.addEventListener("pointerover", (event) => {
    const row = event.target.closest("[role=option]");
    if (row && event.pointerType !== "touch") preview(Number(row.dataset.classId));
  });
  list.addEventListener("pointerleave", () => preview(null));

  return {
    use(model) {
      index = makeIndex(model);
      input.placeholder = `Search ${inClasses(model.labels.length)}`;
    },
  };
}

function lastRow(count) {
  const row = document.createElement("li");
  row.className = "last";
  row.setAttribute("role", "presentation");
  row.textContent = count ? `and ${count - MOST} more: type on` : "No class has that name.";
  return row;
}
