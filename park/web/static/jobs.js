// The table of jobs, with kernels and owners beneath it. The address says which part of the table is shown.

import { $, ask, badge, bytes, count, h, meter, now, percent, say, span } from "./dom.js";
import { begin, keys } from "./shell.js";

const COLUMNS = [
  ["job", "No."], ["name", "Job"], ["owner", "Owner"], ["state", "State"], ["progress", "Progress"],
  ["priority", "Priority"], ["slots", "Slots"], ["age", "Age"],
];
const FALLING = new Set(["job", "priority", "progress", "slots"]); // columns whose largest value comes first
const STATES = ["running", "queued", "waiting", "paused", "complete", "failed", "aborted"];
const ENDED = new Set(["complete", "failed", "aborted"]); // states of jobs in the archive
const FIELDS = ["text", "owner", "tag"];
const REFETCH_MS = 1000;

let view = Object.fromEntries(new URLSearchParams(location.search));
let shown = new Map(); // number -> {row, element}
let at = { boot: "", number: 0 };
let waiting = null;
let lastAsked = 0;
let busy = false;
let again = false;
let wantsChoices = true;
let older = 0; // the archive goes on below this number

const chosenStates = () => new Set((view.state || "").split(",").filter(Boolean));
const sort = () => view.sort || "-job";

function address() {
  const query = new URLSearchParams();
  for (const name of [...FIELDS, "state", "archived", "below", "sort", "page", "noworker"]) if (view[name]) query.set(name, view[name]);
  return query.toString();
}

function change(values, { replace = false, onward = false } = {}) {
  view = { ...view, page: "", below: "", ...values };
  const query = address();
  history[replace ? "replaceState" : "pushState"]({ onward }, "", query ? `?${query}` : "./");
  heads();
  fetchPage();
}

// -- the page of the table ---------------------------------------------------------------------

async function fetchPage() {
  if (busy) { again = true; return; }
  busy = true;
  lastAsked = performance.now();
  try {
    const asked = address();
    const page = await ask(`api/jobs?${asked}${wantsChoices ? "&choices=1" : ""}`);
    if (asked === address()) { // else another page is asked for already
      at.number = page.number;
      show(page);
    }
  } catch (error) {
    if (error.status === 400) refused(error.message);
    else say($("page"), error.message);
  }
  busy = false;
  if (again) { again = false; fetchPage(); }
}

function fetchSoon() {
  if (waiting) return;
  waiting = setTimeout(() => { waiting = null; fetchPage(); }, Math.max(100, REFETCH_MS - (performance.now() - lastAsked)));
}

function show(page) {
  const focused = document.activeElement && document.activeElement.closest("tr[data-job]");
  const kept = focused && focused.dataset.job;
  const old = shown;
  shown = new Map();
  for (const row of page.rows) {
    const known = old.get(row.job);
    shown.set(row.job, known ? refresh(known, row) : { row, element: line(row) });
  }
  const elements = [...shown.values()].map(({ element }) => element);
  const body = $("rows");
  if (!elements.length || elements.length !== body.children.length || elements.some((element, n) => element !== body.children[n])) {
    body.replaceChildren(...(elements.length ? elements : [note(emptyText())]));
  }
  if (kept && shown.has(Number(kept))) shown.get(Number(kept)).element.querySelector("a").focus();
  const filtered = FIELDS.some((name) => view[name]) || view.state;
  if (view.archived) archive(page, filtered);
  else live(page, filtered);
  chips(page.states);
  $("clear").hidden = !filtered;
  if (page.choices) {
    wantsChoices = false;
    $("owners-known").replaceChildren(...page.choices.owners.map((value) => h("option", { value })));
    $("tags-known").replaceChildren(...page.choices.tags.map((value) => h("option", { value })));
  }
}

function live(page, filtered) {
  say($("jobs-caption"), `${count(page.total, "job")}${filtered ? (page.total === 1 ? " passes the filters" : " pass the filters") : ""}`);
  say($("page"), `page ${page.page} of ${page.pages}`);
  $("back").disabled = page.page <= 1;
  $("forth").disabled = page.page >= page.pages;
  view.page = page.page > 1 ? String(page.page) : "";
}

/** A page of the archive. The next one begins below the last number of this one. */
function archive(page, filtered) {
  older = page.older;
  const found = count(page.total, "archived job");
  const passes = filtered ? (page.total === 1 ? " passes the filters" : " pass the filters") : "";
  say($("jobs-caption"), `${found}${passes}${page.total > 1 ? ", the newest first" : ""}`);
  const last = page.first + page.rows.length - 1;
  say($("page"), page.rows.length ? `${page.first.toLocaleString("en")} to ${last.toLocaleString("en")} of ${page.total.toLocaleString("en")}` : "");
  $("back").disabled = !view.below;
  $("forth").disabled = !older;
}

function emptyText() {
  const filtered = FIELDS.some((name) => view[name]) || view.state;
  const text = view.archived ? (view.below ? "There are no older ones." : filtered ? "No archived job passes these filters."
    : "The archive is empty: it takes jobs that ended long ago.") : filtered ? "No job passes these filters." : "There are no jobs yet. park submit, or a script, brings some.";
  return text;
}

/** A row that says why there are no others. On a narrow screen its text stays in the visible part of the table. */
const note = (text, columns = COLUMNS.length) => h("tr", {}, h("td", { colspan: columns, class: "empty" }, h("span", {}, text)));

/** The address asks for what there is not. */
function refused(text) {
  shown = new Map();
  $("rows").replaceChildren(note(text));
  say($("page"), "");
  $("back").disabled = $("forth").disabled = true;
  $("clear").hidden = false;
}

function cells(row) {
  const link = h("a", { href: `job?n=${row.job}`, class: "number" }, String(row.job));
  const tags = row.tags.map((tag) => h("button", { type: "button", class: "tag", title: `Only jobs with the tag ${tag}`, click: () => filter({ tag }) }, tag));
  const said = row.reason || row.remark;
  const age = span(now() - row.submitted);
  const far = [row.far, row.note, row.failed ? `${row.failed} failed` : ""].filter(Boolean).join(", ");
  const brief = [row.owner, row.priority !== "free" ? row.priority : "", row.running ? count(row.running, "slot") : "", age];
  return [
    h("th", { scope: "row" }, link),
    h("td", { class: "what" }, h("span", { class: "name" }, row.name || "no name"), ...tags,
      h("span", { class: "brief" }, brief.filter(Boolean).join(" · ")),
      h("span", { class: "brief" }, row.fraction === null ? null : meter(row.fraction, `Progress of job ${row.job}`, row.state), far),
      said ? h("span", { class: "said", title: said }, said) : null),
    h("td", { class: "wide" }, h("button", { type: "button", class: "link", title: `Only jobs of ${row.owner}`, click: () => filter({ owner: row.owner }) }, row.owner)),
    h("td", {}, badge(row.word)),
    h("td", { class: "far wide" }, meter(row.fraction, `Progress of job ${row.job}`, row.state), h("span", {}, far)),
    h("td", { class: "wide" }, row.priority),
    h("td", { class: "wide figure" }, row.running ? String(row.running) : ""),
    h("td", { class: "wide figure", "data-age": row.submitted }, age),
  ];
}

function line(row) {
  return h("tr", { "data-job": row.job, "data-state": row.state }, ...cells(row));
}

/** The same line with the new row. The link that may have the focus stays. */
function refresh(known, row) {
  if (JSON.stringify(known.row) === JSON.stringify(row)) return known;
  const [head, ...others] = cells(row);
  known.element.dataset.state = row.state;
  const children = [...known.element.children];
  others.forEach((cell, n) => {
    const before = children[n + 1];
    if (!before.isEqualNode(cell) && !before.contains(document.activeElement)) before.replaceWith(cell);
  });
  return { row, element: known.element };
}

// -- filters and heads -------------------------------------------------------------------------

function filter(values) {
  for (const [name, value] of Object.entries(values)) $(name).value = value;
  change(values);
}

function chips(counts) {
  const chosen = chosenStates();
  const box = $("states");
  if (box.children.length === 1) {
    for (const state of STATES) {
      const input = h("input", { type: "checkbox", value: state, change: () => {
        const now_ = chosenStates();
        if (!now_.delete(state)) now_.add(state);
        change({ state: [...now_].join(",") });
      } });
      box.append(h("label", { class: "chip", "data-state": state }, input, badge(state), h("span", { class: "figure" })));
    }
  }
  for (const label of [...box.children].slice(1)) {
    const state = label.dataset.state;
    label.firstChild.checked = chosen.has(state);
    label.hidden = Boolean(view.archived) && !ENDED.has(state);
    say(label.lastChild, counts ? String(counts[state] || 0) : "");
    label.classList.toggle("none", Boolean(counts) && !counts[state] && !chosen.has(state));
  }
}

function heads() {
  const current = view.archived ? "-job" : sort();
  const row = $("heads");
  const focused = document.activeElement && document.activeElement.dataset.sort;
  row.replaceChildren(...COLUMNS.map(([name, title]) => {
    const order = current === name ? "ascending" : current === `-${name}` ? "descending" : null;
    const next = order ? (order === "ascending" ? `-${name}` : name) : FALLING.has(name) ? `-${name}` : name;
    const button = view.archived ? title : h("button", { type: "button", class: "link", "data-sort": name, click: () => change({ sort: next === "-job" ? "" : next }) },
      title, order ? h("span", { "aria-hidden": "true" }, order === "ascending" ? " ▲" : " ▼") : null);
    return h("th", { scope: "col", "aria-sort": order, class: ["owner", "progress", "priority", "slots", "age"].includes(name) ? "wide" : null }, button);
  }));
  const again_ = focused && row.querySelector(`[data-sort="${focused}"]`);
  if (again_) again_.focus();
}

function fillForm() {
  for (const name of FIELDS) $(name).value = view[name] || "";
  $("archived").checked = Boolean(view.archived);
}

// -- kernels and owners ------------------------------------------------------------------------

function kernels(rows) {
  const lines = rows.map((k) => h("tr", {},
    h("th", { scope: "row" }, String(k.kernel)), h("td", {}, k.host),
    h("td", {}, meter(k.slots ? k.busy / k.slots : 0, `Busy slots of kernel ${k.kernel}`), ` ${k.busy} of ${k.slots}`, k.gpus ? `, ${k.gpus_busy} of ${k.gpus} GPUs` : ""),
    h("td", {}, badge(k.state), k.pause ? ` ${k.pause}` : ""), h("td", {}, k.serves), h("td", { class: "figure" }, k.memory ? bytes(k.memory) : ""),
    h("td", {}, k.labels.join(", "))));
  if (!lines.length) lines.push(note("No kernel is connected: park-kernel starts one.", 7));
  $("kernel-rows").replaceChildren(...lines);
}

function owners(rows) {
  const part = (value, label) => h("td", {}, meter(value, label), ` ${percent(value)}`);
  const lines = rows.map((o) => h("tr", {},
    h("th", { scope: "row" }, h("button", { type: "button", class: "link", click: () => filter({ owner: o.owner }) }, o.owner)),
    h("td", { class: "figure" }, String(o.jobs)), part(o.share, `Share due to ${o.owner}`), part(o.now, `Slots of ${o.owner} now`),
    part(o.used, `Slots of ${o.owner} in the last hour`),
    h("td", { class: "figure" }, o.credits === null ? "no limit" : Math.round(o.credits).toLocaleString("en"))));
  if (!lines.length) lines.push(note("No owner has jobs now.", 6));
  $("owner-rows").replaceChildren(...lines);
}

function next(row) {
  $("next").hidden = !row;
  if (!row) return;
  $("next").replaceChildren("Served next: ", h("a", { href: `job?n=${row.job}` }, `job ${row.job}`), ` of ${row.owner}: `, h("span", {}, row.reason));
}

// -- events ------------------------------------------------------------------------------------

function heard({ type, boot, number, data }) {
  if (data.summary && !view.archived && !FIELDS.some((name) => view[name])) chips(data.summary.states);
  if (data.kernels) kernels(data.kernels);
  if (data.owners) owners(data.owners);
  if ("next" in data) next(data.next);
  if (type === "snapshot" || boot !== at.boot) {
    at = { boot, number };
    fetchSoon();
    return;
  }
  if (number <= at.number || view.archived) return;
  let elsewhere = Boolean(data.fresh || data.many || (data.gone && data.gone.length));
  const moving = ["state", "progress", "slots", "priority"].includes(sort().replace("-", ""));
  for (const row of data.jobs || []) {
    const known = shown.get(row.job);
    if (!known) elsewhere = elsewhere || moving || Boolean(view.state);
    else {
      elsewhere = elsewhere || known.row.state !== row.state || moving;
      shown.set(row.job, refresh(known, row));
    }
  }
  if (elsewhere) fetchSoon();
}

function step(by) {
  const links = [...$("rows").querySelectorAll("th a")];
  const index = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
  const link = links[Math.min(links.length - 1, Math.max(0, index < 0 ? (by > 0 ? 0 : links.length - 1) : index + by))];
  if (link) { link.focus(); link.scrollIntoView({ block: "nearest" }); }
}

function turn(by) {
  if (view.archived) turnArchive(by);
  else turnLive(by);
}

function turnArchive(by) {
  if (by > 0 && older) change({ below: String(older) }, { onward: true });
  else if (by < 0 && view.below) {
    if (history.state && history.state.onward) history.back();
    else change({}); // this page was opened by its address: what comes before it is not known
  }
}

function turnLive(by) {
  const page = Number(view.page || 1) + by;
  const button = by < 0 ? $("back") : $("forth");
  if (!button.disabled) change({ page: page > 1 ? String(page) : "" });
}

fillForm();
heads();
let typing = null;
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("input", ({ target }) => {
  if (!FIELDS.includes(target.name)) return;
  clearTimeout(typing);
  typing = setTimeout(() => change({ [target.name]: target.value.trim() }, { replace: true }), 200);
});
$("clear").addEventListener("click", () => { change({ text: "", owner: "", tag: "", state: "" }); fillForm(); $("text").focus(); });
function switchArchive() {
  const archived = view.archived ? "" : "1";
  const state = archived ? [...chosenStates()].filter((each) => ENDED.has(each)).join(",") : view.state;
  change({ archived, state });
  $("archived").checked = Boolean(archived);
}
$("archived").addEventListener("change", switchArchive);
$("back").addEventListener("click", () => turn(-1));
$("forth").addEventListener("click", () => turn(1));
window.addEventListener("popstate", () => { view = Object.fromEntries(new URLSearchParams(location.search)); fillForm(); heads(); fetchPage(); });
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && fetchSoon());
setInterval(() => {
  for (const cell of $("rows").querySelectorAll("[data-age]")) say(cell, span(now() - Number(cell.dataset.age)));
}, 10000);
keys({
  chosen: () => {
    const line_ = document.activeElement && document.activeElement.closest("tr[data-job]");
    return line_ ? (shown.get(Number(line_.dataset.job)) || {}).row : null;
  },
  done: () => fetchSoon(),
  more: { j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1), n: () => turn(1), b: () => turn(-1), o: switchArchive },
});
begin(heard);
fetchPage();
