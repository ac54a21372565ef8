// Two or more fits side by side: parameters, chi-squared, and the data with all curves.

import { $, ask, badge, figure as short, h, say } from "./dom.js";
import { figure } from "./plots.js";
import { begin, keys } from "./shell.js";

const MAX_FITS = 6;
const MAX_PARTS = 8;

const given = new URLSearchParams(location.search).get("n") || "";
const numbers = [...new Set(given.split(/[\s,]+/).filter((text) => /^\d+$/.test(text)))].slice(0, MAX_FITS);

async function look(number) {
  const job = await ask(`api/job/${number}`);
  const { fit } = "fit.json" in job.files ? await ask(`api/job/${number}/fit`) : { fit: null };
  return { number, job, fit };
}

function table(found) {
  const names = [...new Set(found.flatMap(({ fit }) => fit.parameters.map(({ name }) => name)))];
  const line = (title, cell) => h("tr", {}, h("th", { scope: "row" }, title), ...found.map((each) => h("td", { class: "figure" }, cell(each))));
  $("fit-heads").replaceChildren(h("tr", {}, h("td", {}), ...found.map(({ number, job }) =>
    h("th", { scope: "col" }, h("a", { href: `job?n=${number}` }, `Job ${number}`), ` ${job.name} `, badge(job.word)))));
  $("fit-rows").replaceChildren(
    line("method", ({ fit }) => fit.method),
    line("chi-squared", ({ fit }) => `${short(fit.chisq)} (${fit.statistic})`),
    line("negative log likelihood", ({ fit }) => short(fit.nllf)),
    line("converged", ({ fit }) => (fit.converged ? "yes" : "no")),
    ...names.map((name) => line(name, ({ fit }) => {
      const p = fit.parameters.find((each) => each.name === name);
      return p ? `${p.text}${p.at_limit ? ", at a limit" : ""}` : "";
    })));
  $("table-box").hidden = false;
}

function part(found, n) {
  const those = found.filter(({ fit }) => fit.curves[n] && fit.curves[n].lines.length);
  if (!those.length) return null;
  const first = those[0].fit.curves[n];
  const layers = first.lines.map((line) => ({ type: "points", label: `${line.label} data`.trim(), x: line.x, y: line.data, dy: line.dy, tone: 5 }));
  those.forEach(({ number, fit }, tone) => fit.curves[n].lines.forEach((line) => {
    const [x, y] = line.fine || [line.x, line.fit];
    layers.push({ type: "line", label: `${line.label} job ${number}`.trim(), x, y, tone });
  }));
  const view = first.view || "linear";
  return figure({
    title: `Data and fits, part ${n + 1}`, layers, height: 360,
    x: { label: first.x, log: view === "logx" || view === "loglog" }, y: { label: first.y, log: view === "log" || view === "loglog" },
  });
}

async function load() {
  $("jobs").value = numbers.join(", ");
  const answers = await Promise.allSettled(numbers.map(look));
  const found = answers.filter(({ status, value }) => status === "fulfilled" && value.fit).map(({ value }) => value);
  const wrong = answers.flatMap(({ status, value, reason }, n) => (status === "rejected" ? [`Job ${numbers[n]}: ${reason.message}`]
    : value.fit ? [] : [`Job ${numbers[n]} has kept no numbers of a fit.`]));
  say($("trouble"), numbers.length ? wrong.join(" ") : "Enter the numbers of two fits or more.");
  if (!found.length) return;
  table(found);
  const parts = Math.min(MAX_PARTS, Math.max(...found.map(({ fit }) => fit.curves.length)));
  $("plots").replaceChildren(...Array.from({ length: parts }, (_, n) => part(found, n)).filter(Boolean));
}

keys({ chosen: () => null, done: () => {} });
begin(() => {});
load();
