/** The strip of pictures: choose one, remove one, try a failed one again. */

const WORDS = { waiting: "waiting", looking: "being looked at", done: "", failed: "failed" };

/** `actions`: select(id), remove(id). */
export function createStrip(list, actions) {
  const shown = new Map(); // id -> { item, picture }

  list.addEventListener("click", (event) => {
    const id = Number(event.target.closest("li")?.dataset.id);
    if (event.target.closest(".remove")) actions.remove(id);
    else if (event.target.closest(".thumb")) actions.select(id);
  });
  list.addEventListener("keydown", (event) => {
    const item = event.target.closest("li");
    const step = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[
      event.key
    ];
    const id = Number(item?.dataset.id);
    if (event.key === "Delete" && item) {
      const near = item.nextElementSibling ?? item.previousElementSibling;
      near?.querySelector(".thumb").focus();
      actions.remove(id);
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
    },
  };
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
