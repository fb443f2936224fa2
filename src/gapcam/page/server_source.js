/** Answers from the server that the page comes from (`gapcam serve`): one request a picture. */

import { probabilities } from "./scores.js";

/** How many classes to ask maps of where the server does not give all. */
const SOME = 20;
/** How often a busy server is asked again, and how long one request may take. */
const TRIES = 5;
const LONGEST_WAIT_S = 30;
const PATIENCE_MS = 120_000;

/**
 * A source of answers. `settings` is page.json, with `askToken(wrong)`: a promise of the token that
 * the server wants; `tell(text)` says what is going on.
 */
export async function openSource(settings, tell = () => {}) {
  const server = makeServer(settings, tell);
  const model = await server.ask("./v1/model");

  async function look(blob, name) {
    if (blob.size > model.limits.max_bytes) {
      const [size, most] = [blob.size, model.limits.max_bytes].map((n) => n.toLocaleString("en"));
      throw new Error(
        `${name}: the file has ${size} bytes, and this server takes at most ${most}. Make it smaller.`,
      );
    }
    const best = Math.min(model.recipe.top, model.max_top);
    const some = `top=${Math.min(SOME, model.max_top)}&maps=found`;
    const asked = model.all_maps ? `top=${best}&maps=all` : some;
    const found = await localize(server, blob, name, asked);
    const { logits, maps, finer, similarity } = unpack(found.maps, model);
    return {
      ...{ name, blob, width: found.width, height: found.height, notes: found.notes ?? [] },
      ...{ logits, scores: Float32Array.from(probabilities(logits, model.scores)) },
      ...{ boxes: boxesOf(found.detections), maps, finer, similarity },
    };
  }

  async function mapsOf(seen, classIds) {
    const missing = classIds.filter((classId) => !seen.maps.has(classId));
    if (!missing.length) return;
    const asked = `${missing.map((classId) => `class=${classId}`).join("&")}&maps=found`;
    const found = await localize(server, seen.blob, seen.name, asked);
    const more = unpack(found.maps, model);
    for (const [classId, plane] of more.maps) seen.maps.set(classId, plane);
    for (const [classId, plane] of more.finer ?? []) seen.finer.set(classId, plane);
    for (const [classId, boxes] of boxesOf(found.detections)) seen.boxes.set(classId, boxes);
  }

  return { model, place: "sent to this server", look, mapsOf };
}

async function localize(server, blob, name, asked) {
  const type = blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
  const request = { method: "POST", body: blob, headers: { "Content-Type": type } };
  const { results } = await server.ask(`./v1/localize?${asked}`, request, name);
  if (results[0].error) throw new Error(`${name}: ${results[0].error.message}`);
  return results[0];
}

/** Class id to its boxes, largest first. */
function boxesOf(detections) {
  const boxes = new Map();
  for (const { class_id: classId, box } of detections) {
    boxes.set(classId, [...(boxes.get(classId) ?? []), ...(box ? [box] : [])]);
  }
  return boxes;
}

function unpack(maps, model) {
  const ids = maps.class_ids ?? model.labels.map((_, classId) => classId);
  return {
    logits: floats(maps.logits),
    maps: planes(ids, maps.size_hw, maps.values),
    finer: maps.finer_values ? planes(ids, maps.finer_size_hw, maps.finer_values) : null,
    similarity: maps.similarity ? plane(halves(maps.similarity), maps.similarity_hw) : null,
  };
}

const plane = (data, [height, width]) => ({ data, height, width });

function planes(ids, size, text) {
  const values = halves(text);
  const cells = size[0] * size[1];
  return new Map(
    ids.map((id, i) => [id, plane(values.subarray(i * cells, (i + 1) * cells), size)]),
  );
}

function bytes(text) {
  const letters = atob(text);
  const found = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) found[i] = letters.charCodeAt(i);
  return found;
}

function floats(text) {
  const view = new DataView(bytes(text).buffer);
  return Float32Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

let widened = null;

/** Little-endian float16 to float32, by a table of all 65,536. */
function halves(text) {
  widened ??= Float32Array.from({ length: 65536 }, (_, bits) => widen(bits));
  const found = bytes(text);
  const values = new Float32Array(found.length / 2);
  for (let i = 0; i < values.length; i++)
    values[i] = widened[found[2 * i] + 256 * found[2 * i + 1]];
  return values;
}

function widen(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

/** The server, with its token and its manners. */
function makeServer(settings, tell) {
  let token = null;

  async function once(url, request) {
    const headers = { ...request.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    const signal = AbortSignal.timeout(PATIENCE_MS);
    try {
      return await fetch(url, { ...request, headers, signal });
    } catch (error) {
      if (error.name === "TimeoutError") throw new Error("the server took too long; try again");
      throw new Error(
        "the server does not answer. Is it still running? Your pictures are kept here; try again.",
      );
    }
  }

  async function ask(url, request = {}, name = "") {
    const of = name ? `${name}: ` : "";
    for (let tried = 1; ; tried++) {
      const answer = await once(url, request).catch((error) => {
        throw new Error(of + error.message);
      });
      if (answer.ok) return answer.json();
      if (answer.status === 401) {
        token = await settings.askToken(token !== null);
        continue;
      }
      const busy = answer.status === 429 || answer.status === 503;
      if (busy && tried < TRIES) {
        const asked = Number(answer.headers.get("Retry-After")) || 1;
        const seconds = Math.min(asked, LONGEST_WAIT_S);
        tell(`${of}the server is busy; trying again in ${seconds} s.`);
        await new Promise((wait) => setTimeout(wait, 1000 * seconds));
        continue;
      }
      throw new Error(of + (await wordsOf(answer)));
    }
  }

  return { ask };
}

async function wordsOf(answer) {
  const body = await answer.json().catch(() => null);
  const said = body?.error?.message?.replace(/^picture: /, ""); // what it calls a body with no name
  const words = said ?? `the server answered ${answer.status} ${answer.statusText}`;
  if (answer.status === 429) return `the server is busy (${words}); try again in a while`;
  return words;
}
