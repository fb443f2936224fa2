/** The controls under the picture: sliders, what is shown, comparing, downloads. */

import { saveCoco, saveOverlay, saveRecord } from "./downloads.js";
import { inPercent } from "./facts.js";
import { shownViews } from "./stage.js";
import { currentPicture, OPACITY, thresholdOf } from "./state.js";

const at = (id) => document.getElementById(id);

export function createControls({ answers, actions, store, complain }) {
  const { labels, recipe } = store.state.model;
  const near = Number(recipe.threshold.toFixed(2)); // where the slider stands for the recipe's own
  at("tick").style.setProperty("--at", near / 0.99);

  at("threshold").addEventListener("input", () => {
    const value = Number(at("threshold").value);
    store.update({ threshold: Math.abs(value - near) < 1e-6 ? null : value });
  });
  at("reset").addEventListener("click", () => store.update({ threshold: null, opacity: OPACITY }));
  at("opacity").addEventListener("input", () =>
    store.update({ opacity: Number(at("opacity").value) }),
  );
  for (const what of ["heat", "outline", "box"]) {
    at(`show-${what}`).addEventListener("change", (event) => {
      const { checked } = event.target;
      store.update(({ show }) => ({ show: { ...show, [what]: checked } }));
    });
  }
  at("compare").parentElement.hidden = labels.length < 2;
  at("compare").addEventListener("change", async (event) => {
    await actions.compare(event.target.checked);
    event.target.checked = store.state.compare;
  });

  const saves = {
    png: (state, picture) => saveOverlay(picture, shownViews(answers, state), state),
    json: (state, picture) => saveRecord(picture, state, answers),
    coco: (state) => saveCoco(state, answers),
  };
  for (const [kind, save] of Object.entries(saves)) {
    at(`save-${kind}`).addEventListener("click", async () => {
      try {
        await save(store.state, currentPicture(store.state));
      } catch (error) {
        complain(`The file cannot be made: ${error.message}`);
      }
    });
  }

  function render(state) {
    const threshold = thresholdOf(state);
    const own = state.threshold === null;
    const slider = at("threshold");
    const value = own ? near : threshold;
    if (Number(slider.value) !== value) slider.value = value;
    slider.style.setProperty("--at", value / 0.99);
    slider.setAttribute(
      "aria-valuetext",
      `${inPercent(threshold)} of the peak${own ? ", the recipe's own" : ""}`,
    );
    at("threshold-value").textContent = inPercent(threshold);
    if (Number(at("opacity").value) !== state.opacity) at("opacity").value = state.opacity;
    at("opacity").style.setProperty("--at", state.opacity);
    at("opacity").setAttribute("aria-valuetext", inPercent(state.opacity));
    at("opacity-value").textContent = inPercent(Number(state.opacity.toFixed(2)));
    at("reset").disabled = own && state.opacity === OPACITY;
    at("save-coco").title = `COCO of ${state.pictures.filter(({ seen }) => seen).length} pictures`;
  }

  return { render };
}
