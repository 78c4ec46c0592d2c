// Rotary positions: their arithmetic (exported, tested against seqcourse.attention) and a view with sliders.
// Features 2i and 2i + 1 form a pair, as in seqcourse.attention.RotaryPositions.

/** How far each pair turns per position, in radians: base^(-2i/E). */
export const frequencies = (size, base) => Array.from({ length: size / 2 }, (_, i) => base ** ((-2 * i) / size));

/** A vector of E features with each pair turned by its angle at a position. */
export function turn(vector, position, base) {
  return frequencies(vector.length, base).flatMap((frequency, i) => {
    const [cosine, sine] = [Math.cos(position * frequency), Math.sin(position * frequency)];
    const [even, odd] = [vector[2 * i], vector[2 * i + 1]];
    return [even * cosine - odd * sine, even * sine + odd * cosine];
  });
}

/** The sinusoidal code of a position: sine and cosine of the same angles, alternating. */
export const sinusoid = (position, size, base) =>
  frequencies(size, base).flatMap((frequency) => [Math.sin(position * frequency), Math.cos(position * frequency)]);

const dot = (a, b) => a.reduce((sum, value, k) => sum + value * b[k], 0);
const plus = (a, b) => a.map((value, k) => value + b[k]);

/** Query and key as they enter the product, for one of KINDS. */
export function placed(vector, position, kind, base) {
  if (kind === "rotary") return turn(vector, position, base);
  if (kind === "sinusoidal") return plus(vector, sinusoid(position, vector.length, base));
  return vector;
}

/** The scaled score of a query at one position and a key at another. */
export function score(query, key, at, from, kind, base) {
  return dot(placed(query, at, kind, base), placed(key, from, kind, base)) / Math.sqrt(query.length);
}

export const KINDS = ["rotary", "sinusoidal", "none"];
export const LAST = 63; // the last position that the sliders and charts reach

/** Scores with the query where it is and the key at 0, 1, .. LAST. */
export const byKeyPosition = (query, key, at, kind, base) =>
  Array.from({ length: LAST + 1 }, (_, from) => score(query, key, at, from, kind, base));

/** Scores with both moved by 0, 1, .. LAST positions. */
export const byShift = (query, key, at, from, kind, base) =>
  Array.from({ length: LAST + 1 }, (_, shift) => score(query, key, at + shift, from + shift, kind, base));

const KEY = [1, 0, 1, 0, 1, 0, 1, 0];
export const PRESETS = {
  same: () => ({ query: KEY, key: KEY }),
  "three back": (base) => ({ query: turn(KEY, -3, base), key: KEY }),
  unlike: () => ({ query: [0.9, -0.6, 0.2, 1.1, -0.8, 0.3, 0.5, 0.7], key: [-0.4, 0.8, 0.9, 0.1, 0.6, -0.9, 0.2, 1] }),
};
const PRESET_NOTES = {
  same: "Query and key are the same vector: the rotary score is highest at distance 0.",
  "three back": "The query is the key turned back by three positions: the score is highest three positions before the query.",
  unlike: "Two vectors with nothing in common: still, only the distance decides the rotary score.",
};

// --- the view ------------------------------------------------------------------------------------------------------

const NAMES = { rotary: "rotary", sinusoidal: "sinusoidal, added", none: "no positions" };
const SVG = "http://www.w3.org/2000/svg";
const number = (value) => value.toFixed(3).replace(/^-(0\.0+)$/, "$1");

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

/** A labelled range input for one number of the model. */
function slider(model, text, name, [min, max, increment], say = String) {
  const input = element("input", { type: "range", min, max, step: increment, "data-name": name });
  const shown = element("span", { class: "value", "aria-hidden": "true" });
  const show = () => {
    input.value = model.get(name);
    shown.textContent = say(model.get(name));
    input.setAttribute("aria-valuetext", say(model.get(name)));
  };
  input.addEventListener("input", () => {
    model.set(name, Number(input.value));
    model.save_changes();
  });
  model.on(`change:${name}`, show);
  show();
  return element("label", {}, element("span", { class: "name" }, text), input, shown);
}

/** One pair of features as a clock face with two hands, the query's and the key's. */
function dial(i) {
  const picture = drawn("svg", { viewBox: "-1.15 -1.15 2.3 2.3", role: "img" });
  const caption = element("figcaption", {}, `pair ${i + 1}`);
  const about = element("p", { class: "about" });
  const hand = (kind, [x, y], longest) => {
    const end = { x2: x / longest, y2: -y / longest }; // counter-clockwise, as angles grow
    picture.append(drawn("line", { class: kind, x1: 0, y1: 0, ...end }));
    picture.append(drawn("circle", { class: kind, cx: end.x2, cy: end.y2, r: kind === "query" ? 0.09 : 0.06 }));
  };
  const show = (query, key, frequency, longest) => {
    picture.replaceChildren(drawn("circle", { class: "face", r: 1 }));
    hand("query", query, longest);
    hand("key", key, longest);
    const degrees = ((frequency * 180) / Math.PI).toFixed(1);
    about.textContent = `${degrees}° per position, product ${number(dot(query, key))}`;
    picture.setAttribute("aria-label", `Pair ${i + 1}: query (${query.map(number)}), key (${key.map(number)}).`);
  };
  return { box: element("figure", {}, caption, picture, about), show };
}

/** A line chart over 0 .. LAST with a mark at one place. */
function chart(title, across_label) {
  const [width, height, left, right, top, bottom] = [300, 160, 40, 8, 12, 26];
  const picture = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const draw = (lines, mark, description) => {
    const all = lines.flatMap(({ values }) => values);
    const [low, high] = [Math.floor(Math.min(0, ...all)), Math.ceil(Math.max(1, ...all))];
    const across = (t) => left + (t / LAST) * (width - left - right);
    const up = (value) => height - bottom - ((value - low) / (high - low)) * (height - top - bottom);
    picture.replaceChildren();
    picture.setAttribute("aria-label", `${title}: ${description}`);
    for (const value of new Set([low, 0, high])) {
      picture.append(drawn("line", { class: "grid", x1: left, x2: width - right, y1: up(value), y2: up(value) }));
      picture.append(drawn("text", { x: left - 6, y: up(value) + 4, "text-anchor": "end" }, String(value)));
    }
    if (mark <= LAST) {
      picture.append(drawn("line", { class: "here", x1: across(mark), x2: across(mark), y1: top, y2: height - bottom }));
    }
    picture.append(drawn("text", { x: left, y: height - 8 }, "0"));
    picture.append(drawn("text", { x: width - right, y: height - 8, "text-anchor": "end" }, `${across_label} ${LAST}`));
    for (const { values, kind } of lines) {
      picture.append(drawn("polyline", { class: kind, points: values.map((v, t) => `${across(t)},${up(v)}`).join(" ") }));
    }
  };
  return { box: element("figure", {}, element("figcaption", {}, title), picture), draw };
}

/** Everything that the view needs, from the model: vectors, places and base. */
function read(model) {
  const shift = model.get("shift");
  return {
    query: model.get("query"), key: model.get("key"), base: 10 ** model.get("base_exponent"), shift,
    start: [model.get("query_position"), model.get("key_position")],
    now: [model.get("query_position") + shift, model.get("key_position") + shift],
  };
}

function presetButtons(model, note) {
  return Object.entries(PRESETS).map(([name, make]) => {
    const button = element("button", { type: "button", "data-preset": name }, name);
    button.addEventListener("click", () => {
      Object.entries(make(read(model).base)).forEach(([vector, values]) => model.set(vector, values));
      model.save_changes();
      note.textContent = PRESET_NOTES[name];
    });
    return button;
  });
}

function scoreBox() {
  const cells = KINDS.map((kind) => ["now", "before"].map((when) => element("td", { "data-shows": `${kind}-${when}` })));
  const rows = KINDS.map((kind, k) => element("tr", {}, element("th", { scope: "row" }, NAMES[kind]), ...cells[k]));
  const head = ["score", "now", "before the shift"].map((text) => element("th", { scope: "col" }, text));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  const show = ({ query, key, base, start, now }) =>
    KINDS.forEach((kind, k) =>
      [now, start].forEach((places, c) => (cells[k][c].textContent = number(score(query, key, ...places, kind, base)))),
    );
  return { box: element("fieldset", {}, element("legend", {}, "Score of query and key"), table), show };
}

function dialsPart() {
  const dials = [0, 1, 2, 3].map(dial);
  const hands = element("p", { class: "key" }, element("span", { class: "query" }, "query"), element("span", { class: "key-hand" }, "key"));
  const show = ({ query, key, base, now }) => {
    const turned = [turn(query, now[0], base), turn(key, now[1], base)];
    const longest = Math.max(1, ...turned.flatMap((v) => dials.map((_, i) => Math.hypot(v[2 * i], v[2 * i + 1]))));
    const pair = (vector, i) => vector.slice(2 * i, 2 * i + 2);
    frequencies(query.length, base).forEach((f, i) => dials[i].show(pair(turned[0], i), pair(turned[1], i), f, longest));
  };
  return { box: element("div", { class: "dials" }, ...dials.map(({ box }) => box)), hands, show };
}

function chartsPart() {
  const charts = [chart("The key moves", "key at"), chart("Both move together", "shift")];
  const legend = () => element("p", { class: "key" }, ...KINDS.map((kind) => element("span", { class: kind }, NAMES[kind])));
  charts.forEach(({ box }) => box.append(legend()));
  const spread = (values) => number(Math.max(...values) - Math.min(...values));
  const show = ({ query, key, base, start, now, shift }) => {
    const moving = KINDS.map((kind) => ({ kind, values: byKeyPosition(query, key, now[0], kind, base) }));
    const best = moving[0].values.indexOf(Math.max(...moving[0].values));
    charts[0].draw(moving, now[1], `the rotary score is highest with the key at ${best}`);
    const together = KINDS.map((kind) => ({ kind, values: byShift(query, key, ...start, kind, base) }));
    charts[1].draw(together, shift, together.map(({ kind, values }) => `${NAMES[kind]} varies by ${spread(values)}`).join("; "));
  };
  return { box: element("div", { class: "grid wide" }, ...charts.map(({ box }) => box)), show };
}

/** Tell screen readers the outcome once the reader pauses, not at every tick of a slider. */
function announcer(status) {
  let waiting;
  return ({ query, key, base, now }) => {
    clearTimeout(waiting);
    const scores = KINDS.map((kind) => `${NAMES[kind]} ${number(score(query, key, ...now, kind, base))}`).join(", ");
    const text = `Query at ${now[0]}, key at ${now[1]}, distance ${now[0] - now[1]}: ${scores}.`;
    waiting = setTimeout(() => (status.textContent = text), 300);
  };
}

const SHARED = ["query", "key", "query_position", "key_position", "shift", "base_exponent"];

function render({ model, el }) {
  const note = element("p", { class: "note", "aria-live": "polite" }, "Move a slider, or start from one of these three.");
  const status = element("p", { class: "status", role: "status" });
  const [announce, scores, dials, charts] = [announcer(status), scoreBox(), dialsPart(), chartsPart()];
  const places = element(
    "fieldset", {},
    element("legend", {}, "Where they stand"),
    slider(model, "query at", "query_position", [0, 31, 1]),
    slider(model, "key at", "key_position", [0, 31, 1]),
    slider(model, "shift both by", "shift", [0, LAST, 1]),
    slider(model, "base", "base_exponent", [1, 4, 0.5], (power) => String(Math.round(10 ** power))),
  );
  el.classList.add("explorable");
  el.append(
    element("p", { class: "title" }, "A query and a key of eight features, turned by their positions"),
    element("p", { class: "presets" }, ...presetButtons(model, note)), note,
    element("div", { class: "grid wide" }, places, scores.box),
    dials.hands, dials.box, charts.box, status,
  );
  const update = () => [scores.show, dials.show, charts.show, announce].forEach((show) => show(read(model)));
  el.addEventListener("keydown", (event) => event.stopPropagation()); // JupyterLab would take the arrow keys
  SHARED.forEach((name) => model.on(`change:${name}`, update));
  update();
}

export default { render };
