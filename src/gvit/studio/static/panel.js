// What stands beside the picture. Names come from files, so they are only ever set as text.

export const find = (id) => document.getElementById(id);

const MOST_BARS = 10;
const percent = (share) => `${(100 * share).toFixed(share > 0.9995 || share < 0.0005 ? 0 : 1)} %`;

export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

export function toast(text) {
  if ([...find("toasts").children].some((shown) => shown.textContent === text)) return;
  const shown = element("div", "toast", text);
  find("toasts").append(shown);
  setTimeout(() => shown.remove(), 6000);
}

/** Bars that keep their places while they grow and shrink. */
export class Bars {
  #rows = new Map();
  #classes = [];

  begin(classes) {
    this.#classes = classes;
    this.#rows.clear();
    const list = find("bars");
    list.replaceChildren();
    list.classList.toggle("words", classes.some((name) => name.length > 3));
  }

  show(probabilities, kept) {
    const order = probabilities.map((_, index) => index).sort((a, b) => probabilities[b] - probabilities[a]);
    const shown = this.#classes.length <= MOST_BARS ? this.#classes.map((_, index) => index) : order.slice(0, MOST_BARS);
    for (const [index, row] of this.#rows) {
      if (!shown.includes(index)) {
        row.remove();
        this.#rows.delete(index);
      }
    }
    for (const index of shown) {
      const row = this.#rows.get(index) ?? this.#add(index);
      if (this.#classes.length > MOST_BARS) find("bars").append(row);
      row.classList.toggle("first", index === order[0]);
      row.querySelector(".fill").style.transform = `scaleX(${probabilities[index]})`;
      row.querySelector(".value").textContent = percent(probabilities[index]);
      const ghost = row.querySelector(".ghost");
      ghost.hidden = !kept;
      if (kept) ghost.style.left = `${100 * Math.min(0.99, Math.max(0.01, kept[index]))}%`;
    }
    find("answer").textContent = this.#classes[order[0]];
    find("confidence").textContent = percent(probabilities[order[0]]);
  }

  #add(index) {
    const row = element("li");
    const track = element("span", "track");
    track.append(element("span", "fill"), element("span", "ghost"));
    row.append(element("span", "name", this.#classes[index]), track, element("span", "value"));
    row.querySelector(".name").title = this.#classes[index];
    find("bars").append(row);
    this.#rows.set(index, row);
    return row;
  }
}

export function showNumbers(ellipse, index, isOff, score) {
  const [x, y, first, second, angle, red, green, blue, opacity] = ellipse;
  const rows = [
    ["x", x.toFixed(1)], ["y", y.toFixed(1)],
    ["σ₁", first.toFixed(1)], ["σ₂", second.toFixed(1)],
    ["angle", `${(180 * angle / Math.PI).toFixed(0)}°`], ["opacity", isOff ? "off" : opacity.toFixed(2)],
    ["colour", toHex(red, green, blue)], score === null ? ["number", String(index)] : ["score", score.toPrecision(2)],
  ];
  find("numbers").replaceChildren(...rows.map(([name, value]) => {
    const row = element("div");
    row.append(element("dt", "", name), element("dd", "", value));
    return row;
  }));
}

export function toHex(...color) {
  return `#${color.map((value) => Math.round(255 * value).toString(16).padStart(2, "0")).join("")}`;
}

export const fromHex = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16) / 255);

export function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => {
    const option = element("option", "", text);
    option.value = value;
    return option;
  }));
}
