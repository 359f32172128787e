(() => {
  "use strict";
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  root.classList.add("js"); // without this script, everything is shown at once

  // light and dark: as the system is, until the button says otherwise
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const tell = () => theme.setAttribute("aria-pressed", String(isDark()));
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; tell(); });
  system.addEventListener("change", tell);
  tell();

  // one image at a time
  const tabs = all('[role="tab"]');
  const articles = all(".image");
  const select = (number, focus) => {
    articles.forEach((article, i) => article.classList.toggle("current", i === number));
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === number));
      tab.tabIndex = i === number ? 0 : -1;
    });
    if (focus) tabs[number].focus();
  };
  if (tabs.length) {
    tabs[0].parentElement.hidden = false;
    tabs.forEach((tab, i) => {
      tab.addEventListener("click", () => select(i, false));
      tab.addEventListener("keydown", (event) => {
        const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        select((to + tabs.length) % tabs.length, true);
      });
    });
  }

  // which scores
  const methods = all('input[name="method"]');
  const names = methods.map((input) => input.nextElementSibling.textContent);
  const signed = methods.map((input) => "signed" in input.dataset);
  const size = (scores, m) => (signed[m] ? Math.abs(scores[m]) : scores[m]);
  const rounded = (score) => Number(score.toPrecision(3)); // to be read; ranks are of what there is
  const method = () => Math.max(0, methods.findIndex((input) => input.checked));

  // the numbers of a Gaussian; everything goes in as text
  const read = (ellipse) => {
    const [number, turn, opacity, color, ...scores] = ellipse.dataset.g.trim().split(" ");
    const value = (name) => Number(ellipse.getAttribute(name));
    return { number, turn, opacity, color, scores: scores.map(Number), x: value("cx"), y: value("cy"), a: value("rx") / 2, b: value("ry") / 2 };
  };
  const row = (name, text, color) => {
    const [line, dt, dd] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    dt.textContent = name;
    if (color) {
      const chip = document.createElement("span");
      chip.className = "chip";
      chip.style.background = color;
      dd.append(chip);
    }
    dd.append(text);
    line.append(dt, dd);
    return line;
  };

  articles.forEach((article) => {
    const svg = article.querySelector(".ellipses");
    if (!svg) return;
    const ellipses = all("ellipse", svg);
    const readout = article.querySelector(".readout");
    const stage = svg.parentElement; // an SVG that listens to focus would take it itself
    const short = article.querySelector(".short");
    const halo = article.querySelector(".halo ellipse");
    let current = null;
    // from the largest score down, for or against the class
    const order = () => [...ellipses].sort((p, q) => size(read(q).scores, method()) - size(read(p).scores, method()));
    const show = (ellipse) => {
      if (current) current.classList.remove("on");
      current = ellipse;
      ellipse.classList.add("on");
      const g = read(ellipse);
      const list = document.createElement("dl");
      list.append(row("Gaussian", `${g.number} of ${svg.dataset.total}`));
      g.scores.forEach((score, m) => {
        const rank = 1 + ellipses.filter((other) => size(read(other).scores, m) > size(g.scores, m)).length;
        list.append(row(names[m], `${rounded(score)} (rank ${rank})`));
      });
      list.append(
        row("centre", `${g.x.toFixed(1)}, ${g.y.toFixed(1)} px`),
        row("standard deviations", `${g.a.toFixed(1)} × ${g.b.toFixed(1)} px`),
        row("angle", `${g.turn}°`),
        row("opacity", g.opacity),
        row("colour", g.color, g.color),
      );
      readout.replaceChildren(list);
      short.textContent = `${g.number}: ${names.length ? `${names[method()]} ${rounded(g.scores[method()])}, ` : ""}${g.a.toFixed(1)} × ${g.b.toFixed(1)} px`;
      if (halo) {
        for (const name of ["cx", "cy", "rx", "ry", "transform"]) halo.setAttribute(name, ellipse.getAttribute(name));
        halo.removeAttribute("hidden");
      }
    };
    stage.addEventListener("pointerover", (event) => { if (event.target.dataset.g) show(event.target); });
    stage.addEventListener("click", (event) => { if (event.target.dataset.g) event.target.focus(); });
    stage.addEventListener("focusin", (event) => {
      const g = read(event.target);
      event.target.setAttribute("aria-label", `Gaussian ${g.number}, ${names.map((name, m) => `${name} ${rounded(g.scores[m])}`).join(", ")}`);
      show(event.target);
    });
    stage.addEventListener("keydown", (event) => {
      const sorted = order();
      const at = sorted.indexOf(event.target);
      const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: sorted.length - 1 }[event.key];
      if (to === undefined || at < 0) return;
      event.preventDefault();
      const next = sorted[(to + sorted.length) % sorted.length];
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
    const enter = () => {
      ellipses.forEach((ellipse) => { ellipse.tabIndex = -1; ellipse.setAttribute("role", "img"); });
      if (ellipses.length) order()[0].tabIndex = 0;
    };
    enter();
    methods.forEach((input) => input.addEventListener("change", enter));
  });
  methods.forEach((input) => input.addEventListener("change", () => { document.body.dataset.method = input.value; }));
})();
