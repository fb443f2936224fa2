/** One still from the webcam, when asked. */

const REFUSED = {
  NotAllowedError: "The webcam was refused. Allow it for this page in the browser, then try again.",
  NotFoundError: "This device has no webcam that the browser can find.",
  NotReadableError: "The webcam is in use by another program.",
};

/** `take(files)` gets the still, `say(words)` what went wrong. */
export function createWebcam({ take, say }) {
  const [dialog, video] = ["webcam", "video"].map((id) => document.getElementById(id));
  let stream = null;

  async function open() {
    if (!navigator.mediaDevices?.getUserMedia) {
      say("The browser opens the webcam only for pages over https or from this computer.");
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
    } catch (error) {
      say(REFUSED[error.name] ?? `The webcam cannot be opened (${error.message}).`);
      return;
    }
    video.srcObject = stream;
    dialog.showModal();
    await video.play().catch(() => {}); // closed before it began
  }

  async function snap() {
    if (!video.videoWidth) return; // no picture has come yet
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    const still = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
    dialog.close();
    take([new File([still], "webcam.jpg", { type: "image/jpeg" })]);
  }

  document.getElementById("snap").addEventListener("click", snap);
  document.getElementById("webcam-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = video.srcObject = null;
  });
  return { open };
}
