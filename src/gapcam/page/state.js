/** What the page shows, in one object, and what follows from it. Changes go through `update`. */

export const OPACITY = 0.7;

export function createStore() {
  const listeners = [];
  let state = {
    model: null,
    pictures: [], // { id, name, blob, doing: "waiting" | "looking" | "done" | "failed", ... }
    current: null, // the id of one of them
    compare: false,
    active: 0, // which of the two views the lists choose for
    preview: null, // the class under the pointer, shown instead of the chosen one
    threshold: null, // null: the recipe's own
    opacity: OPACITY,
    show: { heat: true, outline: false, box: true },
    point: null, // { u, v }: shares of the picture's width and height
    long: false, // whether the list of classes is
    message: { text: "", fault: false },
  };
  return {
    get state() {
      return state;
    },
    update(change) {
      state = { ...state, ...(typeof change === "function" ? change(state) : change) };
      for (const listener of listeners) listener(state);
    },
    /** Changes one picture; one that was removed meanwhile stays removed. */
    updatePicture(id, change) {
      const changed = (picture) => (picture.id === id ? { ...picture, ...change } : picture);
      this.update(({ pictures }) => ({ pictures: pictures.map(changed) }));
    },
    subscribe: (listener) => listeners.push(listener),
  };
}

export const currentPicture = ({ pictures, current }) => pictures.find(({ id }) => id === current);

/** What the network said of the picture that is shown, or null. */
export const seenNow = (state) => currentPicture(state)?.seen ?? null;

export const thresholdOf = ({ threshold, model }) => threshold ?? model.recipe.threshold;

/** The class chosen for each view; of a picture just looked at, the best and the second best. */
export function chosenClasses(picture) {
  const [best, second] = picture.ranked;
  return [picture.chosen[0] ?? best, picture.chosen[1] ?? second ?? best];
}

/** The class that each view shows: the one under the pointer first. */
export function shownClasses(state) {
  const picture = currentPicture(state);
  if (!picture?.seen) return [];
  const classes = chosenClasses(picture).slice(0, state.compare ? 2 : 1);
  if (state.preview !== null) classes[state.compare ? state.active : 0] = state.preview;
  return classes;
}

/** A share as people read it. */
export function percent(share) {
  if (share > 0 && share < 0.0005) return "<0.1 %";
  return share < 0.9995 || share === 1 ? `${(100 * share).toFixed(1)} %` : ">99.9 %";
}
