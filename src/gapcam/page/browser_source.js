/** Answers made in this browser: a gapcam model file on onnxruntime-web. No picture is sent. */

import { seenFrom } from "./network.js";

/** How many classes get maps at once where each costs a pass through the head. */
const TOP = 20;

/** What the library itself takes (`gapcam.images.Limits`); a strip may hold this many pictures. */
const LIMITS = { max_bytes: 512 * 2 ** 20, max_pixels: 178_956_970, max_pictures: 64 };

/** Heads whose maps add up to the scores, as `gapcam.proof.EXACT_KINDS`. */
const EXACT_KINDS = ["gap-linear", "gap-norm-linear", "flatten-linear"];

/**
 * A source of answers, as `server_source.js` gives one.
 *
 * `settings` is page.json: `model`, `runtime` and `wasm` are addresses beside this file, `bytes` is
 * the size of model and wasm together; `recipe`, where it is there, is used instead of the model
 * file's own; `proof` is what the export measured.
 */
export async function openSource(settings, tell = () => {}) {
  const worker = new Remote(tell);
  const here = (path) => new URL(path, import.meta.url).href;
  const { model: file, runtime, wasm, bytes } = settings;
  const files = { runtime: here(runtime), wasm: here(wasm), file: here(file), bytes };
  const { card, weights, bias } = await worker.ask("open", files).catch((error) => {
    worker.close();
    throw new Error(error.message.replace(/\.?$/, "."));
  });
  const recipe = settings.recipe ?? card.recipe;
  const model = modelOf(settings, card, recipe, { weights, bias });

  async function look(blob, name) {
    if (blob.size > LIMITS.max_bytes) {
      throw new Error(`${name}: ${blob.size} bytes, expected at most ${LIMITS.max_bytes}`);
    }
    const facts = { blob, recipe: model.recipe, top: model.max_top };
    const looked = await worker.ask("look", facts).catch((error) => {
      throw new Error(`${name}: ${error.message}`);
    });
    const { width, height, notes } = looked;
    const passes = model.all_maps ? [] : looked.passes.map(({ pixels }) => ({ pixels }));
    const seen = { name, width, height, notes, blob, boxes: new Map(), passes };
    return { ...seen, ...seenFrom(looked, { weights }) };
  }

  async function mapsOf(seen, classIds) {
    const missing = classIds.filter((classId) => !seen.maps.has(classId));
    if (!missing.length) return;
    const facts = { passes: seen.passes, classes: missing };
    const found = await worker.ask("maps", facts).catch((error) => {
      throw new Error(`${seen.name}: ${error.message}`);
    });
    [seen.maps, seen.finer].slice(0, found.length).forEach((maps, pass) => {
      for (const [classId, plane] of found[pass]) maps.set(classId, plane);
    });
  }

  return { model, place: "stay in this browser", look, mapsOf, close: () => worker.close() };
}

/** What a server's /v1/model says, of a model file. */
function modelOf(settings, card, recipe, { weights, bias }) {
  const exact = EXACT_KINDS.includes(card.head);
  const words = exact ? "exact" : "first-order or the paper's, NOT exact";
  const proof = settings.proof ?? { exact, proof: `Maps of ${card.head} heads are ${words}.` };
  const count = card.labels.length;
  return {
    ...{ name: card.name, version: card.version, model_sha256: settings.model_sha256 ?? null },
    ...{ labels: card.labels, aliases: card.aliases, scores: card.scores },
    ...{ placeless: card.placeless, bias: bias ? Array.from(bias) : null },
    ...{ head: card.head, features_at: card.features_at, input_size_hw: recipe.input_size_hw },
    ...{ recipe, largest_gap: null, ...proof },
    all_maps: weights !== null,
    max_top: weights ? count : Math.min(TOP, count),
    limits: { ...LIMITS, max_classes: count },
  };
}

/** The worker, as something to ask. */
class Remote {
  #worker;
  #waiting = new Map();
  #asked = 0;
  #fault = null;

  constructor(tell) {
    this.#worker = new Worker(startOf("./browser_worker.js"), { type: "module" });
    this.#worker.addEventListener("message", ({ data: { id, done, fault, told } }) => {
      if (told !== undefined) {
        tell(told);
        return;
      }
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (fault === undefined) resolve(done);
      else reject(new Error(fault));
    });
    this.#worker.addEventListener("error", ({ message }) => {
      const why = message ? ` (${message})` : "";
      this.#stop(`this browser cannot run the network${why}; it needs module workers`);
    });
  }

  ask(doing, facts) {
    return new Promise((resolve, reject) => {
      if (this.#fault) {
        reject(new Error(this.#fault));
        return;
      }
      const id = this.#asked++;
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, doing, ...facts });
    });
  }

  close() {
    this.#worker.terminate();
    this.#stop("closed");
  }

  #stop(fault) {
    this.#fault = fault;
    for (const { reject } of this.#waiting.values()) reject(new Error(fault));
    this.#waiting.clear();
  }
}

/**
 * The address of a worker that imports a module. A worker with a file of its own would not be under
 * the page's policy, which says that nothing leaves; one from an address like this is.
 */
function startOf(path) {
  const url = new URL(path, import.meta.url).href;
  const code = new Blob([`import ${JSON.stringify(url)};`], { type: "text/javascript" });
  return URL.createObjectURL(code);
}
