// What is on the page, and what each control does. A state ("doc") is never changed, but followed by another.

import * as server from "./server.js";
import { bindControls } from "./controls.js";
import { bindKeys } from "./keys.js";
import { History } from "./history.js";
import { Bars, element, fill, find, showNumbers, toHex, toast } from "./panel.js";
import { Stage, paintPicture } from "./stage.js";

const MOST_SHIFT = 2048; // pixels of the picture; MAX_SIDE in gvit/studio/wire.py
const LONGER_SIDE = { least: 512, most: 768 }; // pixels of the picture

class Studio {
  history = new History();
  stage = new Stage(find("picture"), find("overlay"));
  bars = new Bars();
  model = null; // what the server tells of it
  view = null; // the server's answer for the state that is shown
  kept = null; // a state and its view, to compare with
  scores = null; // {values, raw, key, shades}
  asked = null; // {raw, key, answer, shade}: the scores that were asked for last
  files = new Map(); // on the shelf: name to {content, url}
  #queue = Promise.resolve();
  #working = 0;
  #preview = null;
  #previewing = false;
  #generation = 0; // of what is there for good: an answer of an earlier one is not shown any more

  get doc() {
    return this.history.now;
  }

  // --- models and images

  async start() {
    const names = await server.models();
    find("models").replaceChildren(...names.map((name) => {
      const button = element("button", "", name.replace(/^gvit_tiny\./, "").split("/").slice(-2).join("/"));
      button.title = name;
      button.addEventListener("click", () => this.run(() => this.use(name)));
      button.dataset.name = name;
      return button;
    }));
    await this.use(names[0]);
  }

  /** Controls for a model. */
  async load(name) {
    const model = await server.describe(name);
    this.model = model;
    for (const button of find("models").children) button.setAttribute("aria-pressed", button.dataset.name === name);
    find("prediction").hidden = !model.classes.length;
    find("target-field").hidden = !model.classes.length;
    find("encoding").hidden = !model.any_number;
    this.bars.begin(model.classes);
    fill(find("method"), model.methods.map((method) => [method.name, method.name]));
    this.describeMethod();
    fill(find("target"), [["", "prediction"], ...model.classes.map((text, index) => [index, text])]);
    find("looks").max = model.most_looks;
    this.drawShelf();
  }

  async use(name) {
    await this.load(name);
    const { model } = this;
    if (!this.doc) {
      await this.openExample(model.examples[0]);
    } else if (this.doc.model !== name) {
      // the image that is open stays where the model can read it; else its first example
      const { source } = this.doc;
      if (source.own) await this.open(source.name, source.content, source);
      else await this.openExample(model.examples[0]);
    }
  }

  drawShelf() {
    const tiles = this.model.examples.map((name) => ({ name, own: false, url: server.exampleUrl(this.model.name, name), open: () => this.openExample(name) }));
    for (const [name, file] of this.files) tiles.unshift({ name, own: true, url: file.url, open: () => this.open(name, file.content, { own: true }) });
    find("shelf").replaceChildren(...tiles.map(({ name, own, url, open }) => {
      const tile = element("button", "tile");
      tile.title = name;
      Object.assign(tile.dataset, { name, own });
      tile.setAttribute("aria-label", `Open ${name}`);
      if (url) {
        const image = element("img");
        Object.assign(image, { src: url, alt: "" });
        image.addEventListener("load", () => tile.classList.toggle("tiny", image.naturalWidth <= 16));
        tile.append(image);
      } else {
        tile.textContent = ".st";
      }
      tile.addEventListener("click", () => this.run(open));
      return tile;
    }));
    this.markShelf();
  }

  markShelf() {
    const own = String(this.doc?.source.own);
    for (const tile of find("shelf").children) {
      tile.setAttribute("aria-current", tile.dataset.name === this.doc?.name && tile.dataset.own === own);
    }
  }

  async openExample(name) {
    if (name === undefined) return;
    const answer = await fetch(server.exampleUrl(this.model.name, name));
    if (!answer.ok) throw new Error(`${name} could not be read.`);
    await this.open(name, await answer.blob(), { own: false });
  }

  async openFile(file) {
    const isImage = !file.name.endsWith(".safetensors");
    await this.open(file.name, file, { own: true });
    this.files.set(file.name, { content: file, url: isImage ? URL.createObjectURL(file) : null });
    this.drawShelf();
  }

  /** A new state of a file; with numbers of its own, where these are given. */
  async open(name, content, { own = true } = {}, numbers = {}) {
    const model = this.model;
    const opened = await server.open(model.name, name, content, numbers);
    const [height, width] = opened.size;
    const longer = Math.max(height, width);
    const scale = Math.min(Math.max(longer, LONGER_SIDE.least), LONGER_SIDE.most) / longer;
    const doc = {
      model: model.name, name, source: { name, content, own }, numbers, raw: opened.raw, bounds: opened.bounds, size: opened.size,
      off: new Uint8Array(opened.raw.length / 9), width: Math.max(1, Math.round(scale * width)), height: Math.max(1, Math.round(scale * height)),
      seen: opened.seen && { pixels: opened.seen, size: opened.seen_size }, psnr: opened.psnr,
    };
    this.stage.selected = new Set();
    await this.show(doc, await server.state(doc, []));
    this.history.push(doc);
    this.changed();
  }

  async again(numbers) {
    const { name, content, own } = this.doc.source;
    await this.open(name, content, { own }, { ...this.doc.numbers, ...numbers });
  }

  // --- states

  /** One thing after the other; what goes wrong is told. */
  run(work) {
    this.#working += 1;
    document.documentElement.dataset.state = "busy";
    find("frames").classList.add("working");
    this.#queue = this.#queue.then(work).catch((error) => toast(error.message)).finally(() => {
      this.#working -= 1;
      if (this.#working) return;
      find("empty").hidden = this.doc !== null;
      document.documentElement.dataset.state = "ready";
      find("frames").classList.remove("working");
    });
    return this.#queue;
  }

  /** Edits for good: the state after them follows the one that is shown. What is off is a function of what was before. */
  commit(edits, switched = (off) => off) {
    this.#preview = null;
    this.#generation += 1;
    const { source } = this.doc;
    return this.run(async () => {
      if (this.doc.source !== source) return; // another image was opened meanwhile
      try {
        const before = { ...this.doc, off: await switched(this.doc.off) };
        const view = await server.state(before, edits);
        const doc = edits.length ? { ...before, raw: view.raw } : before;
        this.history.push(doc);
        await this.show(doc, view);
      } catch (error) {
        this.paint(this.doc, this.view); // what a hand has moved or a preview shown is not so
        throw error;
      } finally {
        this.changed();
      }
    });
  }

  /** Edits while a hand is still at them; of many, only the last one is computed. */
  async preview(edits, off = null) {
    this.#preview = { edits, off };
    if (this.#previewing) return;
    this.#previewing = true;
    try {
      while (this.#preview) {
        const { edits, off } = this.#preview;
        this.#preview = null;
        const doc = { ...this.doc, off: off ?? this.doc.off };
        const generation = this.#generation;
        const view = await server.state(doc, edits);
        if (generation === this.#generation) this.paint(doc, view, edits[0]?.kind !== "move");
      }
    } catch (error) {
      toast(error.message);
    } finally {
      this.#previewing = false;
    }
  }

  async show(doc, view) {
    if (doc.model !== this.model.name) await this.load(doc.model);
    this.view = view;
    this.paint(doc, view);
  }

  paint(doc, view, moveEllipses = true) {
    find("empty").hidden = true;
    // while Gaussians are dragged, the stage itself moves their ellipses
    const ellipses = moveEllipses ? view.ellipses : this.view.ellipses;
    find("now").style.setProperty("--ratio", doc.width / doc.height);
    this.stage.show({ ...doc, picture: view.picture, ellipses });
    find("latency").textContent = `in ${view.milliseconds} ms`;
    if (view.probabilities) {
      const comparable = this.kept?.doc.model === doc.model ? this.kept.view.probabilities : null;
      this.bars.show(view.probabilities, comparable);
    }
    const on = doc.off.reduce((count, off) => count + !off, 0);
    find("facts").title = "Gaussians that are drawn, PSNR of the picture as it was encoded, file";
    const facts = [
      `${on === doc.off.length ? "" : `${on} of `}${doc.off.length} Gaussians`,
      doc.psnr === null ? "" : `${doc.psnr.toFixed(1)} dB`,
      doc.name,
    ].filter(Boolean).join("  ·  ");
    if (find("facts").textContent !== facts) find("facts").textContent = facts; // else it would be spoken again
    find("now").querySelector(".what").textContent = this.caption(doc, view);
  }

  caption(doc, view) {
    const classes = this.model.name === doc.model ? this.model.classes : [];
    const best = mostProbable(view);
    return best === null || !classes.length ? doc.name : `${classes[best]} · ${doc.name}`;
  }

  /** All that follows from a state that is there for good. */
  changed() {
    const { doc } = this;
    find("undo").disabled = !this.history.canUndo;
    find("redo").disabled = !this.history.canRedo;
    this.markShelf();
    const count = doc.off.length;
    const most = this.model.most_gaussians;
    for (const id of ["count", "looks"]) find(id).disabled = doc.psnr === null;
    find("count").value = Math.log(count) / Math.log(most);
    find("count-out").textContent = count;
    const looks = doc.numbers.looks ?? this.model.looks ?? 1;
    find("looks").value = looks;
    find("looks-out").textContent = looks;
    find("quality").textContent = doc.psnr === null ? "" : `${doc.psnr.toFixed(2)} dB`;
    const on = doc.off.reduce((sum, off) => sum + !off, 0);
    find("keep").value = Math.round((100 * on) / count);
    find("keep-out").textContent = `${on} of ${count}`;
    if (!this.known) this.stage.shades = null;
    if (find("by-score").checked) this.scored().catch((error) => toast(error.message));
    const original = find("original");
    if (doc.seen) {
      const [height, width] = doc.seen.size;
      paintPicture(original, doc.seen.pixels, width, height);
    }
    if (!doc.seen) this.original(false);
    find("show-original").disabled = !doc.seen;
    this.describeSelection();
    this.speak();
  }

  step(which) {
    this.settle();
    this.#preview = null;
    this.#generation += 1;
    return this.run(async () => {
      const { source } = this.doc;
      if (!this.history[which]()) return;
      try {
        const view = await server.state(this.doc, []);
        if (this.doc.source !== source) this.stage.selected = new Set();
        await this.show(this.doc, view);
      } catch (error) {
        this.history[which === "undo" ? "redo" : "undo"](); // to what is still shown
        throw error;
      }
      this.changed();
    });
  }

  // --- what is chosen

  get chosen() {
    return [...this.stage.selected];
  }

  edit(kind, values) {
    return { kind, chosen: this.chosen, ...values };
  }

  /** By pixels of the picture; a hand may go farther than the server takes, which is beyond the border in any case. */
  move({ dx, dy }) {
    const [x, y] = [dx, dy].map((shift) => Math.min(MOST_SHIFT, Math.max(-MOST_SHIFT, shift)));
    return this.edit("move", { dx: x, dy: y });
  }

  transform(values) {
    if (this.stage.selected.size) this.commit([this.edit("transform", values)]);
  }

  switch(indices) {
    if (!indices.length) return;
    this.commit([], (off) => {
      const to = !indices.every((index) => off[index]);
      const mask = off.slice();
      for (const index of indices) mask[index] = to;
      return mask;
    });
  }

  describeSelection() {
    if (!this.view) return;
    const { stage, doc } = this;
    const { size } = stage.selected;
    const shown = stage.hovered >= 0 ? stage.hovered : size === 1 ? this.chosen[0] : -1;
    find("chosen").textContent = shown >= 0 ? `#${shown}${size > 1 ? `, ${size} selected` : ""}` : size ? `${size} selected` : "none selected";
    find("edits").hidden = !size;
    find("hint").hidden = size > 0 || shown >= 0;
    find("several").hidden = size < 2 || shown >= 0;
    if (shown >= 0) {
      showNumbers(stage.ellipse(shown), shown, doc.off[shown], this.known?.values[shown] ?? null);
    } else {
      find("numbers").replaceChildren();
    }
    if (size) {
      const ellipses = this.chosen.map((index) => stage.ellipse(index));
      const mean = (column) => ellipses.reduce((sum, ellipse) => sum + ellipse[column], 0) / size;
      find("color").value = toHex(mean(5), mean(6), mean(7));
      find("opacity").value = mean(8);
      find("opacity-out").textContent = mean(8).toFixed(2);
      find("off").textContent = this.chosen.every((index) => doc.off[index]) ? "Switch on" : "Switch off";
    }
  }

  /** To screen readers: what is chosen, and its prediction. What is pointed at, or only previewed, is not for them. */
  speak() {
    const { stage, doc, chosen } = this;
    const off = chosen.filter((index) => doc.off[index]).length;
    const [x, y] = chosen.length === 1 ? Array.from(stage.ellipse(chosen[0]), Math.round) : [];
    const selection = chosen.length === 1
      ? `#${chosen[0]} at ${x}, ${y}, selected${off ? ", off" : ""}`
      : `${chosen.length || "none"} selected${off ? `, ${off} off` : ""}`;
    const prediction = mostProbable(this.view) === null ? "" : `. ${find("answer").textContent}, ${find("confidence").textContent}`;
    find("spoken").textContent = selection + prediction;
  }

  // --- scores

  get method() {
    return this.model.methods.find((method) => method.name === find("method").value);
  }

  describeMethod() {
    const { about } = this.method;
    find("about").textContent = `${about[0].toUpperCase()}${about.slice(1)}.`;
  }

  /** Index of the class that is explained: of the prediction, the one that stands on the page. */
  get target() {
    const { value } = find("target");
    return value === "" ? mostProbable(this.view) : Number(value);
  }

  get question() {
    return `${this.method.name} ${this.target}`;
  }

  /** Scores that are there already, of what would be asked for now. */
  get known() {
    return this.scores?.raw === this.doc.raw && this.scores.key === this.question ? this.scores : null;
  }

  /** Of the state that is shown, all its Gaussians switched on; asked for once. */
  async scored() {
    const { doc, question: key } = this;
    if (this.asked?.raw !== doc.raw || this.asked.key !== key) {
      const answer = server.scores(doc, this.method.name, this.target);
      this.asked = { raw: doc.raw, key, answer, shade: this.method.of_class ? signed : ranked };
      answer.catch(() => (this.asked = null));
    }
    const { asked } = this;
    const values = await asked.answer;
    // an answer that comes late says nothing of what is asked now
    if (this.asked === asked && this.doc.raw === doc.raw) {
      if (this.scores?.values !== values) this.scores = { values, raw: doc.raw, key, shades: asked.shade(values) };
      this.stage.shades = find("by-score").checked ? this.scores.shades : null;
    }
    return values;
  }

  /** All but the best switched off. */
  async keepBest(share) {
    const values = await this.scored();
    const order = Array.from(values.keys()).sort((a, b) => values[b] - values[a]);
    const mask = new Uint8Array(values.length).fill(1);
    for (const index of order.slice(0, Math.max(1, Math.round(share * values.length)))) mask[index] = 0;
    return mask;
  }

  // --- two states side by side

  compare(on = this.kept === null) {
    this.kept = on ? { doc: this.doc, view: this.view } : null;
    find("kept").hidden = !on;
    find("frames").classList.toggle("two", on);
    find("compare").setAttribute("aria-pressed", on);
    if (on) {
      const { doc, view } = this.kept;
      find("kept").style.setProperty("--ratio", doc.width / doc.height);
      paintPicture(find("kept").querySelector(".picture"), view.picture, doc.width, doc.height);
      find("kept").querySelector(".what").textContent = this.caption(doc, view);
    }
    this.paint(this.doc, this.view);
  }

  swap() {
    const { doc } = this.kept;
    this.compare(true);
    return this.run(async () => {
      const view = await server.state(doc, []);
      if (doc.source !== this.doc.source) this.stage.selected = new Set();
      this.history.push(doc);
      await this.show(doc, view);
      this.changed();
    });
  }

  original(on = find("original").hidden) {
    find("original").hidden = !on;
    find("show-original").setAttribute("aria-pressed", on);
  }

  async save(format) {
    const link = element("a");
    link.href = URL.createObjectURL(await server.save(this.doc, format));
    link.download = `${this.doc.name.replace(/\.[^.]*$/, "") || "studio"}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
}

/** Index of a view's class; null of an encoder alone. */
function mostProbable({ probabilities }) {
  return probabilities && probabilities.indexOf(Math.max(...probabilities));
}

/** Scores that speak for a class and against it. */
function signed(values) {
  const most = values.reduce((most, value) => Math.max(most, Math.abs(value)), Number.MIN_VALUE);
  return values.map((value) => value / most);
}

/** Scores of which only the order says anything. */
function ranked(values) {
  const shades = new Float32Array(values.length);
  const order = Array.from(values.keys()).sort((a, b) => values[a] - values[b]);
  for (const [rank, index] of order.entries()) shades[index] = (2 * rank) / Math.max(1, values.length - 1) - 1;
  return shades;
}

const studio = new Studio();
globalThis.studio = studio; // for the browser's console
bindControls(studio);
bindKeys(studio);
studio.run(() => studio.start());
