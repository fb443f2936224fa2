/** What a user can do: each action changes the state, or asks the source and then changes it. */

import { makeSquare, makeThumb, openBitmap } from "./bitmaps.js";
import { rank } from "./scores.js";
import { chosenClasses, currentPicture } from "./state.js";

/** Before a class that is only passed over is asked of the source, milliseconds. */
const LINGER_MS = 150;

/** `tools`: say(text, fault), announce(words). */
export function createActions(store, { say, announce }) {
  let source = null;
  let answers = null;
  let numbers = 0;
  let working = false;
  let lingering = 0;
  let hovered = null;

  const picture = () => currentPicture(store.state);

  /** New pictures, each under a name of its own; the first is shown. */
  function add(files) {
    const taken = new Set(store.state.pictures.map(({ name }) => name));
    const added = files.map((blob) => ({
      ...{ id: ++numbers, name: freeName(blob.name || "picture", taken), blob },
      ...{ doing: "waiting", chosen: [null, null], ranked: [], seen: null, bitmap: null },
    }));
    if (!added.length) return;
    store.update({ pictures: [...store.state.pictures, ...added] });
    select(added[0].id);
    work();
  }

  async function select(id) {
    const before = picture();
    if (before?.id === id) return;
    before?.bitmap?.close();
    const drop = before ? { [before.id]: null } : {};
    store.update(({ pictures }) => ({
      pictures: pictures.map((one) => (one.id in drop ? { ...one, bitmap: null } : one)),
      ...{ current: id, preview: null, point: null },
    }));
    await show(id);
    tellOf(picture());
  }

  /** Opens the file for drawing; one that the browser cannot draw may still be looked at. */
  async function show(id) {
    const { blob, bitmap: there } = store.state.pictures.find((one) => one.id === id) ?? {};
    if (!blob || there) return;
    const bitmap = await openBitmap(blob).catch(() => null);
    if (store.state.current !== id) {
      bitmap?.close();
      return;
    }
    const small = { thumb: makeThumb(bitmap), square: bitmap && makeSquare(bitmap) };
    store.updatePicture(id, { bitmap, undrawable: !bitmap, ...small });
  }

  function remove(id) {
    const { pictures, current } = store.state;
    const at = pictures.findIndex((one) => one.id === id);
    pictures[at]?.bitmap?.close();
    const left = pictures.filter((one) => one.id !== id);
    store.update({
      pictures: left,
      ...(current === id ? { current: null, preview: null, point: null } : {}),
    });
    if (current === id && left.length) select(left[Math.min(at, left.length - 1)].id);
    if (!left.length) say("Ready.");
  }

  /** Looks at what waits, one at a time, the shown one first. */
  async function work() {
    if (working || !source) return;
    working = true;
    for (let next = waiting(); next; next = waiting()) await look(next);
    working = false;
  }

  function waiting() {
    const { pictures, current } = store.state;
    const left = pictures.filter(({ doing }) => doing === "waiting");
    return left.find(({ id }) => id === current) ?? left[0];
  }

  async function look({ id, name, blob }) {
    const start = performance.now();
    store.updatePicture(id, { doing: "looking", error: null });
    say(`Looking at ${name} …`);
    try {
      await checkReadable(blob, name);
      const seen = await source.look(blob, name);
      const took = performance.now() - start;
      store.updatePicture(id, { doing: "done", seen, took, ranked: rank(seen.logits) });
    } catch (error) {
      store.updatePicture(id, { doing: "failed", error: sentence(error.message) });
    }
    const done = store.state.pictures.find((one) => one.id === id);
    if (done && !done.thumb) {
      const bitmap = await openBitmap(blob, 256).catch(() => null);
      store.updatePicture(id, { thumb: makeThumb(bitmap), square: bitmap && makeSquare(bitmap) });
      bitmap?.close();
    }
    if (store.state.current === id || done?.doing === "failed") tellOf(done);
    else if (!waiting()) tellOf(picture());
  }

  function tellOf(one) {
    if (!one) return;
    if (one.doing === "failed") say(one.error, true);
    if (one.doing !== "done") return;
    const { width, height, notes } = one.seen;
    const hidden = one.undrawable
      ? ["this browser cannot draw this kind of file, so only the map is shown"]
      : [];
    const more = [...notes, ...hidden].join("; ");
    const took = Math.round(one.took);
    say(`${one.name}: ${width} × ${height}, ${took} ms${more ? `; ${more}` : ""}.`);
    announce(`${one.name}: ${store.state.model.labels[one.ranked[0]]}`);
  }

  function retry(id) {
    store.updatePicture(id, { doing: "waiting", error: null });
    work();
  }

  /** Sees to it that the maps of these classes are there; true when they are. */
  async function haveMaps(one, classIds) {
    if (classIds.every((classId) => answers.knows(one.seen, classId))) return true;
    try {
      await source.mapsOf(one.seen, classIds);
      return true;
    } catch (error) {
      say(sentence(error.message), true);
      return false;
    }
  }

  /** Shows a class in the active view, for good. */
  async function choose(classId) {
    const one = picture();
    if (!one?.seen || !(await haveMaps(one, [classId]))) return;
    const { compare, active } = store.state;
    const chosen = chosenClasses(one);
    chosen[compare ? active : 0] = classId;
    store.update({ preview: null });
    store.updatePicture(one.id, { chosen });
  }

  /** Shows a class while the pointer is over it; null ends that. */
  function preview(classId) {
    clearTimeout(lingering);
    hovered = classId;
    const one = picture();
    if (!one?.seen || classId === store.state.preview) return;
    if (classId === null || answers.knows(one.seen, classId)) {
      store.update({ preview: classId });
      return;
    }
    lingering = setTimeout(async () => {
      const there = await haveMaps(one, [classId]);
      if (there && hovered === classId && picture()?.seen === one.seen) {
        store.update({ preview: classId });
      }
    }, LINGER_MS);
  }

  async function compare(on) {
    const one = picture();
    if (on && one?.seen && !(await haveMaps(one, chosenClasses(one)))) return;
    store.update({ compare: on, active: on ? 1 : 0, preview: null });
  }

  function activate(index) {
    if (store.state.compare && store.state.active !== index) store.update({ active: index });
  }

  function point(place) {
    const one = picture();
    if (!one?.seen) return;
    store.update({ point: place, preview: null });
    if (!place) return;
    const [best] = answers.strongest(one.seen, place, 1);
    announce(`Strongest here: ${store.state.model.labels[best.classId]}, ${best.value.toFixed(1)}`);
  }

  function open(opened, made) {
    [source, answers] = [opened, made];
    work();
  }

  return {
    add,
    select,
    remove,
    retry,
    choose,
    preview,
    compare,
    activate,
    point,
    open,
    set: store.update,
  };
}

function freeName(name, taken) {
  const [, stem, end] = name.match(/^(.*?)(\.[^.]*)?$/s);
  let free = name;
  for (let number = 2; taken.has(free); number++) free = `${stem} (${number})${end ?? ""}`;
  taken.add(free);
  return free;
}

/** Refuses what has no bytes: an empty file, a folder, a file that has been moved meanwhile. */
async function checkReadable(blob, name) {
  const first = await blob
    .slice(0, 1)
    .arrayBuffer()
    .catch(() => null);
  if (!first) throw new Error(`${name}: a folder, or a file that was moved. Choose picture files.`);
  if (!first.byteLength) throw new Error(`${name}: the file is empty. Get it again.`);
}

const sentence = (words) => (/[.!?]$/.test(words) ? words : `${words}.`);
