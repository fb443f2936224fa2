/**
 * The page: opens the source of answers that page.json names, holds the state, and lets each part
 * draw it. What happens becomes an action, an action changes the state, the state is rendered.
 */

import { createAnswers } from "./answers.js";
import { createActions } from "./actions.js";
import { createControls } from "./controls.js";
import { showBadges, showModel } from "./facts.js";
import { listenForPictures, showSamples } from "./intake.js";
import { createLists } from "./lists.js";
import { askToken } from "./login.js";
import { createStage } from "./stage.js";
import { createStore, currentPicture } from "./state.js";
import { createStrip } from "./strip.js";
import { createWebcam } from "./webcam.js";

const at = (id) => document.getElementById(id);
const store = createStore();
const say = (text, fault = false) => store.update({ message: { text, fault } });
const complain = (text) => say(text, true);

let live = 0;

/** Reads words out, a moment after the last change. */
function announce(words) {
  clearTimeout(live);
  live = setTimeout(() => (at("live").textContent = words), 400);
}

function renderShell(state) {
  const { pictures, message } = state;
  document.body.classList.toggle("empty", !pictures.length);
  at("strip").hidden = !pictures.length;
  if (at("message").textContent !== message.text) at("message").textContent = message.text;
  at("status").classList.toggle("fault", message.fault);
  at("retry").hidden = currentPicture(state)?.doing !== "failed";
}

async function start() {
  store.subscribe(renderShell);
  const actions = createActions(store, { say, announce });
  const ways = { take: actions.add, say: complain };
  const webcam = createWebcam(ways);
  listenForPictures({ ...ways, openWebcam: webcam.open });
  at("retry").addEventListener("click", () => actions.retry(store.state.current));
  const strip = createStrip(at("thumbs"), actions);
  store.subscribe(strip.render);
  say("Getting ready …");
  try {
    const answer = await fetch("./page.json");
    if (!answer.ok) throw new Error(`page.json: ${answer.status} ${answer.statusText}`);
    const settings = await answer.json();
    showSamples(settings.samples, ways);
    const kind = settings.source === "browser" ? "./browser_source.js" : "./server_source.js";
    const { openSource } = await import(kind);
    const source = await openSource({ ...settings, askToken }, (text) => say(text));
    begin(source, actions);
  } catch (error) {
    complain(`The page cannot start: ${error.message} Reload it to try again.`);
  }
}

/** Everything that needs the model. */
function begin(source, actions) {
  const { model, place } = source;
  const answers = createAnswers(model);
  showBadges(model, place);
  showModel(model, place);
  store.update({ model });
  const stage = createStage({ answers, actions, store });
  const lists = createLists({ answers, actions, announce, store });
  const controls = createControls({ answers, actions, store, complain });
  for (const part of [stage, lists, controls]) store.subscribe(part.render);
  say("Ready.");
  actions.open(source, answers);
}

start();
