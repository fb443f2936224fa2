/** What is in a gapcam model file, read from its bytes. */

const text = new TextDecoder();

/** Numbers of fields in ONNX's messages. */
const MODEL = { graph: 7, metadata: 14 };
const GRAPH = { initializer: 5, input: 11 };
const NAME = { [GRAPH.initializer]: 8, [GRAPH.input]: 1 };

/** The format that this page reads, `gapcam.models.model_file.FORMAT`. */
const FORMAT = 3;

/**
 * What a model file says of itself: labels, recipe, input_size_hw, head, ...
 *
 * onnxruntime-web does not hand out an ONNX file's metadata, but an ONNX file is one protobuf
 * message, and one of its fields holds the metadata as entries of a key (1) and a value (2).
 */
export function readMetadata(bytes) {
  const found = {};
  for (const [field, value] of protobufFields(bytes)) {
    if (field !== MODEL.metadata) continue;
    const entry = Object.fromEntries(protobufFields(value));
    const key = text.decode(entry[1]);
    if (key.startsWith("gapcam.")) found[key.slice(7)] = JSON.parse(text.decode(entry[2]));
  }
  if (!found.recipe) throw new Error("this ONNX file was not exported by gapcam");
  if (found.format !== FORMAT) {
    const differ = `model file format ${found.format}, this page reads format ${FORMAT}`;
    throw new Error(`${differ}. Export page and model together: gapcam export MODEL --web DIR`);
  }
  return found;
}

/**
 * The same file, with inputs that have to be given where they had values of their own (`top` and
 * `asked_classes` of heads that are not linear): onnxruntime-web takes no others.
 */
export function openInputs(bytes) {
  const parts = [];
  for (const [field, value, whole] of protobufFields(bytes)) {
    const graph = field === MODEL.graph ? withoutValuesOfInputs(value) : null;
    if (graph) parts.push(varint(field * 8 + 2), varint(graph.length), graph);
    else parts.push(whole);
  }
  return joined(parts);
}

/** A graph without the constants that are called as an input is; null where there are none. */
function withoutValuesOfInputs(graph) {
  const fields = [...protobufFields(graph)];
  const called = (message, number) => {
    for (const [field, value] of protobufFields(message)) {
      if (field === number) return text.decode(value);
    }
    return null;
  };
  const names = (kind) =>
    fields.filter(([field]) => field === kind).map(([, value]) => called(value, NAME[kind]));
  const values = new Set(names(GRAPH.initializer));
  const inputs = new Set(names(GRAPH.input).filter((name) => values.has(name)));
  if (!inputs.size) return null;
  const kept = fields.filter(
    ([field, value]) =>
      field !== GRAPH.initializer || !inputs.has(called(value, NAME[GRAPH.initializer])),
  );
  return joined(kept.map(([, , whole]) => whole));
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** A whole number as protobuf writes it. */
function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  return Uint8Array.of(...bytes, value);
}

/** The [number, value, whole] of each field of one protobuf message; messages inside stay bytes. */
function* protobufFields(bytes) {
  let at = 0;
  const number = () => {
    let value = 0;
    for (let unit = 1; at < bytes.length; unit *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * unit; // a shift would lose what is beyond 32 bits
      if (byte < 128) return value;
    }
    throw new Error("not an ONNX file, or one cut short");
  };
  const take = (length) => {
    if (at + length > bytes.length) throw new Error("not an ONNX file, or one cut short");
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const start = at;
    const tag = number();
    const wire = tag % 8;
    if (![0, 1, 2, 5].includes(wire)) throw new Error("not an ONNX file");
    const value = wire === 0 ? number() : take(wire === 2 ? number() : wire === 1 ? 8 : 4);
    yield [Math.floor(tag / 8), value, bytes.subarray(start, at)];
  }
}
