// The keyboard; what each key does stands in the list of shortcuts, index.html.

import { find } from "./panel.js";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const STEP = 2; // pixels of the picture
const CLICKS = {
  v: "tool-move", l: "tool-lasso", e: "show-ellipses", o: "show-original", c: "compare", t: "theme", "?": "help",
};
const TRANSFORMS = { "[": { factor: 1 / 1.1 }, "]": { factor: 1.1 }, ",": { degrees: -5 }, ".": { degrees: 5 } };

export function bindKeys(studio) {
  addEventListener("keydown", (event) => {
    if (find("shortcuts").open || !studio.doc || event.altKey) return;
    const { target } = event;
    if (target.matches("select, input:not([type=range], [type=checkbox])")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const used = event.ctrlKey || event.metaKey ? withControl(studio, key, event.shiftKey) : alone(studio, key, event);
    if (used) event.preventDefault();
  });
}

function withControl(studio, key, shift) {
  if (key === "z") studio.step(shift ? "redo" : "undo");
  else if (key === "y") studio.step("redo");
  else if (key === "a") studio.stage.select(studio.doc.off.keys());
  else if (key === "o") find("open").click();
  else if (key === "s") studio.run(() => studio.save("safetensors"));
  else return false;
  return true;
}

function alone(studio, key, event) {
  const { stage, doc } = studio;
  const slides = event.target.matches("input[type=range]");
  if (key in ARROWS && !slides && stage.selected.size) {
    const [dx, dy] = ARROWS[key].map((step) => step * STEP * (event.shiftKey ? 10 : 1));
    studio.commit([studio.move({ dx, dy })]);
  } else if (key in TRANSFORMS && stage.selected.size) {
    studio.transform(TRANSFORMS[key]);
  } else if (key in CLICKS) {
    find(CLICKS[key]).click();
  } else if (["x", "Delete", "Backspace"].includes(key)) {
    studio.switch(studio.chosen);
  } else if (key === "i") {
    stage.select([...doc.off.keys()].filter((index) => !stage.selected.has(index)));
  } else if (key === "Escape") {
    stage.select([]);
  } else if (key === "n") {
    const last = studio.chosen.at(-1) ?? (event.shiftKey ? 0 : -1);
    stage.select([(last + (event.shiftKey ? -1 : 1) + doc.off.length) % doc.off.length]);
  } else {
    return false;
  }
  return true;
}
