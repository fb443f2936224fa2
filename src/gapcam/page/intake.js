/** The ways in for pictures: drop, paste, pick, a sample. */

import { THUMBS } from "./sample_thumbs.js";

/** `take(files)` gets a list of blobs with names, `say(words)` what went wrong. */
export function listenForPictures({ take, say, openWebcam }) {
  const file = document.getElementById("file");
  document.addEventListener("click", (event) => {
    const doing = event.target.closest("[data-do]")?.dataset.do;
    if (doing === "pick") file.click();
    if (doing === "webcam") openWebcam();
  });
  file.addEventListener("change", () => {
    take([...file.files]);
    file.value = ""; // so that the same file can be chosen again
  });

  const over = (on) => document.body.classList.toggle("over", on);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) over(false);
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    const files = [...event.dataTransfer.files];
    if (files.length) take(files);
    else say("That was no file. Save the picture first, then drop its file here.");
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) take(files);
    else if (!event.target.closest?.("input")) say("There is no picture on the clipboard.");
  });
}

/** Buttons for the sample pictures: [{ name, url }]. */
export function showSamples(samples, { take, say }) {
  const box = document.getElementById("samples");
  box.hidden = !samples?.length;
  box.querySelector("ul").replaceChildren(
    ...(samples ?? []).map(({ name, url }) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      const image = document.createElement("img");
      image.src = THUMBS[name] ?? url;
      image.alt = name.replace(/\.\w+$/, "");
      image.loading = "lazy";
      button.append(image);
      button.addEventListener("click", async () => {
        try {
          const answer = await fetch(url);
          if (!answer.ok) throw new Error(answer.statusText);
          take([new File([await answer.blob()], name, { type: "image/jpeg" })]);
        } catch {
          say(`${name}: the sample cannot be fetched. Is the server still running?`);
        }
      });
      item.append(button);
      return item;
    }),
  );
}
