// Pictures of numbers: on the page with uPlot, for download as SVG from the same description, or as PNG of that SVG.
//
// A description is {title, x: {label, log}, y: {label, log}, layers, height}. A layer is {type, label, x, y, tone} of the
// type "line", "points" (with dy: error bars), "steps" (a histogram: y has one number less than x) or "band" (low and high
// in place of y).

import { h, toast } from "./dom.js";
import uPlot from "./uplot.esm.js";
import { svgOf } from "./svg.js";

/** Pixels of a PNG for each unit of the SVG: 1920 by 1200 in all. */
const PNG_SCALE = 3;

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map(); // description -> what draws it anew

dark.addEventListener("change", () => {
  for (const [spec, draw] of drawn) {
    if (spec.element.isConnected) draw();
    else drawn.delete(spec);
  }
});

/** The colours of Okabe and Ito, by the number of a data set. */
const LIGHT = ["#0063a8", "#b13c00", "#00704f", "#8a3a72", "#8a5a00", "#4d5966"];
const DARK = ["#62b4f5", "#ff9a62", "#4fd0a3", "#e3a1cd", "#f0b94a", "#aab4c0"];

export function tones() {
  return { sets: dark.matches ? DARK : LIGHT, text: style("--text"), quiet: style("--quiet"), rule: style("--rule"), card: style("--card") };
}

const positive = (value) => (value > 0 ? value : null);
const fading = (colour, part) => `${colour}${Math.round(255 * part).toString(16).padStart(2, "0")}`;

/** Ascending x without doubles: uPlot joins series by x. */
function spread(x) {
  const found = [...x];
  for (let n = 1; n < found.length; n++) {
    if (found[n] <= found[n - 1]) found[n] = found[n - 1] + Math.max(Math.abs(found[n - 1]), 1e-300) * 1e-12;
  }
  return found;
}

function series(spec, colours) {
  const tables = [];
  const entries = [{}];
  const bands = [];
  for (const layer of spec.layers) {
    const tone = colours.sets[layer.tone % colours.sets.length];
    const fix = (values, log) => (log ? values.map(positive) : values);
    const add = (values, entry) => {
      entries.push({ label: layer.label, spanGaps: true, points: { show: false }, ...entry });
      let table = tables.find(({ x }) => x === layer.x);
      if (!table) { table = { x: layer.x, columns: [], lines: [] }; tables.push(table); }
      table.columns.push(fix(values, spec.y.log));
      table.lines.push(entries.at(-1));
    };
    if (layer.type === "band") {
      const line = { stroke: fading(tone, 0.35), width: 1 };
      add(layer.high, line);
      add(layer.low, { ...line, class: "unnamed" });
      bands.push({ entries: entries.slice(-2), fill: fading(tone, 0.16) });
    } else if (layer.type === "points") {
      add(layer.y, { stroke: tone, paths: () => null, points: { show: true, size: 5, width: 1, stroke: tone, fill: tone }, dy: layer.dy, dyx: layer.x });
    } else if (layer.type === "steps") {
      add([...layer.y, layer.y.at(-1)], { stroke: tone, width: 1.2, fill: fading(tone, 0.25), paths: uPlot.paths.stepped({ align: 1 }) });
    } else {
      add(layer.y, { stroke: tone, width: layer.width || 2, dash: layer.dash });
    }
  }
  const ordered = [{}, ...tables.flatMap(({ lines }) => lines)];
  const plain = tables.map(({ x, columns }) => [spread(fixX(x, spec)), ...columns]);
  const data = plain.length === 1 ? plain[0] : uPlot.join(plain);
  return { data, ordered, bands: bands.map(({ entries: pair, fill }) => ({ series: pair.map((entry) => ordered.indexOf(entry)), fill })) };
}

const fixX = (x, spec) => (spec.x.log ? x.map((value) => (value > 0 ? value : Number.MIN_VALUE)) : x);

function errorBars(u, spec) {
  const ctx = u.ctx;
  const colours = tones();
  ctx.save();
  ctx.beginPath();
  ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  ctx.clip();
  for (const { type, x, y, dy, tone } of spec.layers) {
    if (type !== "points" || !dy) continue;
    ctx.strokeStyle = fading(colours.sets[tone % colours.sets.length], 0.6);
    ctx.lineWidth = devicePixelRatio;
    ctx.beginPath();
    for (let n = 0; n < x.length; n++) {
      if (y[n] === null || dy[n] === null) continue;
      const at = u.valToPos(x[n], "x", true);
      const low = spec.y.log ? Math.max(y[n] - dy[n], u.scales.y.min) : y[n] - dy[n];
      ctx.moveTo(at, u.valToPos(low, "y", true));
      ctx.lineTo(at, u.valToPos(y[n] + dy[n], "y", true));
    }
    ctx.stroke();
  }
  ctx.restore();
}

function axis(label, colours, side) {
  const size = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const font = (part) => `${Math.round(part * size)}px system-ui, "DejaVu Sans", sans-serif`;
  return {
    label, stroke: colours.quiet, labelFont: font(0.87), font: font(0.8), labelSize: 1.4 * size, size: (side ? 3.9 : 2.3) * size,
    grid: { stroke: colours.rule, width: 1 }, ticks: { stroke: colours.rule, width: 1, size: 4 },
    values: (_, splits) => splits.map((value) => (value === null ? "" : String(Number(value.toPrecision(6))))),
  };
}

/** A figure of a description, with buttons to save it. */
export function figure(spec) {
  const place = h("div");
  const words = spec.say || `${spec.title}: ${spec.y.label} over ${spec.x.label}`;
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", words);
  const element = h("figure", { class: "plot" }, h("figcaption", {}, spec.title, h("span", {},
    h("button", { type: "button", class: "plain", "aria-label": `Save ${spec.title} as PNG`, click: () => savePng(spec) }, "PNG"), " ",
    h("button", { type: "button", class: "plain", "aria-label": `Save ${spec.title} as SVG`, click: () => save(fileOf(spec, "svg"), svgOf(spec, LIGHT), "image/svg+xml") }, "SVG"))), place);
  spec.element = element;
  const draw = () => {
    const width = Math.max(200, Math.floor(place.clientWidth));
    const colours = tones();
    const { data, ordered, bands } = series(spec, colours);
    const options = {
      width, height: spec.height || 260, series: ordered, bands, cursor: { drag: { x: true, y: true, uni: 30 } },
      legend: { show: spec.layers.length > 1, live: false },
      scales: { x: { time: false, distr: spec.x.log ? 3 : 1 }, y: { distr: spec.y.log ? 3 : 1 } },
      axes: [axis(spec.x.label, colours, 0), axis(spec.y.label, colours, 1)],
      hooks: { draw: [(u) => errorBars(u, spec)] },
    };
    if (spec.plot) spec.plot.destroy();
    spec.plot = new uPlot(options, data, place);
  };
  const first = new ResizeObserver(() => {
    if (!place.clientWidth) return;
    if (!spec.plot) { draw(); drawn.set(spec, draw); }
    else if (Math.abs(spec.plot.width - place.clientWidth) > 2) spec.plot.setSize({ width: Math.floor(place.clientWidth), height: spec.height || 260 });
  });
  first.observe(place);
  return element;
}

/** The name of a picture's file. The pages that have pictures name their jobs in their addresses. */
function fileOf(spec, kind) {
  const jobs = (new URLSearchParams(location.search).get("n") || "").match(/\d+/g) || [];
  return `job-${jobs.join("-")} ${spec.title}.${kind}`;
}

/** The picture for print: that of the page has the size of the window, and its colours. */
async function savePng(spec) {
  const image = new Image();
  const url = URL.createObjectURL(new Blob([svgOf(spec, LIGHT)], { type: "image/svg+xml" }));
  try {
    image.src = url;
    await image.decode();
  } finally {
    URL.revokeObjectURL(url);
  }
  const canvas = h("canvas", { width: PNG_SCALE * image.width, height: PNG_SCALE * image.height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => save(fileOf(spec, "png"), blob, "image/png"));
}

/** Offer *content* for download. */
export function save(name, content, type) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  h("a", { href: url, download: name.replace(/[^\w.() -]+/g, "_") }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  toast(`${name} is saved.`);
}

// -- images ------------------------------------------------------------------------------------

const RAMP = [[0, 32, 77], [64, 77, 107], [124, 123, 120], [188, 175, 111], [255, 234, 70]]; // cividis
const TWO_SIDES = [[0, 99, 168], [240, 240, 240], [177, 60, 0]];

function colour(ramp, part) {
  const at = Math.min(0.9999, Math.max(0, part)) * (ramp.length - 1);
  const n = Math.floor(at);
  return ramp[n].map((value, k) => value + (at - n) * (ramp[n + 1][k] - value));
}

/** One plane of an image: rows of numbers, the first at the bottom. */
export function plane(title, rows, { log = false, symmetric = false, range = null } = {}) {
  const flat = rows.flat().filter((value) => value !== null && (!log || value > 0));
  let [low, high] = range || [Math.min(...flat), Math.max(...flat)];
  if (symmetric) { high = Math.max(Math.abs(low), Math.abs(high)); low = -high; }
  const scale = log ? Math.log : (value) => value;
  const canvas = h("canvas", { width: rows[0].length, height: rows.length, class: "image", role: "img", "aria-label": `${title}, from ${low} to ${high}` });
  const ctx = canvas.getContext("2d");
  const pixels = ctx.createImageData(canvas.width, canvas.height);
  rows.forEach((row, r) => row.forEach((value, c) => {
    if (value === null || (log && value <= 0)) return;
    const [red, green, blue] = colour(symmetric ? TWO_SIDES : RAMP, (scale(value) - scale(low)) / (scale(high) - scale(low) || 1));
    pixels.data.set([red, green, blue, 255], 4 * ((rows.length - 1 - r) * canvas.width + c));
  }));
  ctx.putImageData(pixels, 0, 0);
  const span = `${Number(low.toPrecision(3))} to ${Number(high.toPrecision(3))}${log ? ", logarithmic" : ""}`;
  return h("figure", { class: "plot" }, h("figcaption", {}, title, h("span", { class: "quiet" }, span)), canvas);
}
