// The SVG of a description of `plots.js`: 640 by 400, with axes, grid and legend.

const WIDTH = 640;
const HEIGHT = 400;
const LEFT = 70;
const RIGHT = 16;
const TOP = 46;
const BOTTOM = 52;

const safe = (text) => String(text).replace(/[&<>"]/g, (char) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[char]);
const fixed = (value) => value.toFixed(2);

function ticks(low, high, log) {
  if (log) {
    const found = [];
    for (let n = Math.ceil(Math.log10(low)); n <= Math.floor(Math.log10(high)); n++) found.push(10 ** n);
    return found.length > 1 ? found : [low, high];
  }
  const rough = (high - low) / 5;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * size).find((n) => n >= rough);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high * (1 + 1e-12); n++) found.push(n * step);
  return found;
}

function scale(values, log, from, to, pad) {
  const usable = values.filter((value) => typeof value === "number" && Number.isFinite(value) && (!log || value > 0));
  let low = Math.min(...usable);
  let high = Math.max(...usable);
  if (!usable.length) [low, high] = log ? [1, 10] : [0, 1];
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 1, high + 1];
  const map = log ? Math.log10 : (value) => value;
  const margin = pad * (map(high) - map(low));
  const [a, b] = [map(low) - margin, map(high) + margin];
  const at = (value) => from + ((map(value) - a) / (b - a)) * (to - from);
  const ends = log ? [10 ** a, 10 ** b] : [a, b];
  return { at, ticks: ticks(...ends, log), has: (value) => typeof value === "number" && (!log || value > 0) };
}

/** The names of the layers, in a row above the frame: there it hides no data. */
function legend(spec, colours) {
  if (spec.layers.length < 2) return [];
  const room = (WIDTH - LEFT - RIGHT) / spec.layers.length;
  const width = Math.min(room, 24 + 8 * Math.max(...spec.layers.map((layer) => layer.label.length)));
  return spec.layers.map((layer, n) => {
    const x = fixed(LEFT + n * width);
    const tone = colours[layer.tone % colours.length];
    const swatch = `<rect x="${x}" y="31" width="12" height="6" fill="${tone}"${layer.type === "band" ? ' fill-opacity=".25"' : ""}/>`;
    const squeeze = 8 * layer.label.length > room - 24 ? ` textLength="${fixed(room - 24)}" lengthAdjust="spacingAndGlyphs"` : "";
    return `${swatch}<text x="${fixed(LEFT + n * width + 17)}" y="38"${squeeze}>${safe(layer.label)}</text>`;
  });
}

/** The text of the picture; *colours* are those of the data sets. */
export function svgOf(spec, colours) {
  const xs = scale(spec.layers.flatMap((layer) => layer.x), spec.x.log, LEFT, WIDTH - RIGHT, 0.02);
  const values = spec.layers.flatMap((layer) => (layer.type === "band" ? [...layer.low, ...layer.high] : layer.type === "steps" ? [0, ...layer.y] : layer.y));
  const ys = scale(values, spec.y.log, HEIGHT - BOTTOM, TOP, 0.05);
  const short = (value) => String(Number(value.toPrecision(6)));
  const out = [`<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${HEIGHT}" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="13">`, `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`];
  for (const value of xs.ticks) {
    const x = fixed(xs.at(value));
    out.push(`<path d="M${x} ${TOP}V${HEIGHT - BOTTOM}" stroke="#ddd"/><text x="${x}" y="${HEIGHT - BOTTOM + 17}" text-anchor="middle">${short(value)}</text>`);
  }
  for (const value of ys.ticks) {
    const y = fixed(ys.at(value));
    out.push(`<path d="M${LEFT} ${y}H${WIDTH - RIGHT}" stroke="#ddd"/><text x="${LEFT - 6}" y="${Number(y) + 4}" text-anchor="end">${short(value)}</text>`);
  }
  const path = (x, y) => x.map((value, n) => (xs.has(value) && ys.has(y[n]) ? `${fixed(xs.at(value))} ${fixed(ys.at(y[n]))}` : null)).filter(Boolean).join("L");
  spec.layers.forEach((layer) => {
    const tone = colours[layer.tone % colours.length];
    if (layer.type === "band") {
      const back = path([...layer.x].reverse(), [...layer.low].reverse());
      out.push(`<path d="M${path(layer.x, layer.high)}L${back}Z" fill="${tone}" fill-opacity=".16"/>`);
    } else if (layer.type === "points") {
      layer.x.forEach((value, n) => {
        if (!xs.has(value) || !ys.has(layer.y[n])) return;
        const x = fixed(xs.at(value));
        if (layer.dy && layer.dy[n] !== null && ys.has(layer.y[n] - layer.dy[n])) {
          out.push(`<path d="M${x} ${fixed(ys.at(layer.y[n] - layer.dy[n]))}V${fixed(ys.at(layer.y[n] + layer.dy[n]))}" stroke="${tone}" stroke-opacity=".6"/>`);
        }
        out.push(`<circle cx="${x}" cy="${fixed(ys.at(layer.y[n]))}" r="2.5" fill="${tone}"/>`);
      });
    } else if (layer.type === "steps") {
      const x = layer.y.flatMap((_, n) => [layer.x[n], layer.x[n + 1]]);
      const y = layer.y.flatMap((value) => [value, value]);
      out.push(`<path d="M${path([x[0], ...x, x.at(-1)], [0, ...y, 0])}" fill="${tone}" fill-opacity=".25" stroke="${tone}"/>`);
    } else {
      out.push(`<path d="M${path(layer.x, layer.y)}" fill="none" stroke="${tone}" stroke-width="${layer.width || 2}"/>`);
    }
  });
  out.push(...legend(spec, colours));
  out.push(`<rect x="${LEFT}" y="${TOP}" width="${WIDTH - LEFT - RIGHT}" height="${HEIGHT - TOP - BOTTOM}" fill="none" stroke="#888"/>`);
  out.push(`<text x="${LEFT}" y="20" font-weight="bold">${safe(spec.title)}</text>`);
  out.push(`<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 14}" text-anchor="middle">${safe(spec.x.label)}</text>`);
  out.push(`<text transform="translate(16 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">${safe(spec.y.label)}</text></svg>`);
  return out.join("\n");
}
