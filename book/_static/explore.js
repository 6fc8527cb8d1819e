// The page on which the reader moves gamma and the epoch: decodes what experiments/chapters/explore/page.py wrote into the
// page, makes the controls, and draws. No library and no network; without this script the still figure remains.
// Jupyter Book loads every script of _static with every page: on all others this one does nothing.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const root = document.getElementById("lpc-explore");
  if (!root) return;
  const data = JSON.parse(document.getElementById("lpc-explore-data").textContent);

  // ---- numbers: base64 of little-endian arrays, last axis fastest
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const read = (name, size, method) => {
    const view = new DataView(bytes(data[name]).buffer);
    return Array.from({ length: view.byteLength / size }, (_, i) => view[method](i * size, true));
  };
  const epochs = data.epochs.length, classes = data.classes.length, { nodes, bins } = data;
  const ends = read("ends", 4, "getFloat32"), means = read("means", 4, "getFloat32");
  const middle = read("plane", 4, "getFloat32"), points = read("points", 2, "getUint16");
  const counts = bytes(data.counts), dots = data.shown.length;
  const at = { // of frame f = network * epochs + step
    end: (f, node, side) => ends[(f * nodes + node) * 2 + side],
    mean: (f, one, node) => means[(f * classes + one) * nodes + node],
    count: (f, node, one, bin) => counts[((f * nodes + node) * classes + one) * bins + bin],
    middle: (f, one, axis) => middle[(f * classes + one) * 2 + axis],
    point: (f, i, axis) => data.reach.flat()[f] * (2 * points[(f * dots + i) * 2 + axis] / 65535 - 1),
  };
  const number = (name, f) => data[name][Math.floor(f / epochs)][f % epochs];
  root.decoded = { at, number, data }; // for whoever wants the numbers
  const text = (value) => {
    if (value === 0) return "0";
    const [size, power] = value.toExponential(2).split("e");
    return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4 ? String(Number(value.toPrecision(3))) : `${size}e${+power}`;
  };
  const share = (value) => `${(100 * value).toFixed(1)} %`;

  // ---- elements
  const make = (parent, name, attributes = {}, content = "") => {
    const one = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
    one.textContent = content;
    return parent.appendChild(one);
  };
  const draw = (parent, name, attributes = {}, content = "") => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
    one.textContent = content;
    return parent.appendChild(one);
  };
  const panel = (parent, width, height, label) => {
    const svg = draw(parent, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    draw(svg, "rect", { width, height, fill: "#ffffff" });
    return svg;
  };
  const write = (svg, x, y, content, more = {}) =>
    draw(svg, "text", { x, y, "font-size": 11, fill: "#222222", "text-anchor": "middle", ...more }, content);

  // ---- controls, made here: where no script runs there are none
  const controls = make(root, "div", { class: "lpc-controls" });
  const slider = (id, label, last, value) => {
    const box = make(controls, "div", { class: "lpc-slider" });
    make(box, "label", { for: id }, label);
    const shown = make(box, "output", { for: id });
    const input = make(box, "input", { type: "range", id, min: 0, max: last, step: 1, value });
    return { input, shown };
  };
  const gamma = slider("lpc-gamma", "γ grows to", data.networks.length - 1, data.networks.length - 1);
  const epoch = slider("lpc-epoch", "Epoch", epochs - 1, 0);
  const row = make(controls, "div", { class: "lpc-choices" });
  make(row, "label", { for: "lpc-node" }, "Node");
  const node = make(row, "select", { id: "lpc-node" });
  for (let i = 0; i < nodes; i++) make(node, "option", { value: i }, `node ${i}`);
  make(node, "option", { value: "all" }, "all nodes");
  const scales = make(row, "fieldset");
  make(scales, "legend", {}, "Scale");
  const scale = (value, words) => {
    const label = make(scales, "label");
    const input = make(label, "input", { type: "radio", name: "lpc-scale", value });
    label.append(` ${words}`);
    return input;
  };
  const unit = scale("unit", "unit rms"), real = scale("true", "true scale");
  unit.checked = true;
  const readout = make(root, "p", { id: "lpc-readout", role: "status", "aria-live": "polite" });
  const legend = make(root, "p", { class: "lpc-legend" }, "class:");
  data.classes.forEach((name, one) => {
    const entry = make(legend, "span");
    make(entry, "i", { style: `background:${data.colours[one]}`, "aria-hidden": "true" });
    entry.append(name);
  });
  const panels = make(root, "div", { class: "lpc-panels" });

  // ---- the plane: points, and each class's name at its mean
  const frames = (network) => Array.from({ length: epochs }, (_, step) => network * epochs + step);
  const drawPlane = (f, divided) => {
    const size = 340, network = Math.floor(f / epochs), by = divided ? number("rms", f) : 1;
    const reach = Math.max(...frames(network).map((g) => number("reach", g) / (divided ? number("rms", g) : 1)));
    const place = (value) => size / 2 + (value / by / reach) * 0.46 * size;
    const svg = panel(panels, size, size, "Latents in a plane; the class means are named");
    draw(svg, "path", { d: `M${size / 2} 8V${size - 18}M8 ${size / 2}H${size - 8}`, stroke: "#bbbbbb" });
    data.shown.forEach((one, i) => draw(svg, "circle", {
      cx: place(at.point(f, i, 0)).toFixed(2), cy: (size - place(at.point(f, i, 1))).toFixed(2), r: 1.5,
      fill: data.colours[one],
    }));
    data.classes.forEach((name, one) => write(
      svg, place(at.middle(f, one, 0)) + 6, size - place(at.middle(f, one, 1)) - 3, name,
      { "font-weight": "bold", "paint-order": "stroke", stroke: "#ffffff", "stroke-width": 2.5 },
    ));
    write(svg, size / 2, size - 5, `plane of the last class means, ± ${text(reach)}`);
  };

  // ---- a node: stacked histogram of all training images, each class's name above its mean
  const LEVELS = 4; // rows of names; what does not fit is counted
  const drawNode = (f, i, divided, size) => {
    const [width, height] = size, network = Math.floor(f / epochs), by = divided ? number("rms", f) : 1;
    const reach = Math.max(...frames(network).flatMap((g) => Array.from({ length: nodes }, (_, j) =>
      Math.max(-at.end(g, j, 0), at.end(g, j, 1)) / (divided ? number("rms", g) : 1))));
    const place = (value) => width / 2 + (value / by / reach) * 0.46 * width;
    const top = 12 * LEVELS + 16, bottom = height - 30;
    const svg = panel(panels, width, height, `Histogram of node ${i}, stacked by class`);
    const [low, high] = [at.end(f, i, 0), at.end(f, i, 1)];
    const edge = (bin) => place(low + ((high - low) * bin) / bins);
    const stack = [new Array(bins).fill(0)];
    for (let one = 0; one < classes; one++) stack.push(stack[one].map((sum, bin) => sum + at.count(f, i, one, bin)));
    const most = Math.max(...stack[classes]);
    const level = (count) => (bottom - (count / most) * (bottom - top)).toFixed(2);
    const bar = (one, bin) => { // wide enough to be seen where all bins together are a hair
      const right = Math.max(edge(bin + 1), edge(bin) + 0.6).toFixed(2);
      return `M${edge(bin).toFixed(2)} ${level(stack[one][bin])}H${right}V${level(stack[one + 1][bin])}H${edge(bin).toFixed(2)}Z`;
    };
    const filled = (one) => [...Array(bins).keys()].filter((bin) => at.count(f, i, one, bin));
    for (let one = 0; one < classes; one++) draw(svg, "path", {
      d: filled(one).map((bin) => bar(one, bin)).join(""), fill: data.colours[one],
    });
    const taken = new Array(LEVELS).fill(-Infinity);
    let left = 0;
    const order = data.classes.map((_, one) => one).sort((a, b) => at.mean(f, a, i) - at.mean(f, b, i));
    for (const one of order) {
      const x = place(at.mean(f, one, i)), free = taken.findIndex((end) => end < x - 9);
      if (free < 0) { left += 1; continue; }
      taken[free] = x;
      write(svg, x, top - 4 - 12 * free, data.classes[one], { "font-weight": "bold" });
    }
    if (left) write(svg, width - 6, 14, `and ${left} more here`, { "text-anchor": "end" });
    draw(svg, "path", { d: `M4 ${bottom}H${width - 4}M${width / 2} ${bottom}v4`, stroke: "#222222" });
    write(svg, width / 2, bottom + 14, "0");
    write(svg, 4, bottom + 14, text(-reach), { "text-anchor": "start" });
    write(svg, width - 4, bottom + 14, text(reach), { "text-anchor": "end" });
    write(svg, width / 2, height - 4, `node ${i}`);
  };

  // ---- show what the controls say
  const show = () => {
    const network = +gamma.input.value, step = +epoch.input.value, f = network * epochs + step;
    const last = text(data.networks[network]), all = data.epochs[epochs - 1], divided = unit.checked;
    gamma.shown.textContent = last;
    gamma.input.setAttribute("aria-valuetext", `γ grows to ${last}`);
    epoch.shown.textContent = `${data.epochs[step]} of ${all}`;
    epoch.input.setAttribute("aria-valuetext", `epoch ${data.epochs[step]} of ${all}`);
    readout.textContent = `γ to ${last}, epoch ${data.epochs[step]}: γ = ${text(number("gamma", f))}, ` +
      `rms ${text(number("rms", f))}, tr Σ_W / tr Σ_B ${text(number("trace_ratio", f))}, ` +
      `train accuracy ${share(number("accuracy", f))}, ` +
      `by the nearest class mean ${share(number("nearest_mean_accuracy", f))}`;
    panels.replaceChildren();
    panels.classList.toggle("lpc-all", node.value === "all");
    if (node.value === "all") for (let i = 0; i < nodes; i++) drawNode(f, i, divided, [220, 170]);
    else { drawPlane(f, divided); drawNode(f, +node.value, divided, [340, 340]); }
  };
  for (const one of [gamma.input, epoch.input, node, unit, real]) one.addEventListener("input", show);

  // ---- play through the epochs, only where motion is welcome
  if (!window.matchMedia("(prefers-reduced-motion: reduce)").matches) {
    const button = make(row, "button", { type: "button" }, "Play");
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      button.textContent = "Play";
      readout.setAttribute("aria-live", "polite");
    };
    button.addEventListener("click", () => {
      if (timer) { stop(); return; }
      if (+epoch.input.value === epochs - 1) epoch.input.value = 0;
      readout.setAttribute("aria-live", "off"); // spoken once, at the end
      button.textContent = "Stop";
      show();
      timer = setInterval(() => {
        if (+epoch.input.value + 1 >= epochs - 1) stop();
        epoch.input.value = +epoch.input.value + 1;
        show();
      }, 700);
    });
  }
  show();
});
