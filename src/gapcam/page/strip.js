/** The strip of pictures: choose one, remove one, try a failed one again. */

const WORDS = { waiting: "waiting", looking: "being looked at", done: "", failed: "failed" };

/** `actions`: select(id), remove(id). */
export function createStrip(list, actions) {
  const shown = new Map(); // id -> { item, thumb }
  let last = null;

  /** Removes a picture; the focus goes to the one beside it. */
  function remove(item) {
    const near = item.nextElementSibling ?? item.previousElementSibling;
    near?.querySelector(".thumb").focus();
    actions.remove(Number(item.dataset.id));
  }

  list.addEventListener("click", (event) => {
    const item = event.target.closest("li");
    if (event.target.closest(".remove")) remove(item);
    else if (event.target.closest(".thumb")) actions.select(Number(item.dataset.id));
  });
  list.addEventListener("keydown", (event) => {
    const item = event.target.closest("li");
    const step = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[
      event.key
    ];
    if (event.key === "Delete" && item) {
      remove(item);
    } else if (step && item[step]) {
      event.preventDefault();
      item[step].querySelector(".thumb").focus();
      actions.select(Number(item[step].dataset.id));
    }
  });

  return {
    render({ pictures, current }) {
      for (const [id, { item }] of shown) {
        if (pictures.some((picture) => picture.id === id)) continue;
        item.remove();
        shown.delete(id);
      }
      for (const picture of pictures) {
        if (!shown.has(picture.id)) {
          const item = makeItem(picture);
          list.append(item);
          shown.set(picture.id, { item });
        }
        fill(shown.get(picture.id), picture, picture.id === current);
      }
      if (current !== last && shown.has(current)) reveal(list, shown.get(current).item);
      last = current;
    },
  };
}

/** Scrolls the strip, and it alone, as far as an item needs to be seen. */
function reveal(list, item) {
  const left = item.offsetLeft - list.offsetLeft;
  const least = left + item.offsetWidth - list.clientWidth;
  list.scrollLeft = Math.max(Math.min(list.scrollLeft, left), least);
}

function makeItem({ id, name }) {
  const item = document.createElement("li");
  item.dataset.id = id;
  const thumb = document.createElement("button");
  thumb.type = "button";
  thumb.className = "thumb";
  const remove = document.createElement("button");
  remove.type = "button";
  remove.className = "remove";
  remove.textContent = "×";
  remove.setAttribute("aria-label", `Remove ${name}`);
  item.append(thumb, remove);
  return item;
}

function fill(kept, picture, current) {
  const { item } = kept;
  const thumb = item.firstElementChild;
  if (kept.thumb !== picture.thumb && picture.thumb) {
    kept.thumb = picture.thumb;
    thumb.replaceChildren(picture.thumb);
  }
  item.className = picture.doing;
  thumb.title = picture.error ?? picture.name;
  const words = [picture.name, WORDS[picture.doing]].filter(Boolean).join(", ");
  thumb.setAttribute("aria-label", words);
  thumb.setAttribute("aria-pressed", current);
}
