/** Words and numbers: the proof for the class that is shown, its box, the model, the badges. */

const at = (id) => document.getElementById(id);

/** What the page says of itself at the top: where pictures go, whether the maps are exact. */
export function showBadges(model, place) {
  const exact = model.exact
    ? ["good", "Exact maps", "Each map adds up to its class's score: see Why here."]
    : ["fair", "Maps not exact", "The maps explain the scores in part: see Why here."];
  const badges = [
    ["", `Your pictures: ${place}`, "Where the pictures go that you choose."],
    exact,
    ["", `${model.name}, ${inClasses(model.labels.length)}`, model.proof],
  ];
  at("badges").replaceChildren(
    ...badges.map(([kind, text, title]) => {
      const item = document.createElement("li");
      item.className = kind;
      item.textContent = text;
      item.title = title;
      return item;
    }),
  );
}

export function showModel(model, place) {
  const { recipe } = model;
  const passes = [recipe.input_size_hw, recipe.evidence_size_hw].filter(Boolean);
  const size = passes.map(([height, width]) => `${height} × ${width}`).join(" and ");
  pairs(at("about"), [
    ["Model", model.name],
    ["Recipe", `${recipe.name}: input ${size}, threshold ${inPercent(recipe.threshold)}`],
    ["Head", [model.head, model.features_at].filter(Boolean).join(", ")],
    ["Your pictures", place],
    ["Version", model.version],
    ["Model file", model.model_sha256 ? `SHA-256 ${model.model_sha256}` : "in memory"],
  ]);
  at("proof").textContent = model.proof;
}

export const inPercent = (share) => `${Number((100 * share).toFixed(1))} %`;

const count = (number) => number.toLocaleString("en");

export const inClasses = (number) => `${count(number)} ${number === 1 ? "class" : "classes"}`;

/** The proof and the place of one class. `proof` and `place` are answers.js's. */
export function showWhy(model, { label, proof, place, score, rank, nothing, placeless }) {
  const near = (value) => (Math.round(100 * value) / 100 || 0).toFixed(2); // no "-0.00"
  const number = (value) => (value === null ? "?" : near(value).replace("-", "−"));
  const sum = proof.bias === null ? null : proof.average + proof.bias;
  terms(at("sum"), [
    ["mean of map", number(proof.average)],
    ["+", "bias", number(proof.bias)],
    ["=", "together", number(sum)],
    [proof.equal ? "=" : "≠", "logit", number(proof.logit)],
  ]);
  at("verdict").className = `verdict ${proof.equal ? "good" : "fair"}`;
  at("verdict").textContent = verdict(model, proof, label);
  const [region] = place.regions;
  const none = placeless
    ? "none: this class means that nothing is there"
    : "none: no positive evidence";
  const found = nothing ? none : region ? boxWords(region.box) : "none above this threshold";
  const more = place.regions.length > 1 ? ` and ${place.regions.length - 1} more` : "";
  pairs(at("pairs"), [
    ["Box", found + more],
    ...(region ? [["Size", sizeWords(region.box)]] : []),
    ["Peak", region ? region.peak.map((side) => side.toFixed(0)).join(", ") : "none"],
    [
      "Score",
      `${(100 * score).toFixed(2)} %, rank ${count(rank)} of ${count(model.labels.length)}`,
    ],
  ]);
}

function verdict(model, { bias, gap, equal }, label) {
  if (bias === null) return "This model file holds no bias, so the sum cannot be checked here.";
  if (equal) return `Exact: the map of ${label} is its logit, spread over the picture.`;
  const words = `The map and the logit of ${label} differ by ${Math.abs(gap).toFixed(3)}`;
  return model.exact
    ? `${words}: more than rounding explains.`
    : `${words}: the maps of this model are not exact, they explain the score in part.`;
}

function boxWords(box) {
  const [x0, y0, x1, y1] = box.map((side) => side.toFixed(1));
  return `${x0}, ${y0} to ${x1}, ${y1}`;
}

const sizeWords = ([x0, y0, x1, y1]) => `${(x1 - x0).toFixed(0)} × ${(y1 - y0).toFixed(0)} pixels`;

/** The terms of a sum: [sign, words, number], the first without a sign. */
function terms(list, rows) {
  list.replaceChildren(
    ...rows.map((row) => {
      const [sign, words, number] = row.length === 3 ? row : ["", ...row];
      const group = document.createElement("div");
      group.append(element("dt", words), element("dd", number));
      group.dataset.sign = sign;
      return group;
    }),
  );
}

function pairs(list, rows) {
  list.replaceChildren(
    ...rows.map(([name, value]) => {
      const group = document.createElement("div");
      group.append(element("dt", name), element("dd", value));
      return group;
    }),
  );
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}
