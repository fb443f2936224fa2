/**
 * A gapcam model file run in the browser: onnxruntime-web is passed in as `ort`.
 *
 * `loadModel` or `fetchModel`, then `localize` for what is where, or `look` and `seenFrom` for all
 * that the network says. A plane is { data, height, width }: numbers in rows.
 */

import { findRegions, scaleBox } from "./boxes.js";
import { evidenceOf, heatOf, maximum, mean } from "./maps.js";
import { openInputs, readMetadata } from "./model_file.js";
import { squash } from "./picture.js";
import { probabilities, rank } from "./scores.js";

const TINY = 1e-12;

/** Maps count as exact below this share of the logits' range, as in `gapcam.proof`. */
const EXACT_TOLERANCE = 1e-4;

/** A model from a file's bytes (Uint8Array): { session, card, head }. */
export async function loadModel(ort, bytes) {
  const card = readMetadata(bytes);
  const options = { executionProviders: ["wasm"], logSeverityLevel: 3 }; // errors only
  const session = await ort.InferenceSession.create(openInputs(bytes), options);
  const model = { session, card, head: null };
  const [height, width] = card.input_size_hw;
  const black = { data: new Uint8Array(height * width * 3), height, width };
  const constants = ["head_weights", "head_bias"].filter((name) => has(session, name));
  const { head_weights: weights, head_bias: bias } = await run(ort, model, black, constants);
  model.head = { weights: weights?.data ?? null, bias: bias?.data ?? null };
  return model;
}

/** A model from an address. */
export async function fetchModel(ort, url) {
  const answer = await fetch(url);
  if (!answer.ok) {
    throw new Error(`${url}: no model file there (${answer.status}). gapcam export makes one.`);
  }
  return loadModel(ort, new Uint8Array(await answer.arrayBuffer()));
}

/**
 * One picture through the network: as plain arrays, so that a worker can hand them over.
 *
 * `passes` has one entry for each pass of the recipe: its input `pixels`, and the `features` that
 * every class's map is a product of, or `maps` ([class, plane] pairs) of the `top` best classes
 * where the head is not linear.
 */
export async function look(ort, model, picture, recipe = model.card.recipe, top = recipe.top) {
  const refines = recipe.refine !== "none";
  if (refines && !has(model.session, "fine_features")) {
    throw new Error(`recipe ${recipe.name}: this model has no features to refine maps with`);
  }
  const first = pixelsFor(picture, recipe.input_size_hw);
  const names = ["logits", ...(refines ? ["fine_features"] : [])];
  const { outputs, pass } = await passOver(ort, model, first, { top }, names);
  const { logits, fine_features: fine } = outputs;
  const passes = [pass];
  if (recipe.evidence_size_hw) {
    const second = pixelsFor(picture, recipe.evidence_size_hw);
    const same = { classes: pass.maps?.map(([classId]) => classId) };
    passes.push((await passOver(ort, model, second, same)).pass);
  }
  refuseWhatIsNoNumber([logits.data, ...passes.flatMap(values)]);
  return {
    logits: logits.data,
    scores: Float32Array.from(probabilities(logits.data, model.card.scores)),
    passes,
    similarity: refines ? similarity(fine, recipe.centring) : null,
    gap: gapOf(logits.data, pass, model.head),
  };
}

/**
 * How far the maps of a picture are from its scores, mean(map) + bias = logit, as
 * { largest_gap, exact }; null in files that hold no bias.
 */
function gapOf(logits, { features, maps }, { weights, bias }) {
  if (!bias) return null;
  const explained = features ? meansOfAll(features, weights) : meansOf(maps);
  let gap = 0;
  for (const [classId, share] of explained) {
    gap = Math.max(gap, Math.abs(share + bias[classId] - logits[classId]));
  }
  const [high, low] = [maximum(logits), -maximum(logits.map((x) => -x))];
  const range = high > low ? high - low : Math.abs(high);
  return { largest_gap: gap, exact: gap <= EXACT_TOLERANCE * range };
}

const meansOf = (maps) => maps.map(([classId, { data }]) => [classId, mean(data)]);

/** The mean of every class's map, with no map made: the weighted mean of the features. */
function* meansOfAll({ data, channels, height, width }, weights) {
  const size = height * width;
  const means = Float64Array.from({ length: channels }, (_, k) =>
    mean(data.subarray(k * size, (k + 1) * size)),
  );
  for (let classId = 0; classId * channels < weights.length; classId++) {
    yield [classId, dot(weights.subarray(classId * channels, (classId + 1) * channels), means)];
  }
}

/** The maps of more classes, for heads that are not linear: [class, plane] pairs for each pass. */
export async function mapsOfMore(ort, model, passes, classes) {
  const found = [];
  for (const { pixels } of passes) {
    const { pass } = await passOver(ort, model, pixels, { classes });
    refuseWhatIsNoNumber(values(pass));
    found.push(pass.maps);
  }
  return found;
}

/** What `look` gives, with maps by class: { logits, scores, gap, maps, finer, similarity }. */
export function seenFrom(looked, head) {
  const { logits, scores, gap, passes, similarity: alike } = looked;
  const [maps, finer] = passes.map(({ features, maps: some }) =>
    features ? new ClassMaps(head.weights, features) : new Map(some),
  );
  return { logits, scores, gap, maps, finer: finer ?? null, similarity: alike };
}

/** A linear head's class maps, each made when it is first asked for: M_c = sum_k w_ck f_k. */
export class ClassMaps extends Map {
  #weights;
  #features;

  constructor(weights, features) {
    super();
    this.#weights = weights;
    this.#features = features;
  }

  get size() {
    return this.#weights.length / this.#features.channels;
  }

  has(classId) {
    return Number.isInteger(classId) && classId >= 0 && classId < this.size;
  }

  get(classId) {
    if (!super.has(classId) && this.has(classId)) super.set(classId, this.#made(classId));
    return super.get(classId);
  }

  #made(classId) {
    const { data, channels, height, width } = this.#features;
    const size = height * width;
    const sums = new Float64Array(size);
    for (let k = 0; k < channels; k++) {
      const weight = this.#weights[classId * channels + k];
      for (let i = 0; i < size; i++) sums[i] += weight * data[k * size + i];
    }
    return { data: Float32Array.from(sums), height, width };
  }

  *keys() {
    for (let classId = 0; classId < this.size; classId++) yield classId;
  }

  *values() {
    for (const classId of this.keys()) yield this.get(classId);
  }

  *entries() {
    for (const classId of this.keys()) yield [classId, this.get(classId)];
  }

  [Symbol.iterator]() {
    return this.entries();
  }

  forEach(act, self) {
    for (const [classId, map] of this) act.call(self, map, classId, this);
  }
}

/** What is in a picture and where: one object for each of the best classes, best first. */
export async function localize(ort, model, picture, recipe = model.card.recipe) {
  const { labels, placeless } = model.card;
  const { bias } = model.head;
  const seen = seenFrom(await look(ort, model, picture, recipe), model.head);
  return bestClasses(seen.logits, recipe.top).map((classId) => {
    const map = seen.maps.get(classId);
    const heat = heatOf(evidenceOf(seen, classId, recipe), map, recipe);
    if (placeless.includes(classId)) heat.data.fill(0); // it means that nothing is there
    const boxes = findRegions(heat, recipe).regions.map(({ box }) => scaleBox(box, heat, picture));
    return {
      classId,
      label: labels[classId],
      score: seen.scores[classId],
      logit: seen.logits[classId],
      explained: bias ? mean(map.data) + bias[classId] : null, // the logit, where maps are exact
      map, // raw: signed, logit units
      heat,
      box: boxes[0] ?? null, // of the largest region
      boxes,
    };
  });
}

/** The ids of the best classes, best first; ties go to the lower id. */
export function bestClasses(logits, count) {
  return rank(logits).slice(0, count);
}

/**
 * How alike the positions of features look to the network: cosines, none below 0, of every pair
 * (`gapcam.refine.similarity`). `features` is a tensor [1, K, h, w].
 */
export function similarity({ data, dims }, centring) {
  const [, channels, height, width] = dims;
  const size = height * width;
  const rows = new Float32Array(size * channels); // a row for each position
  for (let k = 0; k < channels; k++) {
    const plane = data.subarray(k * size, (k + 1) * size);
    const taken = (centring * plane.reduce((sum, x) => sum + x, 0)) / size;
    for (let i = 0; i < size; i++) rows[i * channels + k] = plane[i] - taken;
  }
  for (let i = 0; i < size; i++) {
    const row = rows.subarray(i * channels, (i + 1) * channels);
    const length = Math.max(Math.sqrt(dot(row, row)), TINY);
    for (let k = 0; k < channels; k++) row[k] /= length;
  }
  const alike = new Float32Array(size * size);
  for (let i = 0; i < size; i++) {
    const row = rows.subarray(i * channels, (i + 1) * channels);
    for (let j = 0; j <= i; j++) {
      const cosine = dot(row, rows.subarray(j * channels, (j + 1) * channels));
      alike[i * size + j] = alike[j * size + i] = Math.max(cosine, 0);
    }
  }
  return { data: alike, height, width };
}

function dot(a, b) {
  let sum = 0;
  for (let k = 0; k < a.length; k++) sum += a[k] * b[k];
  return sum;
}

function pixelsFor(picture, [height, width]) {
  return { data: squash(picture, [height, width]), height, width };
}

/** One pass that gives maps, in whichever way the head allows, and the outputs of these names. */
async function passOver(ort, model, pixels, { top, classes }, names = []) {
  if (model.head.weights) {
    const outputs = await run(ort, model, pixels, [...names, "features"]);
    const { data, dims } = outputs.features;
    const [, channels, height, width] = dims;
    return { outputs, pass: { pixels, features: { data, channels, height, width } } };
  }
  const more = classes ? { classes } : { top: Math.min(top, model.card.labels.length) };
  const wanted = classes ? ["asked_maps"] : ["top_maps", "top_classes"];
  const outputs = await run(ort, model, pixels, [...names, ...wanted], more);
  const shown = planes(outputs[wanted[0]]);
  const ids = classes ?? Array.from(outputs.top_classes.data, Number);
  return { outputs, pass: { pixels, maps: ids.map((classId, i) => [classId, shown[i]]) } };
}

/** Some of the outputs. Heads that are not linear take two more inputs, needed or not. */
async function run(ort, { session }, { data, height, width }, names, more = {}) {
  if (!names.length) return {};
  const { top = 1, classes = [0] } = more;
  const integers = (ids, dims) => new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), dims);
  const given = {
    images: new ort.Tensor("uint8", data, [1, height, width, 3]),
    top: integers([top], [1]),
    asked_classes: integers(classes, [1, classes.length]),
  };
  const inputs = session.inputNames.map((name) => [name, given[name]]);
  return session.run(Object.fromEntries(inputs), names);
}

function planes({ data, dims }) {
  const [, count, height, width] = dims;
  const size = height * width;
  return Array.from({ length: count }, (_, i) => ({
    data: data.slice(i * size, (i + 1) * size),
    height,
    width,
  }));
}

const has = (session, name) => session.outputNames.includes(name);

const values = ({ features, maps }) =>
  features ? [features.data] : maps.map(([, plane]) => plane.data);

function refuseWhatIsNoNumber(arrays) {
  if (!arrays.every((array) => array.every(Number.isFinite))) {
    throw new Error("the network gives scores or maps that are not all finite");
  }
}
