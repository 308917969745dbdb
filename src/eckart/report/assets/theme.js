"use strict";
// The data of the page, its theme, and the recipes that are hidden in all plots.
const page = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const COLOURS = 8;
const MARKS = ["●", "■", "◆", "▲", "▼", "✚", "✖", "★", "⬢", "⬟"];
const FEW = 3; // recipes, which are hidden one by one
const hidden = new Set();
const listeners = [];

function colour(name) {
  return getComputedStyle(root).getPropertyValue(`--${name}`).trim();
}

function seriesColour(number) {
  return colour(`series-${number % COLOURS}`);
}

// A colour between those of the first and the last block.
function depthColour(share) {
  const [from, to] = ["depth-from", "depth-to"].map((name) => parseInt(colour(name).slice(1), 16));
  const part = (shift) => {
    const [a, b] = [(from >> shift) & 255, (to >> shift) & 255];
    return Math.round(a + (b - a) * share);
  };
  return `rgb(${part(16)},${part(8)},${part(0)})`;
}

function mark(number) {
  const span = document.createElement("span");
  span.className = "mark";
  span.setAttribute("aria-hidden", "true");
  span.dataset.series = number;
  return span;
}

function paintMarks() {
  for (const span of document.querySelectorAll(".mark")) {
    span.textContent = MARKS[span.dataset.series % MARKS.length];
    span.style.color = seriesColour(span.dataset.series);
  }
}

function setTheme(name) {
  root.dataset.theme = name;
  const button = document.getElementById("theme");
  button.setAttribute("aria-pressed", String(name === "dark"));
  button.textContent = name === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `Change to the ${name === "dark" ? "light" : "dark"} theme`);
  paintMarks();
  for (const listener of listeners) listener();
}

function remember(name) {
  try { localStorage.setItem("eckart-theme", name); } catch { /* not allowed for files, in some browsers */ }
}

function remembered() {
  try { return localStorage.getItem("eckart-theme"); } catch { return null; }
}

function makeLegend() {
  const legend = document.getElementById("legend");
  const chips = [];
  const all = document.createElement("button");
  const show = () => {
    chips.forEach((chip, number) => chip.setAttribute("aria-pressed", String(!hidden.has(number))));
    all.textContent = hidden.size < chips.length ? "Hide all" : "Show all";
    for (const listener of listeners) listener();
  };
  Object.assign(all, { type: "button", className: "all" });
  all.addEventListener("click", () => {
    const hide = hidden.size < chips.length;
    chips.forEach((_, number) => (hide ? hidden.add(number) : hidden.delete(number)));
    show();
  });
  if (page.recipes.length > FEW) legend.append(all);
  page.recipes.forEach((recipe, number) => {
    const button = document.createElement("button");
    button.type = "button";
    const label = document.createElement("span");
    label.textContent = button.title = recipe;
    button.append(mark(number), label);
    button.addEventListener("click", () => {
      if (!hidden.delete(number)) hidden.add(number);
      show();
    });
    chips.push(button);
    legend.append(button);
  });
  show();
}

makeLegend();
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
prefersDark.addEventListener("change", (event) => { if (!remembered()) setTheme(event.matches ? "dark" : "light"); });
document.getElementById("theme").addEventListener("click", () => {
  const name = root.dataset.theme === "dark" ? "light" : "dark";
  remember(name);
  setTheme(name);
});
