// The picture, the ellipses over it, and what a pointer does to them. Everything is in pixels of the picture.

export const COLUMNS = 9; // of an ellipse: x, y, two standard deviations, angle, red, green, blue, opacity
const REACH = 2; // standard deviations at which ellipses are drawn
const FEW = 300; // so many ellipses are drawn with a dark rim, and those that are switched off, too
const MANY = 60; // more that are chosen are drawn thinly
const CLICK = 4; // CSS pixels that a click may wander

export class Stage extends EventTarget {
  tool = "move";
  showEllipses = true;
  selected = new Set();
  hovered = -1;
  #size = { width: 1, height: 1 };
  #ellipses = new Float32Array();
  #off = new Uint8Array();
  #shades = null;
  #gesture = null;

  constructor(picture, overlay) {
    super();
    this.picture = picture;
    this.overlay = overlay;
    new ResizeObserver(() => this.draw()).observe(overlay);
    overlay.addEventListener("pointerdown", (event) => this.#down(event));
    overlay.addEventListener("pointermove", (event) => this.#move(event));
    overlay.addEventListener("pointerup", (event) => this.#up(event));
    overlay.addEventListener("pointercancel", () => this.#cancel());
    overlay.addEventListener("pointerleave", () => this.#hover(-1));
    overlay.addEventListener("wheel", (event) => {
      if (!this.selected.size || event.ctrlKey) return;
      event.preventDefault();
      this.#tell("wheel", { factor: Math.exp(-event.deltaY / 800) });
    }, { passive: false });
  }

  get count() {
    return this.#ellipses.length / COLUMNS;
  }

  ellipse(index) {
    return this.#ellipses.subarray(index * COLUMNS, (index + 1) * COLUMNS);
  }

  show({ width, height, picture, ellipses, off }) {
    this.#size = { width, height };
    this.#ellipses = ellipses;
    this.#off = off;
    paintPicture(this.picture, picture, width, height);
    const kept = [...this.selected].filter((index) => index < this.count);
    if (kept.length < this.selected.size) this.selected = new Set(kept);
    if (this.hovered >= this.count) this.hovered = -1;
    this.draw();
  }

  /** From -1 to 1, for each Gaussian; null for none. */
  set shades(shades) {
    this.#shades = shades;
    this.draw();
  }

  select(indices) {
    this.selected = new Set(indices);
    this.#tell("select");
    this.draw();
  }

  draw() {
    const scale = devicePixelRatio * this.overlay.clientWidth / this.#size.width;
    const [width, height] = [this.overlay.clientWidth, this.overlay.clientHeight].map((side) => Math.round(side * devicePixelRatio));
    if (this.overlay.width !== width || this.overlay.height !== height) Object.assign(this.overlay, { width, height });
    const context = this.overlay.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    const line = devicePixelRatio / scale;
    const shift = this.#gesture?.kind === "drag" ? this.#gesture : null;
    if (this.showEllipses) {
      const faint = Math.min(0.62, Math.max(0.22, 6 / Math.sqrt(this.count)));
      for (let index = this.count - 1; index >= 0; index--) {
        if (this.selected.has(index) || index === this.hovered) continue;
        if (this.#off[index] && this.count > FEW) continue;
        context.globalAlpha = this.#off[index] ? 0.4 : faint;
        context.setLineDash(this.#off[index] ? [3 * line, 4 * line] : []);
        context.lineWidth = 1.25 * line;
        context.strokeStyle = "#fff";
        if (this.#shades !== null && !this.#off[index]) {
          const strength = Math.sqrt(Math.abs(this.#shades[index]));
          context.strokeStyle = this.#shades[index] < 0 ? "#5b9dff" : "#ff7a4d";
          context.globalAlpha = (0.25 + 0.75 * strength) * Math.min(1, 2.5 * faint);
          context.lineWidth = (1 + strength) * line;
        }
        this.#trace(context, index);
        if (this.count <= FEW) {
          const { strokeStyle, lineWidth } = context;
          context.strokeStyle = "#0005"; // so that it is seen on white, too
          context.lineWidth = 3 * line;
          context.stroke();
          Object.assign(context, { strokeStyle, lineWidth });
        }
        context.stroke();
      }
    }
    context.globalAlpha = 1;
    for (const index of new Set([...this.selected, this.hovered])) {
      if (index < 0) continue;
      const chosen = this.selected.has(index);
      context.setLineDash(this.#off[index] ? [4 * line, 4 * line] : []);
      this.#trace(context, index, chosen ? shift : null);
      const many = chosen && this.selected.size > MANY;
      if (!many) {
        context.strokeStyle = "#000a";
        context.lineWidth = 4 * line;
        context.stroke();
      }
      context.globalAlpha = many ? 0.5 : 1;
      context.strokeStyle = chosen ? "#9aa2ff" : "#fff";
      context.lineWidth = (many ? 1 : 2) * line;
      context.stroke();
      context.globalAlpha = 1;
    }
    context.setLineDash([]);
    if (this.#gesture?.kind === "lasso") {
      context.beginPath();
      for (const [x, y] of this.#gesture.path) context.lineTo(x, y);
      context.closePath();
      context.fillStyle = "#8790ff33";
      context.fill();
      context.strokeStyle = "#fff";
      context.lineWidth = 1.5 * line;
      context.stroke();
    }
  }

  #trace(context, index, shift = null) {
    const [x, y, first, second, angle] = this.ellipse(index);
    context.beginPath();
    context.ellipse(x + (shift?.dx ?? 0), y + (shift?.dy ?? 0), Math.max(REACH * first, 0.5), Math.max(REACH * second, 0.5), angle, 0, 2 * Math.PI);
  }

  #place(event) {
    const box = this.overlay.getBoundingClientRect();
    const scale = this.#size.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  /** The Gaussian under a place whose centre is nearest, in its own standard deviations; -1 for none. */
  #under([x, y], slack) {
    let [found, least] = [-1, REACH * REACH];
    for (let index = 0; index < this.count; index++) {
      const [cx, cy, first, second, angle] = this.ellipse(index);
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      const along = ((x - cx) * cos + (y - cy) * sin) / Math.max(first, slack);
      const across = ((y - cy) * cos - (x - cx) * sin) / Math.max(second, slack);
      let distance = along * along + across * across;
      if (this.#off[index]) distance *= 2; // what is drawn comes first
      if (distance < least) [found, least] = [index, distance];
    }
    return found;
  }

  #slack(event) {
    const pixel = this.#size.width / this.overlay.clientWidth;
    return pixel * (event.pointerType === "mouse" ? 3 : 9);
  }

  #down(event) {
    if (event.button !== 0 || !this.count || this.#gesture) return;
    this.overlay.setPointerCapture(event.pointerId);
    const place = this.#place(event);
    const under = this.#under(place, this.#slack(event));
    const adds = event.shiftKey || event.ctrlKey || event.metaKey;
    const drags = this.tool === "move" && under >= 0 && !adds;
    this.#gesture = { kind: drags ? "press" : "draw", id: event.pointerId, start: place, at: [event.clientX, event.clientY], under, adds, dx: 0, dy: 0, path: [place] };
  }

  #move(event) {
    const gesture = this.#gesture;
    const place = this.#place(event);
    if (!gesture) {
      this.#hover(this.#under(place, this.#slack(event)));
      return;
    }
    if (event.pointerId !== gesture.id) return;
    const far = Math.hypot(event.clientX - gesture.at[0], event.clientY - gesture.at[1]) > CLICK;
    if (gesture.kind === "press" && far) {
      gesture.kind = "drag";
      if (!this.selected.has(gesture.under)) this.select([gesture.under]);
      this.overlay.classList.add("dragging");
    } else if (gesture.kind === "draw" && far) {
      gesture.kind = "lasso";
    }
    if (gesture.kind === "drag") {
      [gesture.dx, gesture.dy] = [place[0] - gesture.start[0], place[1] - gesture.start[1]];
      this.#tell("drag", gesture);
    }
    if (gesture.kind === "lasso") gesture.path.push(place);
    this.draw();
  }

  #up(event) {
    const gesture = this.#gesture;
    if (!gesture || event.pointerId !== gesture.id) return;
    this.#cancel();
    if (gesture.kind === "drag") {
      // until the server has answered
      this.#ellipses = this.#ellipses.slice();
      for (const index of this.selected) {
        this.#ellipses[index * COLUMNS] += gesture.dx;
        this.#ellipses[index * COLUMNS + 1] += gesture.dy;
      }
      this.draw();
      this.#tell("dragged", gesture);
    } else if (gesture.kind === "lasso") {
      const inside = [];
      for (let index = 0; index < this.count; index++) {
        const [x, y] = this.ellipse(index);
        if (isInside(x, y, gesture.path)) inside.push(index);
      }
      this.select(gesture.adds ? [...this.selected, ...inside] : inside);
    } else if (gesture.under < 0) {
      if (!gesture.adds) this.select([]);
    } else if (gesture.adds) {
      const others = new Set(this.selected);
      if (!others.delete(gesture.under)) others.add(gesture.under);
      this.select(others);
    } else {
      this.select([gesture.under]);
    }
  }

  #cancel() {
    this.#gesture = null;
    this.overlay.classList.remove("dragging");
    this.draw();
  }

  #hover(index) {
    this.overlay.classList.toggle("grab", index >= 0 && this.tool === "move");
    this.overlay.classList.toggle("lasso", this.tool === "lasso");
    if (index === this.hovered) return;
    this.hovered = index;
    this.#tell("hover");
    this.draw();
  }

  #tell(name, detail = {}) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

export function paintPicture(canvas, pixels, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
}

function isInside(x, y, path) {
  let inside = false;
  for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
    const [[xi, yi], [xj, yj]] = [path[i], path[j]];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}
