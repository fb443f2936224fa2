"use strict";
// Runs in <head>: the theme is set before anything is painted, the rest when the page is read.
// Without this script everything is there to read; only the tools below are missing.

const root = document.documentElement;
root.classList.add("js");

const store = {
  get() { try { return localStorage.getItem("gapcam-theme"); } catch { return null; } },
  set(theme) { try { localStorage.setItem("gapcam-theme", theme); } catch { /* a private window */ } },
};
const saved = store.get();
if (saved === "dark" || saved === "light") root.dataset.theme = saved;

function setUpTheme() {
  const button = document.querySelector(".theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => {
    button.querySelector("span").textContent = isDark() ? "Light" : "Dark";
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    store.set(root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
}

// Charts: a line follows the pointer or the slider; the legend shows the values where it stands.
const numbers = (text) => text.split(" ").map((word) => (word === "-" ? null : Number(word)));
const percent = (value) => (value === null ? "\u2013" : `${(100 * value).toFixed(1)}\u00a0%`);
const plain = (value) => (value === null ? "\u2013" : String(value));

function setUpChart(figure) {
  const area = figure.querySelector(".area");
  const svg = area.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const slider = figure.querySelector("input[type=range]");
  const places = numbers(figure.dataset.places);
  const readings = [...figure.querySelectorAll("[data-values]")].map((cell) => ({
    cell, first: cell.textContent, values: numbers(cell.dataset.values), percent: "percent" in cell.dataset,
  }));
  const start = { x: cursor.getAttribute("x1"), shown: cursor.style.display, at: slider.value };
  const text = (reading, i) => (reading.percent ? percent : plain)(reading.values[i]);

  function moveLine(x, shown) {
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.style.display = shown;
  }
  function show(i) {
    moveLine(`${100 * places[i]}%`, "");
    for (const reading of readings) reading.cell.textContent = text(reading, i);
    slider.value = String(i);
    slider.setAttribute("aria-valuetext", readings.map((r) => `${r.cell.dataset.name} ${r.cell.textContent}`).join(", "));
  }
  function reset() {
    moveLine(start.x, start.shown);
    for (const reading of readings) reading.cell.textContent = reading.first;
    slider.value = start.at;
  }
  function nearest(x) {
    let best = 0;
    for (let i = 1; i < places.length; i += 1) {
      if (Math.abs(places[i] - x) < Math.abs(places[best] - x)) best = i;
    }
    return best;
  }
  const follow = (event) => {
    const box = svg.getBoundingClientRect();
    show(nearest((event.clientX - box.left) / box.width));
  };
  area.addEventListener("pointermove", follow);
  area.addEventListener("pointerdown", follow);
  area.addEventListener("pointerleave", reset);
  slider.addEventListener("input", () => show(Number(slider.value)));
  slider.hidden = false;
}

// The table of classes: sorted by the shown numbers, equal ones stay in order, gaps come last.
function setUpClasses(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const status = document.querySelector("#class-status");
  const filter = document.querySelector("#class-filter");
  const names = rows.map((row) => row.cells[0].textContent.toLowerCase());
  const collator = new Intl.Collator("en", { numeric: true });

  function keysOf(column, kind) {
    return new Map(rows.map((row) => {
      const cell = row.cells[column].textContent;
      return [row, kind === "text" ? cell : Number.parseFloat(cell)];
    }));
  }
  function sort(column, kind, sign) {
    const keys = keysOf(column, kind);
    const compare = kind === "text" ? collator.compare : (a, b) => a - b;
    const isGap = (key) => Number.isNaN(key);
    const sorted = [...rows].sort((one, other) => {
      const [a, b] = [keys.get(one), keys.get(other)];
      if (isGap(a) || isGap(b)) return isGap(a) - isGap(b);
      return sign * compare(a, b);
    });
    body.append(...sorted);
  }
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    const kind = head.dataset.sort;
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const up = before === "none" ? kind === "text" : before === "descending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      sort(column, kind, up ? 1 : -1);
    });
  });
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !names[i].includes(wanted);
      shown += row.hidden ? 0 : 1;
    });
    status.textContent = wanted ? `${shown} of ${rows.length} classes` : `${rows.length} classes`;
  });
  document.querySelector(".filter").hidden = false;
}

// The gallery: one dialog shows any picture large; arrow keys go on, Escape closes.
function setUpViewer(dialog) {
  const buttons = [...document.querySelectorAll(".shot button")];
  const image = dialog.querySelector("img");
  const caption = dialog.querySelector("figcaption");
  const place = dialog.querySelector(".place");
  let at = 0;

  function show(i) {
    at = (i + buttons.length) % buttons.length;
    const small = buttons[at].querySelector("img");
    image.src = small.src;
    image.alt = small.alt;
    caption.replaceChildren(...buttons[at].closest("figure").querySelector("figcaption").cloneNode(true).childNodes);
    place.textContent = `${at + 1} of ${buttons.length}`;
  }
  buttons.forEach((button, i) => button.addEventListener("click", () => { show(i); dialog.showModal(); }));
  dialog.querySelector(".before").addEventListener("click", () => show(at - 1));
  dialog.querySelector(".after").addEventListener("click", () => show(at + 1));
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(at - 1);
    if (event.key === "ArrowRight") show(at + 1);
  });
  dialog.addEventListener("close", () => buttons[at].focus());
}

document.addEventListener("DOMContentLoaded", () => {
  setUpTheme();
  document.querySelectorAll("figure.read").forEach(setUpChart);
  const classes = document.querySelector("#class-table");
  if (classes) setUpClasses(classes);
  const viewer = document.querySelector("dialog");
  if (viewer) setUpViewer(viewer);
  root.dataset.ready = "true";
});
