// A fit: as it improves, from the job's stream; when it has ended, from the numbers that it has kept as `fit.json`.

import { $, figure as short, h, say } from "./dom.js";
import { figure, plane, save } from "./plots.js";

const MAX_PICTURES = 12;
const MAX_CORRELATED = 14;

let convergence = null; // the picture that grows while the fit runs
let drawnSteps = 0;

/** The best points so far: [step, value, {name: number}]. */
export function showSteps(steps, job) {
  const [step, value, point] = steps.at(-1);
  $("fit").hidden = false;
  say($("verdict"), `Best so far: ${job.note ? `${job.note}, ` : ""}negative log likelihood ${short(value)} at step ${step}.`);
  $("parameter-heads").replaceChildren(row("th", ["Parameter", "Best so far"]));
  $("parameter-rows").replaceChildren(...Object.entries(point).map(([name, number]) => row("td", [name, short(number)])));
  const finite = steps.filter(([, each]) => each !== null);
  if (finite.length < 2 || finite.length === drawnSteps) return;
  drawnSteps = finite.length;
  const x = finite.map(([at]) => at);
  const y = finite.map(([, each]) => each);
  const log = Math.min(...y) > 0 && Math.max(...y) > 20 * Math.min(...y);
  const layer = { type: "line", label: "best", x, y, tone: 0 };
  if (convergence && convergence.plot && convergence.y.log === log) {
    convergence.layers = [layer];
    convergence.plot.setData([x, y]);
  } else {
    convergence = { title: "Convergence", x: { label: "step" }, y: { label: "negative log likelihood", log }, layers: [layer] };
    $("plots").replaceChildren(figure(convergence));
  }
}

/** A fit that has ended. */
export function showFit(fit, job) {
  $("fit").hidden = false;
  const doubts = fit.remarks || [];
  $("verdict").classList.toggle("doubt", !fit.converged);
  say($("verdict"), [
    `${fit.method}: ${fit.statistic} ${short(fit.chisq)}, ${fit.points} points, ${fit.dof} degrees of freedom`,
    fit.count ? `${fit.count.toLocaleString("en")} draws` : "", ...doubts,
  ].filter(Boolean).join("; "));
  $("plots").replaceChildren(...curves(fit), ...(fit.convergence.length > 1 ? [figure(descent(fit))] : []));
  parameters(fit);
  const more = [saving(fit, job)];
  if (fit.marginals) {
    const fitted = fit.parameters.filter(({ inner }) => inner);
    more.push(h("h3", {}, "Marginals"), h("div", { class: "plots small" }, ...fitted.slice(0, MAX_PICTURES).map((p, n) => marginal(fit, p, n)).filter(Boolean)));
    more.push(h("h3", {}, "Trace of the draws"), h("div", { class: "plots small" }, ...fitted.slice(0, MAX_PICTURES).map((p, n) => trace(fit, p, n))));
  }
  if (fit.correlations.length > 1) more.push(correlations(fit));
  if (fit.starts) more.push(starts(fit));
  const box = $("more-plots");
  box.className = "";
  box.replaceChildren(...more);
}

const row = (tag, values) => h("tr", {}, ...values.map((value, n) => (tag === "th" ? h("th", { scope: "col" }, value)
  : n ? h("td", { class: "figure" }, value) : h("th", { scope: "row" }, value))));

/** A number with the digits that its error leaves, and one more. */
function rounded(value, error) {
  if (typeof value !== "number" || !(error > 0)) return short(value);
  const digits = 2 - Math.floor(Math.log10(error));
  return digits >= 0 && digits < 15 ? value.toFixed(digits) : short(value);
}

function parameters(fit) {
  const between = (pair, p) => (pair ? pair.map((value) => rounded(value, p.stderr)).join(" … ") : "");
  const mixed = fit.parameters.some(({ rhat }) => typeof rhat === "number");
  const middle = fit.count ? "Median" : "Value";
  $("parameter-heads").replaceChildren(row("th", ["Parameter", middle, "68 % interval", "95 % interval", "Limits", ...(mixed ? ["R-hat", "Effective draws"] : []), "Note"]));
  $("parameter-rows").replaceChildren(...fit.parameters.map((p) => row("td", [
    p.label, p.text, between(p.inner, p), between(p.outer, p), p.limits && p.limits.some((x) => x !== null) ? p.limits.map((x) => (x === null ? "∞" : short(x))).join(" … ") : "",
    ...(mixed ? [short(p.rhat), p.ess ? Math.round(p.ess).toLocaleString("en") : ""] : []),
    [p.kind !== "fitted" ? p.kind : "", p.at_limit ? "at a limit" : ""].filter(Boolean).join(", "),
  ])));
}

// -- pictures ----------------------------------------------------------------------------------

function curves(fit) {
  return fit.curves.flatMap((curve, n) => {
    const name = fit.curves.length > 1 ? `${n + 1}: ${curve.name}` : curve.name;
    if (curve.image) return images(name, curve.image);
    if (!curve.lines.length) return [];
    const [view, x] = [curve.view || "linear", { label: curve.x || "x" }];
    x.log = view === "logx" || view === "loglog";
    const y = { label: curve.y || "y", log: view === "log" || view === "loglog" };
    const many = curve.lines.length > 1;
    const layers = curve.lines.flatMap((line, tone) => {
      const label = line.label || "";
      const [fx, fy] = line.fine || [line.x, line.fit];
      return [
        ...(line.low ? [{ type: "band", label: `${label} 95 %`.trim(), x: line.x, low: line.low, high: line.high, tone: many ? tone : 1 }] : []),
        { type: "points", label: `${label} data`.trim(), x: line.x, y: line.data, dy: line.dy, tone },
        { type: "line", label: `${label} fit`.trim(), x: fx, y: fy, tone: many ? tone : 1 },
      ];
    });
    const residuals = curve.lines.map((line, tone) => ({ type: "points", label: line.label || "residuals", x: line.x, y: line.residuals, tone }));
    const ends = curve.lines.flatMap((line) => [line.x[0], line.x.at(-1)]);
    residuals.push({ type: "line", label: "zero", x: [Math.min(...ends), Math.max(...ends)], y: [0, 0], tone: 5, width: 1 });
    const weighted = curve.lines.some((line) => line.dy);
    return [
      figure({ title: `Data and fit${name ? ` of ${name}` : ""}`, x, y, layers, height: 320 }),
      figure({ title: `Residuals${name ? ` of ${name}` : ""}`, x, y: { label: weighted ? "(data - fit) / dy" : "data - fit" }, layers: residuals, height: 320 }),
    ];
  });
}

function images(name, image) {
  const flat = image.data.flat().filter((value) => value !== null);
  const log = flat.every((value) => value > 0) && Math.max(...flat) > 300 * Math.min(...flat);
  const range = [Math.min(...flat), Math.max(...flat)];
  return [plane(`Data of ${name}`, image.data, { log, range }), plane(`Fit of ${name}`, image.fit, { log, range }), plane(`Residuals of ${name}`, image.residuals, { symmetric: true })];
}

function descent(fit) {
  const x = fit.convergence.map((_, n) => n + 1);
  const names = ["best", "minimum of the population", "20 %", "median", "80 %", "maximum"];
  const columns = fit.convergence[0].length > 4 ? [0, 3] : [0];
  const layers = columns.map((column, tone) => ({ type: "line", label: names[column], x, y: fit.convergence.map((each) => each[column]), tone }));
  const values = layers.flatMap(({ y }) => y).filter((each) => each !== null);
  const log = Math.min(...values) > 0 && Math.max(...values) > 20 * Math.min(...values);
  return { title: "Convergence", x: { label: fit.starts ? "starts that have ended" : fit.steps && fit.steps > x.length ? "step (thinned)" : "step" }, y: { label: "negative log likelihood", log }, layers, height: 320 };
}

function marginal(fit, p, n) {
  const { edges, counts } = fit.marginals[n];
  if (!counts.length) return null;
  return figure({ title: `Marginal of ${p.label}`, x: { label: p.label }, y: { label: "draws" }, layers: [{ type: "steps", label: p.label, x: edges, y: counts, tone: 0 }], height: 190, say: `Marginal distribution of ${p.label}: ${p.text}` });
}

function trace(fit, p, n) {
  const y = fit.draws.map((each) => each[n]);
  return figure({ title: `Trace of ${p.label}`, x: { label: "draw" }, y: { label: p.label }, layers: [{ type: "line", label: p.label, x: y.map((_, k) => k), y, tone: 0, width: 0.7 }], height: 170 });
}

function correlations(fit) {
  const names = fit.parameters.filter(({ inner }) => inner).map(({ name }) => name).slice(0, MAX_CORRELATED);
  const cell = (value) => {
    const element = h("td", { class: "figure" }, value === null ? "" : value.toFixed(2).replace("-0.00", "0.00"));
    if (value !== null) element.style.background = `color-mix(in srgb, var(${value < 0 ? "--running" : "--failed"}) ${Math.round(38 * Math.abs(value))}%, transparent)`;
    return element;
  };
  const body = names.map((name, r) => h("tr", {}, h("th", { scope: "row" }, name), ...names.map((_, c) => cell(r === c ? null : fit.correlations[r][c]))));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Correlations" }, h("table", { class: "correlations" },
    h("caption", {}, "Correlations"), h("thead", {}, h("tr", {}, h("td", {}), ...names.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, ...body)));
}

/** The ends of several starts, the best first. */
function starts(fit) {
  const fitted = fit.parameters.filter(({ kind }) => kind === "fitted");
  const head = ["Start", "Negative log likelihood", "Above the best", ...fitted.map(({ label }) => label)];
  const best = fit.starts[0][1];
  const body = fit.starts.map(([number, value, ...point]) => row("td", value === null ? [String(number), "the model failed", ...point.map(() => ""), ""]
    : [String(number), short(value), short(value - best), ...point.map((each, n) => rounded(each, (fitted[n] || {}).stderr))]));
  const shown = fit.starts_made > fit.starts.length ? `; the best ${fit.starts.length} are shown` : "";
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Starts" }, h("table", { id: "starts" },
    h("caption", {}, `${fit.starts_at_best} of ${fit.starts_made} starts ended at the best point${shown}`),
    h("thead", {}, row("th", head)), h("tbody", {}, ...body)));
}

// -- files -------------------------------------------------------------------------------------

function csv(rows) {
  const cell = (value) => (typeof value === "string" && /[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value === null || value === undefined ? "" : String(value));
  return `${rows.map((each) => each.map(cell).join(",")).join("\n")}\n`;
}

function saving(fit, job) {
  const name = `job-${job.job}`;
  const table = () => csv([["name", "value", "stderr", "low68", "high68", "low95", "high95", "kind"],
    ...fit.parameters.map((p) => [p.name, p.value, p.stderr, ...(p.inner || ["", ""]), ...(p.outer || ["", ""]), p.kind])]);
  const draws = () => csv([fit.parameters.filter(({ inner }) => inner).map((p) => p.name), ...fit.draws]);
  const lines = () => csv([["part", "line", "x", "data", "dy", "fit", "residual"], ...fit.curves.flatMap((curve, n) => curve.lines.flatMap((line) =>
    line.x.map((x, k) => [n + 1, line.label, x, line.data[k], line.dy ? line.dy[k] : "", line.fit[k], line.residuals[k]])))]);
  const button = (label, file, make) => h("button", { type: "button", class: "plain", click: () => save(file, make(), "text/csv") }, label);
  return h("p", { class: "actions" },
    h("a", { class: "button", href: `compare?n=${job.job}` }, "Compare with…"),
    h("a", { class: "button", href: `api/job/${job.job}/file?name=fit.json`, download: `${name}-fit.json` }, "All numbers (JSON)"),
    button("Parameters (CSV)", `${name}-parameters.csv`, table), button("Data and fit (CSV)", `${name}-curves.csv`, lines),
    fit.draws ? button(`${fit.draws.length.toLocaleString("en")} draws (CSV)`, `${name}-draws.csv`, draws) : null);
}
