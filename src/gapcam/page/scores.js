/** Logits to scores and ranks: gapcam's maps.py. */

import { maximum } from "./maps.js";

/** Probabilities of logits: softmax, or sigmoid where classes go together or there is but one. */
export function probabilities(logits, rule) {
  const values = Float64Array.from(logits);
  if (rule === "sigmoid" || values.length === 1)
    return values.map((logit) => 1 / (1 + Math.exp(-logit)));
  const highest = maximum(values);
  const powers = values.map((logit) => Math.exp(logit - highest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

/** All classes, best first; ties go to the lower id. */
export function rank(logits) {
  return Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
}
