// What each control of the page does; see index.html.

import { find, fromHex, toast } from "./panel.js";

export function bindControls(studio) {
  const { stage } = studio;
  const on = (id, event, action) => find(id).addEventListener(event, action);
  stage.addEventListener("hover", () => studio.describeSelection());
  stage.addEventListener("select", () => {
    studio.settle();
    studio.describeSelection();
    studio.speak();
  });
  stage.addEventListener("drag", ({ detail: shift }) => studio.preview([studio.move(shift)]));
  stage.addEventListener("dragged", ({ detail: shift }) => studio.commit([studio.move(shift)]));
  stage.addEventListener("wheel", ({ detail: { factor } }) => wheel(factor));

  // what the wheel has done is for good when it rests, or when something else is done
  let turned = 1;
  let rest = 0;
  let pending = null;
  function wheel(factor) {
    if (!stage.selected.size) return;
    turned = Math.min(20, Math.max(0.05, turned * factor));
    pending = studio.edit("transform", { factor: turned });
    studio.preview([pending]);
    clearTimeout(rest);
    rest = setTimeout(studio.settle, 250);
  }
  studio.settle = () => {
    clearTimeout(rest);
    if (pending) studio.commit([pending]);
    pending = null;
    turned = 1;
  };

  // sliders: what they would do while they are held, and for good when they are let go
  const slide = (id, text, edit, after = () => {}) => {
    on(id, "input", () => {
      find(`${id}-out`).textContent = text(Number(find(id).value));
      studio.preview([edit(Number(find(id).value))]);
    });
    on(id, "change", async () => {
      const committed = studio.commit([edit(Number(find(id).value))]);
      after();
      await committed;
    });
  };
  slide("factor", (value) => `${Math.round(100 * 2 ** value)} %`, (value) => studio.edit("transform", { factor: 2 ** value }), () => reset("factor", "100 %"));
  slide("degrees", (value) => `${value}°`, (value) => studio.edit("transform", { degrees: value }), () => reset("degrees", "0°"));
  slide("opacity", (value) => value.toFixed(2), (value) => studio.edit("fade", { opacity: value }));
  function reset(id, text) {
    find(id).value = 0;
    find(`${id}-out`).textContent = text;
  }
  const paint = () => studio.edit("paint", { color: fromHex(find("color").value) });
  on("color", "input", () => studio.preview([paint()]));
  on("color", "change", () => studio.commit([paint()]));

  on("off", "click", () => studio.switch(studio.chosen));
  on("only", "click", () => {
    const mask = new Uint8Array(studio.doc.off.length).fill(1);
    for (const index of studio.chosen) mask[index] = 0;
    studio.commit([], () => mask);
  });

  const told = (work) => work().catch((error) => toast(error.message));
  on("keep", "input", () => told(async () => {
    const mask = await studio.keepBest(find("keep").value / 100);
    find("keep-out").textContent = `${mask.reduce((sum, off) => sum + !off, 0)} of ${mask.length}`;
    await studio.preview([], mask);
  }));
  on("keep", "change", () => {
    const share = find("keep").value / 100;
    studio.commit([], () => studio.keepBest(share));
  });
  for (const id of ["method", "target", "by-score"]) {
    on(id, "change", () => studio.run(async () => {
      studio.describeMethod();
      if (find("by-score").checked) await studio.scored();
      else stage.shades = null;
      studio.describeSelection();
    }));
  }

  const count = () => Math.max(1, Math.round(studio.model.most_gaussians ** find("count").value));
  on("count", "input", () => (find("count-out").textContent = count()));
  on("count", "change", () => studio.run(() => studio.again({ num_gaussians: count() })));
  on("looks", "input", () => (find("looks-out").textContent = find("looks").value));
  on("looks", "change", () => studio.run(() => studio.again({ looks: Number(find("looks").value) })));

  on("undo", "click", () => studio.step("undo"));
  on("redo", "click", () => studio.step("redo"));
  on("compare", "click", () => studio.doc && studio.compare());
  on("swap", "click", () => studio.swap());
  on("help", "click", () => find("shortcuts").showModal());
  on("theme", "click", toggleTheme);
  on("show-original", "click", () => studio.original());
  on("show-ellipses", "click", () => {
    stage.showEllipses = !stage.showEllipses;
    find("show-ellipses").setAttribute("aria-pressed", stage.showEllipses);
    stage.draw();
  });
  for (const tool of ["move", "lasso"]) {
    on(`tool-${tool}`, "click", () => {
      stage.tool = tool;
      for (const other of ["move", "lasso"]) find(`tool-${other}`).setAttribute("aria-pressed", other === tool);
    });
  }
  for (const button of find("saving").children) {
    button.addEventListener("click", () => {
      find("saving").hidePopover();
      studio.run(() => studio.save(button.dataset.format));
    });
  }

  for (const id of ["open", "choose"]) on(id, "click", () => find("file").click());
  on("file", "change", () => {
    const [file] = find("file").files;
    find("file").value = "";
    if (file) studio.run(() => studio.openFile(file));
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    find("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) find("drop").hidden = true;
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    find("drop").hidden = true;
    const [file] = event.dataTransfer.files;
    if (file) studio.run(() => studio.openFile(file));
  });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) studio.run(() => studio.openFile(file));
  });

  const { dataset } = document.documentElement;
  dataset.theme = stored("theme") ?? "";
  function toggleTheme() {
    const now = dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    const theme = now === "dark" ? "light" : "dark";
    dataset.theme = theme;
    store("theme", theme);
  }
}

// where a browser keeps nothing for pages, it throws: the theme then lasts as long as the page

function stored(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function store(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // see above
  }
}
