// The page of one job, live.

import { ACTIONS, perform } from "./actions.js";
import { $, ask, badge, bytes, clock, count, h, meter, now, say, span, toast } from "./dom.js";
import { showFit, showSteps } from "./fit.js";
import { begin, keys } from "./shell.js";

const number = Number(new URLSearchParams(location.search).get("n"));
const MAX_LINES = 5000;

let job = null;
let life = ""; // which feed it is
let place = 0; // the last entry of it that is here
let feedBusy = false;
let feedAgain = false;
const lines = [];
const steps = [];
let hasFit = false;

// -- its facts --------------------------------------------------------------------------------

async function load() {
  try {
    job = await ask(`api/job/${number}`);
  } catch (error) {
    say($("title"), Number.isNaN(number) ? "No job" : `Job ${number}`);
    say($("why"), error.message);
    $("job").classList.toggle("missing", error.status === 404);
    $("job").setAttribute("aria-busy", "false");
    return;
  }
  document.title = `${job.job} ${job.name} · PARK`;
  show();
  about();
  buttons();
  files();
  scripts();
  $("job").setAttribute("aria-busy", "false");
  if ("fit.json" in job.files) loadFit();
}

function show() {
  say($("title"), `Job ${job.job}: ${job.name || "no name"}`);
  $("badge").replaceChildren(badge(job.word));
  say($("why"), [job.reason, job.remark].filter(Boolean).join("; "));
  const bar = meter(job.fraction, `Progress of job ${job.job}`, `wide ${job.state}`);
  bar.id = "meter";
  $("meter").replaceWith(bar);
  say($("far"), [job.far, job.note, job.failed ? `${job.failed} failed` : "", job.running ? `${count(job.running, "slot")} now` : ""].filter(Boolean).join(" · "));
}

function about() {
  const took = job.started ? span((job.ended || now()) - job.started) : "";
  const facts = [
    ["Owner", job.owner], ["Kind", job.kind], ["Tags", job.alltags.join(", ")], ["Priority", job.priority],
    ["Script", job.argv.map(quoted).join(" ")], ["Submitted", clock(job.submitted)], ["Not before", clock(job.when)],
    ["Started", clock(job.started)], ["Ended", clock(job.ended)], [job.ended ? "Took" : "Runs for", took],
    ["Units", job.total !== null ? `${job.done.toLocaleString("en")} of ${job.total.toLocaleString("en")} done` : ""], ["Hosts", job.hosts.join(", ")],
    ["Used", job.seconds ? `${job.seconds.toFixed(1)} slot-seconds, ${job.credits.toFixed(1)} credits` : ""],
    ["Python", job.python],
  ].filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
  if (job.after.length) {
    const links = job.after.flatMap((n) => [h("a", { href: `job?n=${n}` }, `job ${n}`), " "]);
    facts.push(h("div", {}, h("dt", {}, "Comes after"), h("dd", {}, ...links)));
  }
  $("about").replaceChildren(...facts);
}

function buttons() {
  const found = job.actions.map((name) => h("button", {
    type: "button", class: ACTIONS[name].grave ? "grave" : "plain", title: `${ACTIONS[name].title} (${ACTIONS[name].key})`,
    "aria-keyshortcuts": ACTIONS[name].key, click: () => act(name),
  }, ACTIONS[name].label));
  $("actions").hidden = !found.length;
  $("actions").replaceChildren(...found);
}

async function act(name) {
  const answer = await perform(job, name);
  if (answer) done(job, name, answer);
}

function done(_, name, answer) {
  if (name === "retry") location.assign(`job?n=${answer.job}`);
  else if (name === "delete") location.assign("./");
  else load();
}

function files() {
  const names = Object.entries(job.files);
  $("files-section").hidden = !names.length;
  $("files").replaceChildren(...names.map(([name, size]) => h("li", {},
    h("a", { href: `api/job/${number}/file?name=${encodeURIComponent(name)}`, download: name }, name), ` ${bytes(size)}`)));
}

function scripts() {
  $("again").replaceChildren(...Object.entries(job.again).map(([label, text]) => h("figure", {},
    h("figcaption", {}, label, h("button", { type: "button", class: "plain", "aria-label": `Copy: ${label}`, click: () => copy(text) }, "Copy")),
    h("pre", { tabindex: "0" }, text))));
}

const quoted = (word) => (/^[\w./:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied.");
  } catch {
    toast("The browser does not let this page copy: select the text and copy it.", true);
  }
}

// -- its words ------------------------------------------------------------------------------

async function pull() {
  if (feedBusy) { feedAgain = true; return; }
  feedBusy = true;
  try {
    const feed = await ask(`api/job/${number}/feed?after=${place}`);
    if (life && feed.life !== life) { // the web process has begun anew, or its contact with the broker
      lines.length = steps.length = place = 0;
      life = "";
      feedAgain = true;
    } else {
      life = feed.life;
      place = feed.number;
      lines.push(...feed.log);
      steps.push(...feed.steps);
      if (feed.log.length || !lines.length) (feed.log.length < lines.length ? growLog : showLog)(feed.log);
      if (feed.steps.length && !hasFit) showSteps(steps, job);
      if (feed.messages.length) messages(feed.messages);
      if (feed.trouble) say($("log-count"), feed.trouble);
    }
  } catch (error) {
    say($("log-count"), error.message);
  }
  feedBusy = false;
  if (feedAgain) { feedAgain = false; pull(); }
}

const logLine = ([time, level, text]) => h("div", { class: "logline", "data-level": level },
  h("time", {}, time ? new Date(time * 1000).toLocaleTimeString() : ""), !["info", "out"].includes(level) ? h("b", {}, level) : null, h("span", {}, text));

/** Only *news* is drawn where nothing is searched for: a long log may grow fast. */
function growLog(news) {
  const box = $("log");
  if ($("log-text").value || lines.length > MAX_LINES || !box.querySelector(".logline")) { showLog(); return; }
  const follows = box.scrollTop + box.clientHeight >= box.scrollHeight - 20;
  box.append(...news.map(logLine));
  say($("log-count"), count(lines.length, "line"));
  if (follows) box.scrollTop = box.scrollHeight;
}

function showLog() {
  lines.splice(0, Math.max(0, lines.length - MAX_LINES));
  const wanted = $("log-text").value.toLowerCase();
  const found = wanted ? lines.filter(([, , text]) => text.toLowerCase().includes(wanted)) : lines;
  const box = $("log");
  const follows = box.scrollTop + box.clientHeight >= box.scrollHeight - 20;
  box.replaceChildren(...found.map(logLine));
  if (!lines.length) box.replaceChildren(h("p", { class: "quiet" }, "Nothing has been printed or logged."));
  say($("log-count"), wanted ? `${found.length} of ${count(lines.length, "line")}` : count(lines.length, "line"));
  if (follows) box.scrollTop = box.scrollHeight;
}

function messages(news) {
  $("messages-section").hidden = false;
  const items = news.map(([time, kind, text]) => h("li", {}, h("time", {}, new Date(time * 1000).toLocaleTimeString()), h("b", {}, kind), h("span", {}, text)));
  $("messages").prepend(...items.reverse());
  while ($("messages").children.length > 200) $("messages").lastChild.remove();
}

async function loadFit() {
  try {
    const { fit } = await ask(`api/job/${number}/fit`);
    if (fit) { hasFit = true; showFit(fit, job); }
  } catch (error) {
    toast(error.message, true);
  }
}

// -- events ------------------------------------------------------------------------------------

function heard({ type, data }) {
  if (type === "snapshot" || data.stale === false) { load(); pull(); }
  if (type === "snapshot") return;
  const row = (data.jobs || []).find((each) => each.job === number);
  if (row && job) {
    const turned = row.state !== job.state || row.priority !== job.priority;
    job = { ...job, ...row };
    show();
    if (turned) load();
  }
  if (job && (data.gone || []).includes(number)) say($("why"), "This job was deleted, or is in the archive.");
  if (data.feeds && String(number) in data.feeds) pull();
}

$("log-text").addEventListener("input", showLog);
document.querySelector("#log-section form").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("visibilitychange", () => { if (document.visibilityState === "visible") { load(); pull(); } });
// the feed of a page that is read goes on
setInterval(() => document.visibilityState === "visible" && job && !job.ended && pull(), 20000);
keys({ chosen: () => job, done });
begin(heard);
