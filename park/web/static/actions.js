// Steering: what the buttons and keys do to a job, with a question first where something is lost.

import { $, h, post, toast } from "./dom.js";

export const ACTIONS = {
  stop: { key: "s", label: "Stop", title: "End at the next safe point and keep the best so far" },
  pause: { key: "p", label: "Pause", title: "Deal nothing more of it until it is resumed" },
  resume: { key: "p", label: "Resume", title: "Let it go on" },
  priority: { key: "i", label: "Priority…", title: "Change what it is worth" },
  tags: { key: "t", label: "Tags…", title: "Change its tags" },
  control: { key: "c", label: "Control…", title: "Tell its body something" },
  retry: { key: "r", label: "Run again", title: "Submit the same request once more" },
  abort: { key: "a", label: "Abort…", title: "End it now, without a result", grave: true },
  delete: { key: "d", label: "Delete…", title: "Forget it, with its results", grave: true },
};

const PRIORITIES = ["background", "free", "low", "normal", "high", "urgent"];
const LOST = {
  abort: ["Abort", "It ends now. Its unfinished work is lost; Stop would keep its best so far."],
  delete: ["Delete", "Its record, request, inputs, results, files and log are deleted for good."],
};

/** Show a dialog; its promise gives the values of its fields by name, or null where it was cancelled. */
export function dialog(title, body, confirm, grave = false) {
  const element = $("dialog");
  const before = document.activeElement;
  return new Promise((resolve) => {
    const buttons = h("p", { class: "buttons" },
      h("button", { type: "button", class: "plain", click: () => element.close("") }, confirm ? "Cancel" : "Close"),
      confirm ? h("button", { type: "submit", class: grave ? "grave" : "main" }, confirm) : null);
    const form = h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, title), ...body, buttons);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      element.close("done");
    });
    element.replaceChildren(form);
    element.addEventListener("close", () => {
      const values = element.returnValue === "done" ? Object.fromEntries(new FormData(form)) : null;
      element.returnValue = "";
      if (before && before.isConnected) before.focus();
      resolve(values);
    }, { once: true });
    element.showModal();
    const first = form.querySelector("input:checked") || form.querySelector("input");
    if (first && first.type === "text") first.setSelectionRange(first.value.length, first.value.length);
    (first || (grave ? buttons.firstChild : buttons.lastChild)).focus();
  });
}

async function details(job, action) {
  const name = `job ${job.job}${job.name ? ` (${job.name})` : ""}`;
  if (action in LOST) {
    const [verb, text] = LOST[action];
    const sure = await dialog(`${verb} ${name}?`, [h("p", {}, text)], `${verb} job ${job.job}`, true);
    return sure && {};
  }
  if (action === "priority") {
    const choice = (word) => h("label", {}, h("input", { type: "radio", name: "priority", value: word, required: true, checked: word === job.priority }), word);
    const group = h("fieldset", { class: "choice" }, h("legend", { class: "hidden" }, "Priority"), ...PRIORITIES.map(choice));
    return dialog(`Priority of ${name}`, [group], "Change");
  }
  if (action === "tags") {
    const tags = h("input", { name: "tags", value: (job.alltags || job.tags).join(", "), size: "40" });
    const found = await dialog(`Tags of ${name}`, [h("label", {}, "Tags, with commas between them ", tags)], "Change");
    return found && { tags: found.tags.split(",").map((tag) => tag.trim()).filter(Boolean) };
  }
  if (action === "control") {
    return dialog(`Tell the body of ${name}`, [
      h("label", {}, "Message, as in on_MESSAGE ", h("input", { name: "kind", required: true, pattern: "[A-Za-z_]\\w*" })),
      h("label", {}, "Fields as JSON ", h("input", { name: "fields", placeholder: '{"value": 0.1}', size: "40" })),
    ], "Tell");
  }
  return {};
}

/** Do *action* to a job that a row or the job's page shows. Returns the service's answer, or null. */
export async function perform(job, action) {
  const given = await details(job, action);
  if (!given) return null;
  try {
    const answer = await post(`api/job/${job.job}/${action}`, given);
    toast(answer.text);
    return answer;
  } catch (error) {
    toast(error.message, true);
    return null;
  }
}

/** The name of the action of a key for a job in this state, if there is one. */
export function actionOf(key, job) {
  const ended = ["complete", "failed", "aborted"].includes(job.state);
  if (key === "p") return ended ? null : job.state === "paused" ? "resume" : "pause";
  const found = Object.keys(ACTIONS).find((name) => ACTIONS[name].key === key);
  if (!found) return null;
  const when = { retry: true, delete: ended }[found];
  return (when === undefined ? !ended : when) ? found : null;
}
