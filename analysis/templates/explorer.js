"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const make = (tag, attributes = {}, ...children) => {
  const element = tag.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4))
                                         : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

/* ---- numbers: base64 of little-endian arrays ---- */
function bytes(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out.buffer;
}
function halves(buffer) {  // float16 -> float32, for browsers without Float16Array
  const h = new Uint16Array(buffer), out = new Float32Array(h.length);
  for (let i = 0; i < h.length; i++) {
    const sign = h[i] & 0x8000 ? -1 : 1, exponent = h[i] >> 10 & 31, fraction = h[i] & 1023;
    out[i] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * fraction / 1024);
  }
  return out;
}
const kinds = {float32: b => new Float32Array(b), float16: halves, uint32: b => new Uint32Array(b),
               uint16: b => new Uint16Array(b)};
const array = stored => kinds[stored.dtype](bytes(stored.base64));

/* ---- how it was found: the frames, one line a restart, the chosen one in front ---- */
if (data.animation) {
  const {sheet, side, steps} = data.animation;
  const canvas = make("canvas", {class: "pixels", width: side, height: side, role: "img", "aria-label": "reconstruction at a step"});
  const slider = make("input", {type: "range", min: 0, max: steps.length - 1, value: steps.length - 1,
                                "aria-label": "optimisation step"});
  const caption = make("figcaption", {}), play = make("button", {type: "button"}, "Play");
  $("pictures").append(make("figure", {}, canvas, slider, make("div", {class: "controls"}, play, caption)));
  const image = new Image();
  let timer = null;
  const show = () => {
    canvas.getContext("2d").drawImage(image, slider.value * side, 0, side, side, 0, 0, side, side);
    caption.textContent = `step ${steps[slider.value] + 1} of ${steps.at(-1) + 1}`;
  };
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; };
  play.onclick = () => {
    if (timer) return stop();
    slider.value = 0; show(); play.textContent = "Stop";
    timer = setInterval(() => { slider.value++; show(); if (+slider.value === steps.length - 1) stop(); }, 160);
  };
  slider.oninput = () => { stop(); show(); };
  image.onload = show;
  image.src = sheet;
}

function nice(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough);
  const ticks = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) ticks.push(+t.toPrecision(12));
  return ticks;
}
function curve({title, every, series}) {
  const W = 560, H = 240, left = 58, right = 12, top = 12, bottom = 36;
  const all = series.flatMap(s => s.values).filter(v => v !== null), steps = series[0].values.length;
  const low = Math.min(...all), high = Math.max(...all), span = high - low || 1;
  const x = i => left + (W - left - right) * (steps > 1 ? i / (steps - 1) : 0);
  const y = v => top + (H - top - bottom) * (1 - (v - low) / span);
  const svg = make("svg:svg", {viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": title});
  for (const t of nice(low, high, 4)) {
    svg.append(make("svg:line", {x1: left, x2: W - right, y1: y(t), y2: y(t), stroke: "var(--line)"}));
    svg.append(make("svg:text", {x: left - 8, y: y(t) + 4, "text-anchor": "end"}, String(t)));
  }
  for (const t of nice(0, Math.max(steps - 1, 1) * every, 5).filter(Number.isInteger))
    svg.append(make("svg:text", {x: x(t / every), y: H - bottom + 18, "text-anchor": "middle"}, String(t)));
  svg.append(make("svg:text", {x: W - right, y: H - 4, "text-anchor": "end"}, "step"));
  for (const s of [...series].sort((a, b) => a.chosen - b.chosen))
    svg.append(make("svg:polyline", {fill: "none", "stroke-width": s.chosen ? 2.25 : 1,
      stroke: s.chosen ? "var(--accent)" : "var(--soft)", "stroke-opacity": s.chosen ? 1 : 0.45,
      points: s.values.flatMap((v, i) => v === null ? [] : `${x(i).toFixed(1)},${y(v).toFixed(1)}`).join(" ")}));
  return make("figure", {}, svg, make("figcaption", {}, title));
}
for (const each of data.curves) $("curves").append(curve(each));

/* ---- attention: values lie only where the mask allows, row by row, head after head; beside each mask lies what uniform
   attention over it is, because what every image shares is the mask and no content ---- */
function evenly(indptr, length) {  // each row shared evenly among its keys
  const out = new Float32Array(length);
  for (let i = 0; i + 1 < indptr.length; i++) out.fill(1 / (indptr[i + 1] - indptr[i]), indptr[i], indptr[i + 1]);
  return out;
}
const masks = data.masks.map(m => {
  const indptr = array(m.indptr), indices = array(m.indices);
  return {indptr, indices, uniform: m.uniform ? array(m.uniform) : evenly(indptr, indices.length)};
});
const views = data.views.map(v => {
  const image = new Image();
  image.src = v.image;
  const values = array(v.values), offsets = [];
  let offset = 0;
  for (const head of v.heads) { offsets.push(offset); offset += masks[head.mask].indices.length; }
  return {...v, picture: image, values, offsets, rowsUsed: array(v.rows_used)};
});
const state = {view: 0, query: 0, head: null, held: false};

function entries(view, head, query) {  // the allowed keys of one query, their probabilities, and those of uniform attention
  const mask = masks[view.heads[head].mask], from = mask.indptr[query], to = mask.indptr[query + 1];
  const start = view.offsets[head];
  return {keys: mask.indices.subarray(from, to), values: view.values.subarray(start + from, start + to),
          uniform: mask.uniform.subarray(from, to)};
}
function dense(view, head, query, what = "values") {
  const out = new Float32Array(view.key_grid[0] * view.key_grid[1]), row = entries(view, head, query);
  row.keys.forEach((key, i) => { out[key] = row[what][i]; });
  return out;
}
const entropyOf = values => values.reduce((sum, p) => p > 0 ? sum - p * Math.log2(p) : sum, 0);
const share = (entropy, most) => most > 0 ? `${(100 * entropy / most).toFixed(1)}% of the largest entropy` : "no choice";
function mostAttended(view, head, query) {
  const {keys, values} = entries(view, head, query);
  const best = values.reduce((best, value, i) => value > values[best] ? i : best, 0);
  return {key: keys[best], value: values[best]};
}
const heat = t => {  // black body: dark red, orange, pale yellow; readable without telling red from green
  const stop = [[60, 4, 30], [150, 24, 60], [225, 85, 35], [250, 165, 25], [252, 250, 190]], f = t * 3.999, i = Math.floor(f);
  return mix(stop[i], stop[i + 1], f - i);
};
const {less, more, query: asking, mask: outline, row: used} = data.inks;
const mix = (a, b, t) => a.map((c, i) => Math.round(c + t * (b[i] - c)));

// Weights over the key cells as [colour, opacity]: by themselves, or by how much they differ from the uniform ones.
function shades(weights, uniform) {
  const compared = $("against").checked, own = $("own").checked;
  const ratios = weights.map((w, k) => !compared ? w : uniform[k] ? Math.log2(w / uniform[k]) : 0);
  const largest = ratios.reduce((a, b) => Number.isFinite(b) ? Math.max(a, b) : a, compared ? data.least : 1e-12);
  const end = own ? largest : compared ? 3 : 1;  // an eighth to eight times uniform
  return {end, cells: Array.from(ratios, (r, k) => {
    if (!uniform[k] || (!compared && !r)) return null;
    const t = Math.min(Math.abs(r) / end, 1);
    if (compared) return [`rgb(${r < 0 ? less : more})`, 0.85 * t];
    return [`rgb(${heat(Math.sqrt(t))})`, 0.15 + 0.75 * Math.sqrt(t)];  // small probabilities stay visible
  })};
}
function paint(canvas, view, weights, uniform) {
  const ctx = canvas.getContext("2d"), S = canvas.width, [rows, cols] = view.key_grid, w = S / cols, h = S / rows;
  ctx.imageSmoothingEnabled = false;
  ctx.globalAlpha = 1;
  ctx.drawImage(view.picture, 0, 0, S, S);
  ctx.fillStyle = "rgba(12,14,18,.55)";
  ctx.fillRect(0, 0, S, S);
  const {cells, end} = shades(weights, uniform);
  cells.forEach((shade, k) => {
    if (!shade) return;
    [ctx.fillStyle, ctx.globalAlpha] = shade;
    ctx.fillRect(k % cols * w, Math.floor(k / cols) * h, w, h);
  });
  ctx.globalAlpha = 1;
  return end;
}
function draw(canvas, view, weights, uniform) {
  paint(canvas, view, weights, uniform);
  const ctx = canvas.getContext("2d"), S = canvas.width, [rows, cols] = view.key_grid, w = S / cols, h = S / rows;
  if ($("outline").checked) {
    ctx.strokeStyle = outline; ctx.lineWidth = Math.max(1.5, S / 280); ctx.beginPath();
    const at = (r, c) => r >= 0 && c >= 0 && r < rows && c < cols && uniform[r * cols + c] > 0;
    for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) {
      if (!at(r, c)) continue;
      if (!at(r - 1, c)) { ctx.moveTo(c * w, r * h); ctx.lineTo(c * w + w, r * h); }
      if (!at(r + 1, c)) { ctx.moveTo(c * w, r * h + h); ctx.lineTo(c * w + w, r * h + h); }
      if (!at(r, c - 1)) { ctx.moveTo(c * w, r * h); ctx.lineTo(c * w, r * h + h); }
      if (!at(r, c + 1)) { ctx.moveTo(c * w + w, r * h); ctx.lineTo(c * w + w, r * h + h); }
    }
    ctx.stroke();
    const row = view.rowsUsed[state.query];
    ctx.setLineDash([S / 60, S / 90]); ctx.lineWidth = Math.max(2, S / 220); ctx.strokeStyle = used;
    ctx.strokeRect(row % cols * w, Math.floor(row / cols) * h, w, h);
    ctx.setLineDash([]);
  }
  const [qrows, qcols] = view.query_grid, qw = S / qcols, qh = S / qrows;
  const box = [state.query % qcols * qw, Math.floor(state.query / qcols) * qh, qw, qh];
  ctx.lineWidth = Math.max(4, S / 110); ctx.strokeStyle = "#000"; ctx.strokeRect(...box);
  ctx.lineWidth = Math.max(2, S / 190); ctx.strokeStyle = asking; ctx.strokeRect(...box);
}
const cell = (index, grid) => `(${Math.floor(index / grid[1])}, ${index % grid[1]})`;
function meanOf(view, what) {  // over the heads
  const mean = new Float32Array(view.key_grid[0] * view.key_grid[1]);
  view.heads.forEach((_, i) => dense(view, i, state.query, what).forEach((p, k) => { mean[k] += p / view.heads.length; }));
  return mean;
}

function render() {
  const view = views[state.view], one = state.head;
  view.heads.forEach((head, i) => {
    const row = entries(view, i, state.query), best = mostAttended(view, i, state.query), button = $("heads").children[i];
    draw(button.querySelector("canvas"), view, dense(view, i, state.query), dense(view, i, state.query, "uniform"));
    button.querySelector(".first").textContent = `top ${best.value.toFixed(3)} at ${cell(best.key, view.key_grid)}`;
    button.querySelector(".second").textContent =
      `${share(entropyOf(row.values), entropyOf(row.uniform))}, ${row.keys.length} key${row.keys.length === 1 ? "" : "s"}`;
    button.setAttribute("aria-pressed", one === i);
  });
  const [weights, uniform] = ["values", "uniform"].map(
    what => one === null ? meanOf(view, what) : dense(view, one, state.query, what));
  draw($("stage"), view, weights, uniform);
  const what = one === null ? "mean of the heads" : `head ${one} (${view.heads[one].name})`;
  const row = view.rowsUsed[state.query];
  $("reading").textContent = `Query ${cell(state.query, view.query_grid)} of ${view.query_grid.join("×")}${state.held ? ", held" : ""}; `
    + `shown large: ${what}. Alignment “${view.alignment}”: it uses the mask row of key cell ${cell(row, view.key_grid)} of ${view.key_grid.join("×")}.`;
  Array.from($("views").children).forEach((tab, i) => {
    tab.setAttribute("aria-selected", i === state.view); tab.tabIndex = i === state.view ? 0 : -1;
  });
}
function setView(index) {
  const old = views[state.view];
  state.view = (index + views.length) % views.length;
  const view = views[state.view];
  if (old.query_grid.join() !== view.query_grid.join()) state.query = middle(view);
  if (state.head !== null && state.head >= view.heads.length) state.head = null;
  $("layer").textContent = view.text;
  $("heads").replaceChildren(...view.heads.map((head, i) => {
    const canvas = make("canvas", {width: 320, height: 320, role: "img", "aria-label": `attention of head ${i}`});
    const button = make("button", {class: "head", type: "button", "aria-pressed": "false"}, canvas,
      make("b", {}, `head ${i} · ${head.name}`), make("span", {class: "first"}), make("span", {class: "second"}),
      make("span", {}, head.health && `over many images: ${head.health}`));
    canvas.onpointermove = event => point(canvas, event);
    button.onclick = () => { state.head = state.head === i ? null : i; render(); };
    return button;
  }));
  drawSaliency();
  render();
}
const middle = view => Math.floor(view.query_grid[0] / 2) * view.query_grid[1] + Math.floor(view.query_grid[1] / 2);
function setQuery(query) { state.query = query; render(); }
function point(canvas, event) {
  if (state.held) return;
  const box = canvas.getBoundingClientRect(), [rows, cols] = views[state.view].query_grid;
  const clip = (value, size) => Math.min(Math.max(Math.floor(value * size), 0), size - 1);
  const query = clip((event.clientY - box.top) / box.height, rows) * cols + clip((event.clientX - box.left) / box.width, cols);
  if (query !== state.query) setQuery(query);
}
function receivedBy(view, head, what) {  // mean attention that each key receives from the queries that attend to it
  const mask = masks[view.heads[head].mask], n = view.key_grid[0] * view.key_grid[1], start = view.offsets[head];
  const sum = new Float64Array(n), count = new Uint32Array(n);
  mask.indices.forEach((key, i) => {
    const p = what === "values" ? view.values[start + i] : mask.uniform[i];
    if (p) { sum[key] += p; count[key]++; }
  });
  return Float32Array.from(sum, (s, k) => count[k] ? s / count[k] : 0);
}
function drawSaliency() {
  const view = views[state.view], compared = $("against").checked;
  $("saliency-text").textContent = `${view.name}. Mean attention that each key gets from the queries that attend to it`
    + (compared ? ", against what uniform attention over the mask would give it." : ".")
    + (view.weighs ? ` The inversion weighted features by heads ${view.weighs.join(", ")}.` : "");
  $("saliency").replaceChildren(...view.heads.map((head, i) => {
    const canvas = make("canvas", {width: 240, height: 240, role: "img", "aria-label": `saliency of head ${i}`});
    const mask = masks[head.mask], values = view.values.subarray(view.offsets[i], view.offsets[i] + mask.indices.length);
    const received = receivedBy(view, i, "values");
    const end = paint(canvas, view, received, receivedBy(view, i, "uniform"));
    const scale = compared ? `colours end at ${(2 ** -end).toFixed(2)} and ${(2 ** end).toFixed(2)} times uniform`
                           : `largest ${Math.max(...received).toFixed(3)}`;
    return make("figure", {}, canvas, make("figcaption", {},
      `head ${i}: ${share(entropyOf(values), entropyOf(mask.uniform))}; ${scale}`));
  }));
}
if (views.length) {
  views.forEach((view, i) => {
    const tab = make("button", {role: "tab", type: "button"}, view.name);
    tab.onclick = () => setView(i);
    tab.onkeydown = event => {
      const move = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (move) { event.preventDefault(); event.stopPropagation(); setView(state.view + move); $("views").children[state.view].focus(); }
    };
    $("views").append(tab);
  });
  $("stage").onpointermove = event => point($("stage"), event);
  $("stage").onclick = event => { state.held = false; point($("stage"), event); state.held = true; render(); };
  $("stage").onkeydown = event => {
    const [rows, cols] = views[state.view].query_grid, row = Math.floor(state.query / cols), col = state.query % cols;
    const next = {ArrowLeft: [row, Math.max(col - 1, 0)], ArrowRight: [row, Math.min(col + 1, cols - 1)],
                  ArrowUp: [Math.max(row - 1, 0), col], ArrowDown: [Math.min(row + 1, rows - 1), col],
                  Home: [row, 0], End: [row, cols - 1]}[event.key];
    if (next) { event.preventDefault(); setQuery(next[0] * cols + next[1]); }
  };
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
    const digit = "0123456789".indexOf(event.key);
    if (event.key === "a") state.head = null;
    else if (event.key.length === 1 && digit >= 0 && digit < views[state.view].heads.length) state.head = digit;
    else if (event.key === "v") return setView(state.view + 1);
    else if (event.key === "m") $("outline").checked = !$("outline").checked;
    else if (event.key === "Escape") state.held = false;
    else return;
    render();
  });
  for (const id of ["outline", "own", "against"]) $(id).onchange = () => { drawSaliency(); render(); };
  state.query = middle(views[0]);
  Promise.all(views.map(view => view.picture.decode())).then(() => { setView(0); document.body.dataset.ready = "yes"; });
}
// For scripts and tests: what is on the screen, as numbers.
window.explorer = {state, views, setView, setQuery,
  current: () => views[state.view].heads.map((_, i) => Array.from(dense(views[state.view], i, state.query)))};
