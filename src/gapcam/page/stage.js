/** The picture in one view, or in two that move together. */

import { chosenClasses, currentPicture, percent, shownClasses, thresholdOf } from "./state.js";
import { createView } from "./view.js";

const at = (id) => document.getElementById(id);

/** Between two views, and between a view and the card's edge, pixels. */
const GAP = 12;
const CAPTION = 34;

/** Up to this width of the window the lists are below the picture, which stays in sight. */
const NARROW = 992;

export function createStage({ answers, actions, store }) {
  const panes = at("panes");
  const tipAt = (point) => tip(answers, store.state, point);
  const views = [0, 1].map((index) => createView(panes, index, { ...actions, tipAt }));
  let room = { width: 0, height: 0 };

  const measure = () => {
    const { clientWidth: width } = at("well");
    const share = globalThis.innerWidth <= NARROW ? 0.45 : 0.64;
    const height = Math.max(220, Math.min(globalThis.innerHeight * share, 800));
    if (width === room.width && height === room.height) return;
    room = { width, height };
    render(store.state);
  };
  new ResizeObserver(measure).observe(at("well"));
  globalThis.addEventListener("resize", measure);

  function render(state) {
    const picture = currentPicture(state);
    const lost = picture?.doing === "failed" && !picture.bitmap;
    at("drop").hidden = Boolean(picture);
    at("lost").hidden = !lost;
    panes.hidden = !picture || lost;
    at("controls").hidden = at("keys").hidden = at("side").hidden = !picture?.seen;
    if (panes.hidden) return;
    const compare = state.compare && Boolean(picture.seen);
    panes.classList.toggle("two", compare);
    const size = fit(picture, room, compare);
    const classes = shownClasses(state);
    views.forEach(({ pane, render: draw }, index) => {
      pane.hidden = index === 1 && !compare;
      if (!pane.hidden)
        draw(factsOf(answers, state, picture, classes[index], { size, compare, index }));
    });
  }

  return { render };
}

/** The size of a view: as large as the room, whatever the shape of the picture. */
function fit(picture, room, compare) {
  const { width, height } = picture.seen ?? picture.bitmap ?? { width: 4, height: 3 };
  const wide = room.width - 2 * GAP;
  const scaleFor = (across, down) =>
    Math.min((wide - (across - 1) * GAP) / across / width, (room.height / down - CAPTION) / height);
  const scale = compare ? Math.max(scaleFor(2, 1), scaleFor(1, 2)) : scaleFor(1, 1);
  return { width: width * scale, height: height * scale };
}

function factsOf(answers, state, picture, classId, { size, compare, index }) {
  const { show, opacity, point, active, model } = state;
  const common = { picture, size, show, opacity, point, compare, active: active === index };
  if (classId === undefined) return { ...common, words: waitingWords(picture) };
  const label = model.labels[classId];
  const { seen } = picture;
  const place = answers.place(seen, classId, thresholdOf(state));
  const tag = `${label} ${percent(seen.scores[classId])}`;
  const words = wordsOf(answers, seen, classId, place);
  return { ...common, place, label, tag, score: seen.scores[classId], words };
}

const waitingWords = ({ doing }) =>
  ({ failed: "not looked at", waiting: "waiting …" })[doing] ?? "looking …";

function wordsOf(answers, seen, classId, { regions }) {
  if (answers.isPlaceless(classId))
    return "This class means that nothing is there: it has no place.";
  if (answers.nothing(seen, classId))
    return "No positive evidence: nothing in the picture speaks for it.";
  if (!regions.length) return "Nothing reaches this threshold.";
  return regions.length > 1 ? `· ${regions.length} boxes` : "";
}

function tip(answers, state, point) {
  const { seen } = currentPicture(state) ?? {};
  if (!seen) return "";
  const [{ classId, value }] = answers.strongest(seen, point, 1);
  return value > 0 ? `${state.model.labels[classId]} +${value.toFixed(1)}` : "nothing";
}

/** What the page shows, to be saved: a place and a tag for each view. */
export function shownViews(answers, state) {
  const picture = currentPicture(state);
  const { seen } = picture;
  const classes = chosenClasses(picture).slice(0, state.compare ? 2 : 1);
  return classes.map((classId) => ({
    place: answers.place(seen, classId, thresholdOf(state)),
    tag: `${state.model.labels[classId]} ${percent(seen.scores[classId])}`,
  }));
}
