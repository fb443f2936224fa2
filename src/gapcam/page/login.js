/** Asks for the token of a server that wants one; it is kept in memory only. */

const at = (id) => document.getElementById(id);

let asked = null;

/** A promise of the token; `wrong` says that one was refused. Rejects when the user gives up. */
export function askToken(wrong) {
  asked ??= ask(wrong).finally(() => (asked = null));
  return asked;
}

function ask(wrong) {
  const dialog = at("login");
  at("login-note").textContent = wrong
    ? "That token was refused. Try again; it is kept in this page's memory only."
    : "It is kept in this page's memory only.";
  at("login-note").classList.toggle("fault", wrong);
  at("token").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve, reject) => {
    at("login-cancel").onclick = () => dialog.close("");
    dialog.onclose = () => {
      const token = at("token").value.trim();
      at("token").value = "";
      if (dialog.returnValue === "use" && token) resolve(token);
      else reject(new Error("this server asks for a token, and none was given."));
    };
  });
}
