/** What is beside the picture: ranked classes, the search, what is at the crosshair, the proof. */

import { createClassList, paintSmall } from "./class_rows.js";
import { showWhy } from "./facts.js";
import { createSearch } from "./search.js";
import {
  chosenClasses,
  currentPicture,
  percent,
  seenNow,
  shownClasses,
  thresholdOf,
} from "./state.js";

const at = (id) => document.getElementById(id);
const LONG = 20;
const AT_POINT = 6;

export function createLists({ answers, actions, announce, store }) {
  const { model } = store.state;
  const { preview, choose } = actions;
  const paint = (canvas, classId) => {
    const picture = currentPicture(store.state);
    const { seen, square } = picture ?? {};
    const heat = seen && answers.knows(seen, classId) ? answers.heat(seen, classId) : null;
    paintSmall(canvas, square, heat);
  };
  const ranked = createClassList(at("classes"), { preview, choose, paint });
  const pointed = createClassList(at("point-classes"), { preview, choose, paint });
  const facts = (classId) => {
    const seen = seenNow(store.state);
    return seen
      ? { number: percent(seen.scores[classId]), share: seen.scores[classId] }
      : { number: "", share: 0 };
  };
  createSearch(at("query"), at("matches"), { preview, choose, facts, paint, announce }).use(model);
  at("more").addEventListener("click", () => store.update(({ long }) => ({ long: !long })));
  at("unpoint").addEventListener("click", () => actions.point(null));

  const rows = remember((picture, square, chosen, long) => {
    const best = picture.ranked.slice(0, long ? LONG : model.recipe.top);
    const rest = chosen.filter((classId) => !best.includes(classId));
    return [...best, ...new Set(rest)].map((classId, i) => ({
      ...{ classId, label: model.labels[classId], ...facts(classId) },
      more: i < best.length ? "" : `#${(picture.ranked.indexOf(classId) + 1).toLocaleString("en")}`,
    }));
  });
  const pointRows = remember((seen, square, point) => {
    const found = answers.strongest(seen, point, AT_POINT);
    const most = Math.max(found[0].value, 1e-9);
    return found.map(({ classId, value }) => ({
      ...{ classId, label: model.labels[classId], share: value / most },
      number: `${value > 0 ? "+" : "−"}${Math.abs(value).toFixed(1)}`,
    }));
  });

  function render(state) {
    const picture = currentPicture(state);
    if (!picture?.seen) return;
    const chosen = chosenClasses(picture).slice(0, state.compare ? 2 : 1);
    const badges = new Map(state.compare ? chosen.map((classId, i) => [classId, "AB"[i]]) : []);
    if (badges.size === 1 && state.compare) badges.set(chosen[0], "AB");
    const selected = chosen[state.compare ? state.active : 0];
    const key = chosen.join();
    ranked.render(
      rows(
        [picture.seen, picture.square, key, state.long],
        picture,
        picture.square,
        chosen,
        state.long,
      ),
      selected,
      badges,
    );
    at("more").hidden = model.labels.length <= model.recipe.top;
    at("more").textContent = state.long ? "Fewer" : "More";
    renderPoint(state, picture, selected, badges);
    renderWhy(state, picture);
  }

  function renderPoint({ point }, { seen, square }, selected, badges) {
    at("point").hidden = !point;
    if (!point) return;
    pointed.render(pointRows([seen, square, point], seen, square, point), selected, badges);
    const some = seen.maps.size < model.labels.length;
    at("point-note").textContent = [
      "Each number is the class's map at this spot, in logit units: what the spot says for it.",
      model.exact ? "Averaged over all spots, plus a bias, it is the class's logit." : "",
      some ? `Only the ${seen.maps.size} classes whose maps are here are compared.` : "",
    ].join(" ");
  }

  let last = [];
  function renderWhy(state, picture) {
    const { seen } = picture;
    const classId = shownClasses(state)[state.compare ? state.active : 0];
    const place = answers.place(seen, classId, thresholdOf(state));
    if (last[0] === seen && last[1] === classId && last[2] === place) return;
    last = [seen, classId, place];
    const label = model.labels[classId];
    showWhy(model, {
      ...{ label, place, score: seen.scores[classId], proof: answers.proof(seen, classId) },
      ...{ rank: picture.ranked.indexOf(classId) + 1, nothing: answers.nothing(seen, classId) },
      placeless: answers.isPlaceless(classId),
    });
    const found = place.regions.length
      ? `${place.regions.length} box${place.regions.length > 1 ? "es" : ""}`
      : "no place";
    announce(`${label}, ${percent(seen.scores[classId])}, ${found}`);
  }

  return { render };
}

/** Makes a value again only when one of the keys changed. */
function remember(make) {
  let [keys, value] = [[], null];
  return (next, ...inputs) => {
    if (keys.length !== next.length || next.some((key, i) => key !== keys[i])) {
      [keys, value] = [next, make(...inputs)];
    }
    return value;
  };
}
