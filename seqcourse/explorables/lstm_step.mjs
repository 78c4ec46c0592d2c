// An LSTM of one unit: its arithmetic (exported, tested against seqcourse.cells.LSTMCell) and a view with sliders.
// Gates are numbered in torch's order: 0 input gate, 1 forget gate, 2 candidate, 3 output gate.

const sigmoid = (a) => 1 / (1 + Math.exp(-a));

/** One step. parameters: { weight_ih, weight_hh, bias }, four numbers each. Returns the gates and the new states. */
export function step(x, hidden, cell, { weight_ih, weight_hh, bias }) {
  const preactivation = (k) => weight_ih[k] * x + weight_hh[k] * hidden + bias[k];
  const input_gate = sigmoid(preactivation(0));
  const forget_gate = sigmoid(preactivation(1));
  const candidate = Math.tanh(preactivation(2));
  const output_gate = sigmoid(preactivation(3));
  const cell_state = forget_gate * cell + input_gate * candidate;
  const hidden_state = output_gate * Math.tanh(cell_state);
  return { input_gate, forget_gate, candidate, output_gate, cell_state, hidden_state };
}

/** Given d hidden and d cell before a step, how the step changes them: the chain rule through every path. */
export function derivative(dHidden, dCell, cell, now, { weight_hh }) {
  const slope = (gate) => gate * (1 - gate);
  const dInput = slope(now.input_gate) * weight_hh[0] * dHidden;
  const dForget = slope(now.forget_gate) * weight_hh[1] * dHidden;
  const dCandidate = (1 - now.candidate ** 2) * weight_hh[2] * dHidden;
  const dOutput = slope(now.output_gate) * weight_hh[3] * dHidden;
  const squashed = Math.tanh(now.cell_state);
  const d_cell = now.forget_gate * dCell + cell * dForget + now.candidate * dInput + now.input_gate * dCandidate;
  const d_hidden = squashed * dOutput + now.output_gate * (1 - squashed ** 2) * d_cell;
  return { d_hidden, d_cell };
}

/**
 * Run over a sequence from zero states. Two gradients per step t: `direct`, the product of the forget gates up to t
 * (d c_t / d c_0 along the cell state alone), and `full`, d c_t / d c_0 through the gates too.
 */
export function run(inputs, parameters) {
  let [hidden, cell, direct, dHidden, dCell] = [0, 0, 1, 0, 1];
  return inputs.map((x) => {
    const now = step(x, hidden, cell, parameters);
    const { d_hidden, d_cell } = derivative(dHidden, dCell, cell, now, parameters);
    direct *= now.forget_gate;
    [hidden, cell, dHidden, dCell] = [now.hidden_state, now.cell_state, d_hidden, d_cell];
    return { ...now, direct, full: d_cell };
  });
}

/** A pulse at the first step, then silence. */
export const pulse = (height, steps) => Array.from({ length: steps }, (_, t) => (t === 0 ? height : 0));

// --- the view ------------------------------------------------------------------------------------------------------

const GATES = [
  { name: "input_gate", title: "Input gate", symbol: "i", low: 0, about: "how much of the candidate is let in" },
  { name: "forget_gate", title: "Forget gate", symbol: "f", low: 0, about: "how much of the cell state is kept" },
  { name: "candidate", title: "Candidate", symbol: "g", low: -1, about: "what could be written" },
  { name: "output_gate", title: "Output gate", symbol: "o", low: 0, about: "how much of the cell state is shown" },
];

export const PRESETS = {
  remember: { weight_ih: [8, 0, 3, 0], weight_hh: [0, 0, 0, 0], bias: [-4, 6, 0, 2] },
  forget: { weight_ih: [8, 0, 3, 0], weight_hh: [0, 0, 0, 0], bias: [-4, 0, 0, 2] },
  saturate: { weight_ih: [8, 0, 8, 0], weight_hh: [0, 0, 8, 0], bias: [8, 8, 0, 8] },
};
const PRESET_NOTES = {
  remember: "The forget gate stays near 1: the pulse and its gradient survive.",
  forget: "The forget bias is 0, so the forget gate is one half: the pulse is gone in a few steps.",
  saturate: "All gates are wide open: the cell state grows by one at each step, tanh flattens, and the hidden state sticks at 1.",
};

const SVG = "http://www.w3.org/2000/svg";
const number = (value) => value.toFixed(3).replace(/^-(0\.0+)$/, "$1");
const scientific = (value) => (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : number(value));

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  made.append(...children);
  return made;
}

function drawn(tag, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  made.textContent = text;
  return made;
}

/** A labelled range input for one number of the model; `place` is the index where the value is a list. */
function slider(model, text, name, place, [min, max, increment]) {
  const read = () => (place === undefined ? model.get(name) : model.get(name)[place]);
  const input = element("input", { type: "range", min, max, step: increment, "data-name": name, "data-place": place ?? "" });
  const shown = element("span", { class: "value", "aria-hidden": "true" });
  const show = () => {
    input.value = read();
    shown.textContent = String(read());
  };
  input.addEventListener("input", () => {
    const value = Number(input.value);
    model.set(name, place === undefined ? value : model.get(name).map((old, k) => (k === place ? value : old)));
    model.save_changes();
  });
  model.on(`change:${name}`, show);
  show();
  return element("label", {}, element("span", { class: "name" }, text), input, shown);
}

/** A bar from zero to the value, on a scale from `low` to 1. */
function bar(kind, low) {
  const fill = element("span", { class: "fill" });
  const track = element("span", { class: `bar ${kind}`, "aria-hidden": "true" }, fill);
  const at = (value) => (100 * (value - low)) / (1 - low);
  const move = (value) => {
    fill.style.left = `${Math.min(at(0), at(value))}%`;
    fill.style.width = `${Math.abs(at(value) - at(0))}%`;
  };
  return { track, move };
}

function gateBox(model, gate, k) {
  const value = element("span", { class: "value", "data-shows": gate.name });
  const meter = bar(gate.name, gate.low);
  const weights = element(
    "details", {},
    element("summary", {}, `Weights of the ${gate.title.toLowerCase()}`),
    slider(model, "weight of x", "weight_ih", k, [-8, 8, 0.5]),
    slider(model, "weight of h", "weight_hh", k, [-8, 8, 0.5]),
  );
  const box = element(
    "fieldset", {},
    element("legend", {}, `${gate.title} ${gate.symbol}`),
    element("p", { class: "about" }, gate.about),
    element("p", { class: "reading" }, meter.track, value),
    slider(model, `${gate.title.toLowerCase()} bias`, "bias", k, [-8, 8, 0.5]),
    weights,
  );
  const show = (now) => {
    meter.move(now[gate.name]);
    value.textContent = number(now[gate.name]);
  };
  return { box, show };
}

/** A line chart over the steps. `scale` maps a value to 0 (bottom) .. 1 (top); `ticks` are the values to mark. */
function chart(title) {
  const [width, height, left, right, top, bottom] = [300, 160, 40, 8, 12, 26];
  const picture = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const draw = (lines, scale, ticks, description) => {
    const steps = lines[0].values.length - 1;
    const across = (t) => left + (t / steps) * (width - left - right);
    const up = (value) => height - bottom - scale(value) * (height - top - bottom);
    picture.replaceChildren();
    picture.setAttribute("aria-label", `${title}: ${description}`);
    for (const { value, text } of ticks) {
      picture.append(drawn("line", { class: "grid", x1: left, x2: width - right, y1: up(value), y2: up(value) }));
      picture.append(drawn("text", { x: left - 6, y: up(value) + 4, "text-anchor": "end" }, text));
    }
    for (const t of [0, steps]) {
      picture.append(drawn("text", { x: across(t), y: height - 8, "text-anchor": t ? "end" : "start" }, t ? `step ${t}` : "0"));
    }
    for (const { values, kind } of lines) {
      picture.append(drawn("polyline", { class: kind, points: values.map((v, t) => `${across(t)},${up(v)}`).join(" ") }));
    }
  };
  return { box: element("figure", {}, element("figcaption", {}, title), picture), draw };
}

const FLOOR = -8; // the gradient chart ends at 1e-8
const logarithm = (value) => Math.min(Math.max(Math.log10(Math.abs(value) + 1e-300), FLOOR), 2);

function drawCellState({ draw }, states) {
  const values = [0, ...states.map((now) => now.cell_state)];
  const [low, high] = [Math.min(-1, ...values), Math.max(1, ...values)];
  const marks = [...new Set([Math.floor(low), 0, Math.ceil(high)])].map((value) => ({ value, text: String(value) }));
  const [bottom, top] = [Math.floor(low), Math.ceil(high)];
  draw([{ values, kind: "cell" }], (v) => (v - bottom) / (top - bottom), marks, `ends at ${number(values.at(-1))}`);
}

function drawGradient({ draw }, states) {
  const line = (name) => [1, ...states.map((now) => now[name])];
  const marks = [0, -4, -8].map((power) => ({ value: 10 ** power, text: power ? `1e${power}` : "1" }));
  const last = states.at(-1);
  draw(
    [{ values: line("direct"), kind: "direct" }, { values: line("full"), kind: "full" }],
    (v) => (logarithm(v) - FLOOR) / (2 - FLOOR), marks,
    `product of the forget gates ends at ${scientific(last.direct)}, the full derivative at ${scientific(last.full)}`,
  );
}

function presetButtons(model, note) {
  const choose = (name) => {
    Object.entries(PRESETS[name]).forEach(([parameter, values]) => model.set(parameter, values));
    model.save_changes();
    note.textContent = PRESET_NOTES[name];
  };
  return Object.keys(PRESETS).map((name) => {
    const button = element("button", { type: "button", "data-preset": name }, name);
    button.addEventListener("click", () => choose(name));
    return button;
  });
}

const parametersOf = (model) => ({ weight_ih: model.get("weight_ih"), weight_hh: model.get("weight_hh"), bias: model.get("bias") });
const SHARED = ["x", "hidden_state", "cell_state", "weight_ih", "weight_hh", "bias", "steps"];

function stepPart(model, boxes) {
  const inputs = element(
    "fieldset", {},
    element("legend", {}, "Before the step"),
    slider(model, "input x", "x", undefined, [-2, 2, 0.1]),
    slider(model, "hidden state h", "hidden_state", undefined, [-1, 1, 0.1]),
    slider(model, "cell state c", "cell_state", undefined, [-3, 3, 0.1]),
  );
  const result = (name) => element("strong", { "data-shows": name });
  const [cell, hidden] = [result("cell_state"), result("hidden_state")];
  const sum = element("span", { class: "working" });
  const after = element(
    "fieldset", { class: "result" },
    element("legend", {}, "After the step"),
    element("p", {}, "new c = f · c + i · g = ", cell, element("br"), sum),
    element("p", {}, "new h = o · tanh(new c) = ", hidden),
  );
  const show = (now) => {
    cell.textContent = number(now.cell_state);
    hidden.textContent = number(now.hidden_state);
    sum.textContent = `(${number(now.forget_gate)} · ${model.get("cell_state")} + ${number(now.input_gate)} · ${number(now.candidate)})`;
    boxes.forEach((gate) => gate.show(now));
  };
  const grid = element("div", { class: "grid" }, inputs, ...boxes.map((gate) => gate.box), after);
  return { grid, show };
}

function runPart(model) {
  const charts = [chart("Cell state after a pulse"), chart("Gradient d c(t) / d c(0)")];
  const key = element(
    "p", { class: "key" },
    element("span", { class: "direct" }, "product of the forget gates"),
    element("span", { class: "full" }, "with the paths through the gates"),
  );
  charts[1].box.append(key);
  const steps = slider(model, "steps T", "steps", undefined, [5, 100, 5]);
  const grid = element("div", { class: "grid wide" }, charts[0].box, charts[1].box);
  const show = () => {
    const states = run(pulse(model.get("x"), model.get("steps")), parametersOf(model));
    drawCellState(charts[0], states);
    drawGradient(charts[1], states);
    return states.at(-1);
  };
  return { steps, grid, show };
}

/** Tell screen readers the outcome once the reader pauses, not at every tick of a slider. */
function announcer(status) {
  let waiting;
  return (text) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => (status.textContent = text), 300);
  };
}

function render({ model, el }) {
  const note = element("p", { class: "note", "aria-live": "polite" }, "Move a slider, or start from one of these three.");
  const status = element("p", { class: "status", role: "status" });
  const announce = announcer(status);
  const one = stepPart(model, GATES.map((gate, k) => gateBox(model, gate, k)));
  const many = runPart(model);
  const update = () => {
    const now = step(model.get("x"), model.get("hidden_state"), model.get("cell_state"), parametersOf(model));
    one.show(now);
    const last = many.show();
    announce(
      `One step: c ${number(now.cell_state)}, h ${number(now.hidden_state)}. After ${model.get("steps")} steps: ` +
        `c ${number(last.cell_state)}, product of the forget gates ${scientific(last.direct)}.`,
    );
  };
  el.classList.add("explorable");
  el.append(
    element("p", { class: "title" }, "One step of an LSTM with one unit"),
    element("p", { class: "presets" }, ...presetButtons(model, note)), note,
    one.grid,
    element("p", { class: "title" }, "The same LSTM over T steps: input x at the first step, then zeros, from zero states"),
    many.steps, many.grid, status,
  );
  el.addEventListener("keydown", (event) => event.stopPropagation()); // JupyterLab would take the arrow keys
  SHARED.forEach((name) => model.on(`change:${name}`, update));
  update();
}

export default { render };
