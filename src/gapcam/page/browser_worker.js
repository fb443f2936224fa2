/**
 * The network of `browser_source.js`, off the page's own thread, so that the page stays responsive.
 *
 * It takes { id, doing, ...facts } and answers { id, done } or { id, fault }, in the order asked;
 * { told } says how far loading is.
 */

import { loadModel, look, mapsOfMore } from "./network.js";
import { readPicture } from "./picture.js";

const MOST_THREADS = 4;

let ort = null;
let model = null;
let work = Promise.resolve();

const tasks = { open, look: lookAt, maps: mapsOf };

self.addEventListener("message", ({ data: { id, doing, ...facts } }) => {
  work = work.then(async () => {
    try {
      const { done, given } = await tasks[doing](facts);
      self.postMessage({ id, done }, given);
    } catch (error) {
      self.postMessage({ id, fault: error?.message ?? String(error) });
    }
  });
});

async function open({ runtime, wasm, file, bytes: all }) {
  ort = await import(runtime).catch((error) => {
    throw new Error(`${runtime}: cannot be used (${error.message})`);
  });
  // Threads need memory that is shared, which a browser grants to pages with two headers only.
  const cores = Math.min(MOST_THREADS, navigator.hardwareConcurrency);
  ort.env.wasm.numThreads = self.crossOriginIsolated ? cores : 1;
  const progress = { loaded: 0, all, told: 0 };
  const [binary, bytes] = await Promise.all([download(wasm, progress), download(file, progress)]);
  ort.env.wasm.wasmBinary = binary.buffer; // so that a server may send it as any type
  self.postMessage({ told: "Starting the network …" });
  model = await loadModel(ort, bytes).catch((error) => {
    throw new Error(`${file}: ${error?.message ?? error}`);
  });
  return { done: { card: model.card, ...model.head }, given: [] };
}

/** The bytes of a file; says how far all are. */
async function download(url, progress) {
  const answer = await fetch(url).catch((error) => {
    throw new Error(`${url}: cannot be fetched (${error.message})`);
  });
  if (!answer.ok) {
    const advice = "Write the folder again: gapcam export MODEL --web DIR";
    throw new Error(`${url}: not there (${answer.status}). ${advice}`);
  }
  const parts = [];
  for (const reader = answer.body.getReader(); ; ) {
    const { value, done } = await reader.read();
    if (done) break;
    parts.push(value);
    progress.loaded += value.length;
    const share = Math.floor((100 * progress.loaded) / progress.all);
    if (share > progress.told) {
      progress.told = share;
      self.postMessage({ told: `Loading the model: ${share} % of ${megabytes(progress.all)} …` });
    }
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;

async function lookAt({ blob, recipe, top }) {
  const picture = await readPicture(blob).catch(() => {
    throw new Error("this browser cannot read it as a picture; try a JPEG or PNG");
  });
  picture.bitmap.close();
  const { height, width, rows, columns } = picture;
  const done = { ...(await look(ort, model, picture, recipe, top)), height, width };
  done.notes = rows < height ? [`read at ${columns} × ${rows} pixels`] : [];
  return { done, given: buffersOf(done) };
}

async function mapsOf({ passes, classes }) {
  return { done: await mapsOfMore(ort, model, passes, classes), given: [] };
}

/** The memory that is handed over and not copied. */
function buffersOf({ logits, scores, similarity, passes }) {
  const arrays = [logits, scores, ...(similarity ? [similarity.data] : [])];
  for (const { pixels, features, maps } of passes) {
    arrays.push(pixels.data, ...(features ? [features.data] : []));
    arrays.push(...(maps ?? []).map(([, plane]) => plane.data));
  }
  return [...new Set(arrays.map(({ buffer }) => buffer))];
}
