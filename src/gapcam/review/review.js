"use strict";
// Runs in <head>: the theme is set before anything is painted, the rest when the page is read.
// Without this script the boxes are there to look at; only deciding is missing.

const root = document.documentElement;
root.classList.add("js");

const read = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
const keep = (key, value) => { try { localStorage.setItem(key, value); } catch { /* a private window */ } };

const theme = read("gapcam-theme");
if (theme === "dark" || theme === "light") root.dataset.theme = theme;

const HEADER = "key,path,class,class_id,score,x0,y0,x1,y1";
const WORDS = { x: "rejected", a: "accepted" };
const cell = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

function setUpTheme() {
  const button = document.querySelector(".theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => { button.querySelector("span").textContent = isDark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    keep("gapcam-theme", root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
}

// Decisions on all pages of a run: {key: ["x" or "a", the row to export]}.
function decisions() {
  const place = `gapcam-review-${document.body.dataset.run}`;
  let made = {};
  const load = () => { try { made = JSON.parse(read(place)) || made; } catch { /* spoilt: begin anew */ } };
  load();
  return {
    load,
    of: (key) => (Object.hasOwn(made, key) ? made[key][0] : ""),
    set(key, choice, row) {
      load();  // another page may have been at work in another window
      if (choice) made[key] = [choice, row];
      else delete made[key];
      keep(place, JSON.stringify(made));
    },
    rejected: () => Object.entries(made).filter(([, [choice]]) => choice === "x"),
  };
}

function setUpReview() {
  const tiles = [...document.querySelectorAll(".tile")];
  const filter = document.querySelector(".classes");
  const openOnly = document.querySelector(".open-only");
  const counts = document.querySelector(".counts");
  const save = document.querySelector(".save");
  const made = decisions();
  const shown = () => tiles.filter((tile) => !tile.hidden);
  let current = tiles[0];

  function go(tile) {
    if (!tile) return;
    if (current) current.tabIndex = -1;
    current = tile;
    tile.tabIndex = 0;
    tile.focus();
    tile.scrollIntoView({ block: "nearest", behavior: "instant" });
  }

  function paint(tile) {
    const choice = made.of(tile.dataset.key);
    for (const [letter, word] of Object.entries(WORDS)) tile.classList.toggle(word, choice === letter);
    tile.querySelector(".reject").setAttribute("aria-pressed", String(choice === "x"));
    tile.querySelector(".accept").setAttribute("aria-pressed", String(choice === "a"));
  }

  function tell() {
    const decided = tiles.filter((tile) => made.of(tile.dataset.key)).length;
    const here = tiles.filter((tile) => made.of(tile.dataset.key) === "x").length;
    const all = made.rejected().length;
    const elsewhere = all > here ? ` (${(all - here).toLocaleString("en")} on other pages)` : "";
    counts.textContent = `${decided.toLocaleString("en")} of ${tiles.length.toLocaleString("en")} decided, ${all.toLocaleString("en")} rejected${elsewhere}`;
    save.disabled = all === 0;
  }

  function sift() {
    for (const tile of tiles) {
      const other = filter.value !== "" && tile.dataset.label !== filter.value;
      tile.hidden = other || (openOnly.checked && made.of(tile.dataset.key) !== "");
    }
    const left = shown();
    document.querySelector(".none").hidden = left.length > 0;
    if (!left.includes(current) && left.length) {
      current.tabIndex = -1;
      current = left[0];
      current.tabIndex = 0;
    }
  }

  function decide(tile, choice) {
    made.set(tile.dataset.key, choice, JSON.parse(tile.dataset.row));
    paint(tile);
    tell();
  }

  // The tile in the same place of the row above or below.
  function beside(step) {
    const all = shown();
    const tops = [...new Set(all.map((tile) => tile.offsetTop))];
    const top = tops[tops.indexOf(current.offsetTop) + step];
    const row = all.filter((tile) => tile.offsetTop === top);
    return row.find((tile) => tile.offsetLeft >= current.offsetLeft) || row.at(-1);
  }

  const next = (step) => { const all = shown(); return all[all.indexOf(current) + step]; };
  const moves = {
    ArrowRight: () => next(1), ArrowLeft: () => next(-1), ArrowDown: () => beside(1), ArrowUp: () => beside(-1),
  };
  const choices = { x: "x", a: "a", u: "" };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !current || current.hidden) return;
    if (event.target.closest("select, input")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (Object.hasOwn(moves, key)) {
      // The first key only shows where one is.
      go(document.activeElement === current ? moves[key]() : current);
      event.preventDefault();
    } else if (Object.hasOwn(choices, key)) {
      const after = next(1);
      const tile = current;
      decide(tile, choices[key]);
      if (choices[key] && after) go(after);
      else go(tile);
      if (openOnly.checked) sift();
    }
  });

  for (const tile of tiles) {
    paint(tile);
    tile.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) {
        const choice = button.classList.contains("reject") ? "x" : "a";
        decide(tile, made.of(tile.dataset.key) === choice ? "" : choice);
      }
      go(tile);
    });
  }
  filter.addEventListener("change", sift);
  openOnly.addEventListener("change", sift);
  addEventListener("storage", () => { made.load(); tiles.forEach(paint); tell(); });
  save.addEventListener("click", () => {
    const lines = made.rejected().map(([key, [, row]]) => [key, ...row].map(cell).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([[HEADER, ...lines, ""].join("\n")], { type: "text/csv" }));
    link.download = "rejected.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
  sift();
  tell();
}

document.addEventListener("DOMContentLoaded", () => { setUpTheme(); setUpReview(); });
