"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = name => document.getElementById(name);
const integers = text => new Uint32Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
const [keyRows, keyCols] = data.keys, [queryRows, queryCols] = data.queries, n = keyRows * keyCols;
const steps = {}, orders = {}, positions = {};
for (const [name, list] of Object.entries(data.steps)) steps[name] = list.map(pair => pair.map(integers));
for (const [name, text] of Object.entries(data.orders)) {
  orders[name] = integers(text);
  positions[name] = new Uint32Array(n);
  orders[name].forEach((cell, position) => { positions[name][cell] = position; });
}
const natural = Uint32Array.from({ length: n }, (_, cell) => cell);  // patterns native to the grid need no order
const cellsOf = name => data.native.includes(name) ? natural : orders[byId("order").value];
const positionsOf = name => data.native.includes(name) ? natural : positions[byId("order").value];
let query = data.query.slice();

function fill(select, names) {
  for (const name of names) select.add(new Option(name, name));
  select.onchange = draw;
}
fill(byId("layout"), Object.keys(data.layouts));
fill(byId("order"), Object.keys(orders));
fill(byId("alignment"), data.alignments);
if (orders.manhattan) byId("order").value = "manhattan";

// The key cell whose mask row the query uses: as aligned_rows in ylg/heads.py.
function alignedCell(row, col, alignment) {
  if (alignment === "pool")
    return Math.floor(row / (queryRows / keyRows)) * keyCols + Math.floor(col / (queryCols / keyCols));
  if (alignment === "tile") return (row % keyRows) * keyCols + col % keyCols;
  return (row * queryCols + col) % n;
}

const attended = ([indptr, indices], i) => indices.subarray(indptr[i], indptr[i + 1]);

// Paths that arrive at position i from every input, through all the steps of a pattern.
function paths(list, i) {
  let counts = new Float64Array(n);
  counts[i] = 1;
  for (const step of list.slice().reverse()) {
    const before = new Float64Array(n);
    counts.forEach((count, vertex) => { if (count) for (const j of attended(step, vertex)) before[j] += count; });
    counts = before;
  }
  return counts;
}

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function paint(canvas, rows, cols, colourOf, gap = 0) {
  const size = Math.max(4, Math.floor(800 / Math.max(rows, cols)));
  canvas.width = cols * size;
  canvas.height = rows * size;
  const context = canvas.getContext("2d");
  for (let cell = 0; cell < rows * cols; cell++) {
    const colour = colourOf(cell);
    if (!colour) continue;
    context.fillStyle = colour;
    context.fillRect((cell % cols) * size, Math.floor(cell / cols) * size, size - gap, size - gap);
  }
  return [context, size];
}

function ring(context, x, y, radius) {
  for (const [colour, width] of [[css("--paper"), radius * 0.7], [css("--accent"), radius * 0.38]]) {
    context.beginPath();
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.stroke();
  }
}

function panel(title, colourOf, text) {
  const figure = document.createElement("div"), canvas = document.createElement("canvas");
  const [context, size] = paint(canvas, keyRows, keyCols, colourOf);
  ring(context, (query[1] + 0.5) * keyCols / queryCols * size, (query[0] + 0.5) * keyRows / queryRows * size,
       Math.max(24, size * 0.5));
  const name = document.createElement("b"), note = document.createElement("span");
  name.textContent = title;
  note.textContent = text;
  figure.append(canvas, name, note);
  byId("heads").append(figure);
}

function draw() {
  const layout = data.layouts[byId("layout").value];
  if (!layout) return;
  byId("order").disabled = layout.every(([name]) => data.native.includes(name));
  const alignment = byId("alignment").value;
  const [row, col] = query, mine = alignedCell(row, col, alignment);
  const [context, size] = paint(byId("queries"), queryRows, queryCols, cell => {
    const same = alignedCell(Math.floor(cell / queryCols), cell % queryCols, alignment) === mine;
    return same ? css("--accent") : css("--line");
  }, 2);
  ring(context, (col + 0.5) * size, (row + 0.5) * size, Math.max(14, size * 0.9));
  byId("where").textContent = `Query at row ${row}, column ${col}: position ${positionsOf(layout[0][0])[mine]}. `
    + `Filled: the ${queryRows * queryCols / n} queries that share its row of the mask.`;
  byId("heads").replaceChildren();
  for (const [name, step] of layout) {
    const keys = attended(steps[name][step], positionsOf(name)[mine]);
    const cells = new Set(Array.from(keys, key => cellsOf(name)[key]));
    panel(`${name}, step ${step + 1}`, cell => cells.has(cell) ? data.colours[step % data.colours.length] : null,
          `${keys.length} of ${n} keys`);
  }
  for (const name of new Set(layout.map(([name]) => name))) {
    if (steps[name].length < 2) continue;
    const counts = paths(steps[name], positionsOf(name)[mine]), most = Math.max(...counts);
    const reached = counts.filter(count => count > 0).length;
    panel(`${name}, steps in sequence`, cell => {
      const count = counts[positionsOf(name)[cell]];
      return count ? `color-mix(in srgb, ${css("--ink")} ${20 + 55 * count / most}%, ${css("--empty")})` : null;
    }, `hears ${reached} of ${n}`);
  }
}

function move(event) {
  const box = byId("queries").getBoundingClientRect();
  const row = Math.floor((event.clientY - box.top) / box.height * queryRows);
  const col = Math.floor((event.clientX - box.left) / box.width * queryCols);
  if (row < 0 || col < 0 || row >= queryRows || col >= queryCols) return;
  query = [row, col];
  draw();
}
byId("queries").addEventListener("pointermove", move);
byId("queries").addEventListener("pointerdown", move);
byId("queries").addEventListener("keydown", event => {
  const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!by) return;
  event.preventDefault();
  query = [(query[0] + by[0] + queryRows) % queryRows, (query[1] + by[1] + queryCols) % queryCols];
  draw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
