// The parts that all pages share: the head with the state of the fabric, whether it is stale, and the keys.

import { ACTIONS, actionOf, dialog, perform } from "./actions.js";
import { $, count, h, say, toast } from "./dom.js";
import { follow } from "./live.js";

const KEYS = [
  ["/", "Go to the search field"],
  ["j, k", "Next and previous job (also down and up)"],
  ["Enter", "Open the job"],
  ["n, b", "Next page and back"],
  ["o", "Jobs from the archive, which ended long ago, and back"],
  ["u", "Back to the table of jobs"],
  ...Object.values(ACTIONS).filter(({ label }) => label !== "Resume").map(({ key, label, title }) => [key, `${label.replace("…", "")}: ${title.toLowerCase()}`]),
  ["?", "This list"],
  ["Esc", "Close a dialog; leave a field"],
];

function contact(state, words) {
  const element = $("contact");
  if (element.dataset.state !== state) {
    element.dataset.state = state;
    say(element, words);
  }
  $("stale").hidden = state !== "stale";
}

/** Show the head of the page, and pass each event on to *listener*. */
export function begin(listener) {
  let down = null;
  follow((event) => {
    const { type, data } = event;
    if (type === "refused") {
      contact("refused", "not let in");
      toast("park web was started again: open the address that it printed.", true);
      return;
    }
    if (type === "down") {
      // a stream that heals at once is no news
      down = down || setTimeout(() => contact("down", "park web does not answer"), 2500);
      return;
    }
    clearTimeout(down);
    down = null;
    if ("stale" in data) contact(data.stale ? "stale" : "live", data.stale ? "stale" : "live");
    else if ($("contact").dataset.state === "down") contact("live", "live");
    if (data.summary) {
      const { slots, busy, kernels, states } = data.summary;
      say($("fabric"), `${busy} of ${count(slots, "slot")} busy on ${count(kernels, "kernel")} · ${states.running} running · ${states.queued} queued`);
    }
    listener(event);
  });
  $("help").addEventListener("click", help);
}

function help() {
  if ($("dialog").open) return;
  const rows = KEYS.map(([key, text]) => h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, key)), h("td", {}, text)));
  dialog("Keys", [h("table", { class: "keys" }, h("caption", { class: "hidden" }, "Keys of this page"), h("tbody", {}, ...rows))], null);
}

/** Listen for keys. *chosen* gives the job that a key is for, *done* hears what was done; *more* has keys of the page. */
export function keys({ chosen, done, more = {} }) {
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select");
    if ($("dialog").open || event.ctrlKey || event.metaKey || event.altKey) return;
    if (typing) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "?") help();
    else if (event.key === "u") location.assign("./");
    else if (event.key === "/") (document.querySelector("#text, #log-text, input#jobs") || document.body).focus();
    else if (event.key in more) more[event.key]();
    else {
      const job = chosen();
      const action = job && actionOf(event.key, job);
      if (!action) return;
      if (job.mine) perform(job, action).then((answer) => answer && done(job, action, answer));
      else toast(`Job ${job.job} is ${job.owner}'s: only ${job.owner} and the broker's own user may steer it.`, true);
    }
    event.preventDefault();
  });
}
