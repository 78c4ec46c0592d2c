// A trained translator in the browser: its arithmetic (exported, tested against seqcourse.models.TransformerTranslator)
// and a view in which each token shows where it looks. A sequence is an array of vectors; the tensors have the names
// of the Python model's state_dict.

// --- text to numbers: base 85, as Python's base64.b85encode writes it, a twentieth shorter than base 64 -------------

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
const DIGIT_OF = new Map(Array.from(DIGITS, (digit, value) => [digit, value]));

/** The numbers that a text writes with so many digits each. */
export const numbers = (text, digits) =>
  Array.from({ length: text.length / digits }, (_, k) =>
    Array.from(text.slice(digits * k, digits * (k + 1))).reduce((sum, digit) => 85 * sum + DIGIT_OF.get(digit), 0),
  );

/** Four bytes for every five digits. */
export function fromBase85(text) {
  const words = numbers(text, 5);
  const view = new DataView(new ArrayBuffer(4 * words.length));
  words.forEach((word, k) => view.setUint32(4 * k, word));
  return new Uint8Array(view.buffer);
}

// --- tokens: byte-level BPE, as in the tokenizers library -----------------------------------------------------------

const WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** The printable character that stands for each byte (Radford et al. 2019). */
function byteAlphabet() {
  const printable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
}
const ALPHABET = byteAlphabet();
const BYTE_OF = new Map(ALPHABET.map((character, byte) => [character, byte]));

/** Merge the neighbours that were merged first in training, the leftmost of equals, until none is left. */
function mergePieces(pieces, ranks) {
  for (;;) {
    let [best, at] = [Infinity, -1];
    for (let k = 0; k + 1 < pieces.length; k++) {
      const rank = ranks.get(`${pieces[k]} ${pieces[k + 1]}`) ?? Infinity;
      if (rank < best) [best, at] = [rank, k];
    }
    if (at < 0) return pieces;
    pieces.splice(at, 2, pieces[at] + pieces[at + 1]);
  }
}

/** A tokeniser from its merges in the order of training. Ids: special tokens, the bytes by code point, the merged pieces. */
export function makeTokeniser({ merges, specials }) {
  const tokens = [...Array(specials).fill(""), ...[...ALPHABET].sort()];
  const ranks = new Map();
  const parts = numbers(merges, 2); // ids, always two together
  for (let k = 0; k < parts.length; k += 2) {
    const [left, right] = [tokens[parts[k]], tokens[parts[k + 1]]];
    ranks.set(`${left} ${right}`, ranks.size);
    tokens.push(left + right);
  }
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const spell = (word) => Array.from(new TextEncoder().encode(word), (byte) => ALPHABET[byte]);
  const encode = (text) =>
    (text.match(WORDS) ?? []).flatMap((word) => mergePieces(spell(word), ranks).map((piece) => ids.get(piece)));
  const decode = (given) => {
    const characters = given.map((id) => tokens[id]).join("");
    return new TextDecoder().decode(Uint8Array.from(characters, (character) => BYTE_OF.get(character)));
  };
  return { encode, decode };
}

// --- weights: a byte each, with a scale per row --------------------------------------------------------------------

/** The number that the 16 bits of a half-precision float stand for. */
export function half(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, (bits & 1023) / 1024];
  return sign * (exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14);
}
const halves = (bytes, start, count) =>
  Float32Array.from(new Uint16Array(bytes.slice(start, start + 2 * count).buffer), half);

/** From text to tensors. A vector is stored in half precision; a matrix as a scale per row, likewise, and then int8 entries. */
export function unpack({ weights, layout }) {
  const bytes = fromBase85(weights);
  const tensors = {};
  let at = 0;
  for (const [name, rows, columns] of layout) {
    const numbers = halves(bytes, at, rows);
    at += 2 * rows;
    const row = (scale, k) => Float32Array.from(new Int8Array(bytes.buffer, at + k * columns, columns), (level) => level * scale);
    tensors[name] = columns ? Array.from(numbers, row) : numbers;
    at += rows * columns;
  }
  return tensors;
}

/** Everything the arithmetic needs: tensors, sizes, the ids of begin and end, two tokenisers. */
export function makeTranslator(packed) {
  const [source, target] = [makeTokeniser(packed.source), makeTokeniser(packed.target)];
  return { ...packed, tensors: unpack(packed), source, target };
}

/** A sentence as the translator was trained to read it: lower case, with a blank in front. */
export const prepare = (text) => ` ${text.toLowerCase()}`;

// --- arithmetic ----------------------------------------------------------------------------------------------------

const dot = (a, b) => a.reduce((sum, value, k) => sum + value * b[k], 0);
const add = (a, b) => a.map((value, k) => value + b[k]);
const mean = (a) => a.reduce((sum, value) => sum + value, 0) / a.length;

/** W x + b. */
export const linear = (x, weight, bias) => Float64Array.from(weight, (row, k) => dot(x, row) + (bias ? bias[k] : 0));

/** Mean 0, variance 1, then the learned scale and shift. */
export function layerNorm(x, weight, bias, epsilon = 1e-5) {
  const centre = mean(x);
  const deviation = Math.sqrt(mean(x.map((value) => (value - centre) ** 2)) + epsilon);
  return x.map((value, k) => ((value - centre) / deviation) * weight[k] + bias[k]);
}

export function softmax(scores) {
  const top = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = scores.map((score) => Math.exp(score - top));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
}

/** Scaled dot-product attention of one query in every head: the heads' outputs side by side, weights[head][key]. */
export function attend(query, keys, values, heads) {
  const size = query.length / heads;
  const output = new Float64Array(query.length);
  const weights = Array.from({ length: heads }, (_, head) => {
    const part = (vector) => vector.subarray(head * size, (head + 1) * size);
    const seen = softmax(keys.map((key) => dot(part(query), part(key)) / Math.sqrt(size)));
    seen.forEach((weight, s) => part(values[s]).forEach((value, k) => (output[head * size + k] += weight * value)));
    return seen;
  });
  return { output, weights };
}

/** Sines and cosines of falling frequency, alternating (Vaswani et al. 2017, section 3.5). */
export const sinusoid = (position, size) =>
  Float64Array.from({ length: size }, (_, k) => {
    const angle = position * 10000 ** (-(k - (k % 2)) / size);
    return k % 2 ? Math.cos(angle) : Math.sin(angle);
  });

const project = ({ tensors }, name, x) => linear(x, tensors[`${name}.weight`], tensors[`${name}.bias`]);
const norm = ({ tensors }, name, x) => layerNorm(x, tensors[`${name}.weight`], tensors[`${name}.bias`]);

/** Embedding times the root of the size, plus the code of the position. */
function embed({ tensors, size }, table, id, position) {
  return add(Float64Array.from(tensors[table][id], (value) => value * Math.sqrt(size)), sinusoid(position, size));
}

const keysAndValues = (model, name, memory) => ({
  keys: memory.map((x) => project(model, `${name}.key_projection`, x)),
  values: memory.map((x) => project(model, `${name}.value_projection`, x)),
});

function look(model, name, x, { keys, values }) {
  const { output, weights } = attend(project(model, `${name}.query_projection`, x), keys, values, model.heads);
  return { output: project(model, `${name}.output_projection`, output), weights };
}

/** The feed-forward part of a block: what it adds to its input. */
function think(model, block, x) {
  const inner = project(model, `${block}.feed_forward.0`, norm(model, `${block}.feed_forward_residual.norm`, x));
  return project(model, `${block}.feed_forward.3`, inner.map((value) => Math.max(value, 0)));
}

/** The encoder, pre-norm: ids of the source in; memory (one vector per token) and attention[layer][token][head][token] out. */
export function encode(model, ids) {
  let x = ids.map((id, position) => embed(model, model.source_table, id, position));
  const attention = Array.from({ length: model.encoder_layers }, (_, layer) => {
    const block = `encoder.blocks.${layer}`;
    const normed = x.map((vector) => norm(model, `${block}.attention_residual.norm`, vector));
    const memory = keysAndValues(model, `${block}.self_attention`, normed);
    const seen = normed.map((vector) => look(model, `${block}.self_attention`, vector, memory));
    x = x.map((vector, s) => add(vector, seen[s].output));
    x = x.map((vector) => add(vector, think(model, block, vector)));
    return seen.map(({ weights }) => weights);
  });
  return { memory: x.map((vector) => norm(model, "encoder.norm", vector)), attention };
}

/** The decoder's cache before the first step: keys and values of the memory, none of the target. */
export function start(model, memory) {
  const layer = (_, k) => ({
    own: { keys: [], values: [] },
    memory: keysAndValues(model, `decoder.blocks.${k}.cross_attention`, memory),
  });
  return { length: 0, layers: Array.from({ length: model.decoder_layers }, layer) };
}

/** Read one more target token; return the logits of the next, and where it was looked: [layer][head][token]. Fills the cache. */
export function decodeStep(model, id, state) {
  let x = embed(model, model.target_table, id, state.length++);
  const looks = state.layers.map(({ own, memory }, layer) => {
    const block = `decoder.blocks.${layer}`;
    const here = norm(model, `${block}.attention_residual.norm`, x);
    const added = keysAndValues(model, `${block}.self_attention`, [here]);
    own.keys.push(...added.keys);
    own.values.push(...added.values);
    const back = look(model, `${block}.self_attention`, here, own);
    x = add(x, back.output);
    const across = look(model, `${block}.cross_attention`, norm(model, `${block}.cross_residual.norm`, x), memory);
    x = add(x, across.output);
    x = add(x, think(model, block, x));
    return { self: back.weights, cross: across.weights };
  });
  const logits = linear(norm(model, "decoder.norm", x), model.tensors[model.output_table], model.tensors["head.bias"]);
  return { logits, self: looks.map((one) => one.self), cross: looks.map((one) => one.cross) };
}

const argmax = (numbers) => numbers.reduce((best, value, k) => (value > numbers[best] ? k : best), 0);

/** Translate greedily: at each step the most probable token but padding and begin, until the end or the limit. */
export function translate(model, ids, limit = 40) {
  const { memory, attention } = encode(model, ids);
  const state = start(model, memory);
  const [tokens, steps] = [[], []];
  for (let id = model.begin_id; id !== model.end_id && steps.length < limit; ) {
    const step = decodeStep(model, id, state);
    step.logits[model.pad_id] = step.logits[model.begin_id] = -Infinity;
    steps.push(step);
    tokens.push((id = argmax(step.logits)));
  }
  return { tokens, encoder: attention, self: steps.map((step) => step.self), cross: steps.map((step) => step.cross) };
}

// --- the view ------------------------------------------------------------------------------------------------------

/** The piece behind each id. Words begin with a blank; a hyphen in front marks a piece that goes on a word. */
export function pieces({ decode }, ids, { begin_id, end_id }) {
  const named = new Map([[begin_id, "(begin)"], [end_id, "(end)"]]);
  return ids.map((id) => named.get(id) ?? decode([id]).replace(/^(?=\p{L})/u, "-").trim());
}

/** Of weights[head][token], those of one head, or their mean over all heads (-1). */
export function ofHead(weights, head) {
  if (head >= 0) return weights[head];
  return weights[0].map((_, token) => mean(weights.map((one) => one[token])));
}

/** What is shown when a token is chosen: a weight per source token, and per target token from "(begin)" on. */
export function levels({ encoder, self, cross }, { row, place }, layer, head) {
  const across = cross.map((step) => ofHead(step[layer], head)); // [target][source]
  if (row === "target") return { source: across[place], target: ofHead(self[place][layer], head) };
  return { source: ofHead(encoder[layer][place], head), target: [undefined, ...across.map((step) => step[place])] };
}

const SVG = "http://www.w3.org/2000/svg";
const percent = (weight) => `${Math.round(100 * weight)} %`;

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

/** A token with a bar above and a number below for a weight: a button, or plain where nothing can be chosen. */
function tokenBox(text, row, place) {
  const fill = element("span", { class: "fill" });
  const share = element("span", { class: "share" });
  const level = element("span", { class: "level", "aria-hidden": "true" }, fill);
  const attributes = { class: "token", "data-row": row, "data-place": place };
  const inside = [level, element("span", { class: "piece" }, text), share];
  const box = element(place < 0 ? "span" : "button", attributes, ...inside);
  if (place >= 0) box.type = "button";
  const show = (weight, kind) => {
    fill.className = `fill ${kind}`;
    fill.style.height = `${100 * (weight ?? 0)}%`;
    share.textContent = weight === undefined ? "\u00a0" : percent(weight);
  };
  return { box, show };
}

/** A row of tokens below a line that says what is shown. One stop for the Tab key; `first` is the place of its first token. */
function tokenRow(name, row) {
  const about = element("p", { class: "about" });
  const box = element("div", { class: "tokens", role: "group", "aria-label": name, lang: row === "source" ? "de" : "en" });
  let made = [];
  const fill = (texts, first) => {
    made = texts.map((text, k) => tokenBox(text, row, first + k));
    box.replaceChildren(...made.map((token) => token.box));
  };
  const buttons = () => [...box.querySelectorAll("button")];
  const show = (weights, kind, chosen) => {
    made.forEach((token, k) => token.show(weights[k], kind));
    buttons().forEach((button, k) => {
      button.setAttribute("aria-pressed", String(k === chosen));
      button.tabIndex = k === Math.max(chosen, 0) ? 0 : -1;
    });
  };
  return { about, box, fill, buttons, show };
}

/** The whole cross-attention as squares: a row per token written, a column per source token. */
function map() {
  const side = 18;
  const room = (texts, perLetter) => 16 + perLetter * Math.max(...texts.map((text) => text.length));
  const picture = drawn("svg", { role: "img" });
  const draw = (rows, columns, weights, chosen) => {
    const [left, top] = [room(rows, 7), room(columns, 6)];
    const [width, height] = [left + side * columns.length + 16, top + side * rows.length + 4];
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    picture.style.width = `${width}px`;
    picture.replaceChildren();
    const strongest = weights.map((row, t) => `${rows[t]}: ${columns[argmax(row)]} ${percent(Math.max(...row))}`);
    picture.setAttribute("aria-label", `Cross-attention, strongest link of each word written. ${strongest.join(", ")}.`);
    columns.forEach((text, s) => {
      const [x, y] = [left + side * (s + 0.6), top - 6];
      picture.append(drawn("text", { x, y, transform: `rotate(-55 ${x} ${y})` }, text));
    });
    rows.forEach((text, t) => {
      picture.append(drawn("text", { x: left - 6, y: top + side * (t + 0.7), "text-anchor": "end" }, text));
      weights[t].forEach((weight, s) => {
        const place = { x: left + side * s, y: top + side * t, width: side - 2, height: side - 2 };
        picture.append(drawn("rect", { class: "ground", ...place }));
        picture.append(drawn("rect", { class: "weight", opacity: weight, ...place }));
      });
    });
    const [x, y] = chosen.row === "target" ? [left, top + side * chosen.place] : [left + side * chosen.place, top];
    const [across, down] = chosen.row === "target" ? [side * columns.length, side] : [side, side * rows.length];
    picture.append(drawn("rect", { class: "chosen", x: x - 1, y: y - 1, width: across, height: down }));
  };
  const frame = { class: "scroll", tabindex: "0", role: "region", "aria-label": "Map of the cross-attention" };
  return { box: element("div", frame, picture), draw };
}

function choice(text, name, options) {
  const listed = options.map(([value, label]) => element("option", { value }, label));
  const select = element("select", { "data-name": name }, ...listed);
  return { label: element("label", { class: "choice" }, element("span", { class: "name" }, text), select), select };
}

/** Choices and a text field that set the values shared with Python. */
function controls(model, packed) {
  const sentences = model.get("sentences").map((sentence) => [sentence, sentence]);
  const sentence = choice("sentence", "sentence", [...sentences, ["", "(your own)"]]);
  const layers = Array.from({ length: packed.decoder_layers }, (_, k) => [k, `layer ${k + 1}`]);
  const heads = Array.from({ length: packed.heads }, (_, k) => [k, `head ${k + 1}`]);
  const layer = choice("layer", "layer", layers);
  const head = choice("head", "head", [[-1, "mean of all heads"], ...heads]);
  const input = element("input", { type: "text", lang: "de", maxlength: "200", autocomplete: "off", spellcheck: "false" });
  const button = element("button", { type: "submit" }, "translate");
  const own = element("label", { class: "choice" }, element("span", { class: "name" }, "or type German"), input);
  const form = element("form", { class: "typed" }, own, button);
  const set = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  sentence.select.addEventListener("change", () => sentence.select.value && set("sentence", sentence.select.value));
  layer.select.addEventListener("change", () => set("layer", Number(layer.select.value)));
  head.select.addEventListener("change", () => set("head", Number(head.select.value)));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    set("sentence", input.value.trim());
  });
  const show = () => {
    input.value = model.get("sentence");
    sentence.select.value = model.get("sentences").includes(input.value) ? input.value : "";
    layer.select.value = model.get("layer");
    head.select.value = model.get("head");
  };
  return { parts: [sentence.label, form, element("div", { class: "grid" }, layer.label, head.label)], show };
}

/** Tell screen readers the outcome once the reader pauses, not at every token passed. */
function announcer(status) {
  let waiting;
  return (text) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => (status.textContent = text), 300);
  };
}

/** The three strongest links in words. */
function strongest(texts, weights) {
  const links = texts.map((text, k) => [text, weights[k]]).filter(([, weight]) => weight !== undefined);
  links.sort((a, b) => b[1] - a[1]);
  return links.slice(0, 3).map(([text, weight]) => `${text} ${percent(weight)}`).join(", ");
}

/** Hover, focus or touch chooses a token; arrow keys go along a row and across. */
function listen(rows, choose) {
  const placeOf = (target) => {
    const button = target.closest?.("button.token");
    return button && { row: button.dataset.row, place: Number(button.dataset.place) };
  };
  Object.entries(rows).forEach(([name, { box, buttons }]) => {
    for (const event of ["pointerover", "focusin", "click"]) {
      box.addEventListener(event, ({ target }) => placeOf(target) && choose(placeOf(target)));
    }
    box.addEventListener("keydown", (event) => {
      const at = placeOf(event.target);
      const [along, across] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, 1] }[event.key] ?? [0, 0];
      if (!at || !(along || across)) return;
      event.preventDefault();
      const other = name === "source" ? "target" : "source";
      const there = across ? rows[other].buttons() : buttons();
      there[Math.min(Math.max(at.place + along, 0), there.length - 1)]?.focus();
    });
  });
}

/** Say above each row what its bars show. */
function describe({ row }, word, rows) {
  const [source, target] =
    row === "target"
      ? [`where “${word}” looked when it was written (cross-attention)`, "where it looked back (self-attention)"]
      : [`where “${word}” looks (self-attention)`, `how much each word looked at “${word}” (cross-attention)`];
  rows.source.about.textContent = `Source: ${source}`;
  rows.target.about.textContent = `Translation: ${target}`;
}

function render({ model, el }) {
  const packed = model.get("translator");
  const translator = makeTranslator(packed);
  const panel = controls(model, packed);
  const rows = { source: tokenRow("Source tokens", "source"), target: tokenRow("Tokens of the translation", "target") };
  const result = element("p", { class: "result", lang: "en" });
  const status = element("p", { class: "status", role: "status" });
  const [announce, picture] = [announcer(status), map()];
  let [done, texts, chosen] = [null, null, null];

  const show = () => {
    if (!done) return;
    const [layer, head] = [model.get("layer"), model.get("head")];
    const now = levels(done, chosen, layer, head);
    const word = texts[chosen.row][chosen.place];
    describe(chosen, word, rows);
    rows.source.show(now.source, chosen.row === "target" ? "cross" : "self", chosen.row === "source" ? chosen.place : -1);
    rows.target.show(now.target, chosen.row === "target" ? "self" : "cross", chosen.row === "target" ? chosen.place : -1);
    picture.draw(texts.target, texts.source, done.cross.map((step) => ofHead(step[layer], head)), chosen);
    announce(
      `Layer ${layer + 1}, ${head < 0 ? "mean of all heads" : `head ${head + 1}`}. “${word}”: in the source ` +
        `${strongest(texts.source, now.source)}; in the translation ${strongest(["(begin)", ...texts.target], now.target)}.`,
    );
  };
  const choose = (place) => {
    chosen = place;
    show();
  };
  const run = () => {
    panel.show();
    const ids = translator.source.encode(prepare(model.get("sentence")));
    const problem = !model.get("sentence")
      ? "Type a German sentence first."
      : ids.length > packed.limit && `Too long: ${ids.length} tokens, the map takes ${packed.limit}.`;
    if (problem) {
      result.textContent = problem;
      return;
    }
    done = translate(translator, ids, packed.limit);
    texts = { source: pieces(translator.source, ids, packed), target: pieces(translator.target, done.tokens, packed) };
    rows.source.fill(texts.source, 0);
    rows.target.fill(["(begin)", ...texts.target], -1);
    result.textContent = translator.target.decode(done.tokens).trim();
    choose({ row: "target", place: Math.min(1, texts.target.length - 1) });
  };

  el.classList.add("explorable");
  el.append(
    element("p", { class: "title" }, "A translator and where it looks"), ...panel.parts,
    element("p", { class: "about hint" }, "Hover, touch or focus a token; with the keyboard, arrow keys go on from there."),
    rows.source.about, rows.source.box, result, rows.target.about, rows.target.box, picture.box, status,
  );
  el.addEventListener("keydown", (event) => event.stopPropagation()); // JupyterLab would take the arrow keys
  listen(rows, choose);
  model.on("change:sentence", run);
  ["layer", "head"].forEach((name) => model.on(`change:${name}`, () => { panel.show(); show(); }));
  run();
}

export default { render };
