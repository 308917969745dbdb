// Draws a figure when it comes near the screen, and again when a choice, the theme or the recipes change.
const TOUCH = matchMedia("(pointer: coarse)").matches;
const CONFIG = {
  responsive: true,
  displayModeBar: TOUCH ? false : "hover",
  displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  toImageButtonOptions: { format: "svg" },
};

function painted(trace) {
  const copy = structuredClone(trace);
  const { series, depth, ink, always } = trace;
  for (const key of ["series", "depth", "ink", "always"]) delete copy[key];
  const paint = ink ? colour("ink") : depth !== undefined ? depthColour(depth) : series !== undefined ? seriesColour(series) : null;
  if (paint) {
    if (copy.type === "bar" || copy.marker || (copy.mode ?? "").includes("markers")) {
      copy.marker = { ...copy.marker, color: paint };
      if (copy.marker.line) copy.marker.line.color = paint;
    }
    if (copy.line) copy.line.color = paint;
    if (copy.error_y) copy.error_y.color = paint;
  }
  if (copy.type === "bar") copy.marker.line = { width: 0 };
  if (series !== undefined && !always && hidden.has(series)) copy.visible = false;
  if (copy.colorbar) Object.assign(copy.colorbar, {
    outlinewidth: 0, tickfont: { color: colour("soft"), size: 12 },
    title: { ...copy.colorbar.title, font: { color: colour("soft"), size: 13 } },
  });
  return copy;
}

// Powers of ten where the range is wide; else all numbers that there is room for, written out.
function logTicks(values) {
  const known = values.filter((value) => value > 0);
  const decades = Math.log10(Math.max(...known) / Math.min(...known));
  return decades > 3 ? { dtick: 1 } : decades > 1 ? { dtick: "D2", minorloglabels: "complete" } : { nticks: 7, minorloglabels: "complete" };
}

function styledAxis(axis, values) {
  return {
    ...(axis.type === "log" && values.length ? logTicks(values) : {}),
    automargin: true, gridcolor: colour("grid"), linecolor: colour("line"), zeroline: false, ...axis,
    title: { ...axis.title, font: { size: 13, color: colour("soft") }, standoff: 10 },
    tickfont: { size: 12, color: colour("soft") },
  };
}

function styled(layout, traces, width) {
  const values = (name) => traces.flatMap((trace) => (Array.isArray(trace[name]) ? trace[name] : []));
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
    dragmode: TOUCH ? false : "zoom", // a finger that scrolls the page must not zoom a plot
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("ink") },
    hoverlabel: { align: "left", bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink"), size: 13 } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("soft"), activecolor: colour("accent") },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal", font: { size: 12 } },
    ...layout,
    margin: { l: 56, r: width < 500 ? 12 : 24, t: layout.title || layout.showlegend ? 44 : 30, b: 48 },
    ...(layout.title ? { title: { ...layout.title, font: { size: 14 }, x: 0.02, xanchor: "left", y: 0.97, yanchor: "top" } } : {}),
    xaxis: styledAxis(layout.xaxis ?? {}, values("x")),
    yaxis: styledAxis(layout.yaxis ?? {}, values("y")),
  };
}

class Plot {
  constructor(element, selects) {
    this.element = element;
    this.figure = page.figures[element.dataset.figure];
    this.selects = selects;
    this.near = false;
    element.style.height = `${this.figure.height}px`;
    for (const select of selects) select.addEventListener("change", () => this.draw());
    listeners.push(() => this.draw());
  }

  draw() {
    if (!this.near) return;
    const choice = this.selects.map((select) => select.value).join(".");
    const { traces, layout } = this.figure.variants[choice] ?? { traces: [], layout: {} };
    const width = this.element.clientWidth;
    const full = styled(layout, traces, width);
    if (!traces.length) {
      full.annotations = [{ text: "nothing recorded for this choice", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }];
    }
    // On a narrow screen the entries of a legend stand below each other.
    full.height = this.figure.height + (layout.showlegend && width < 500 ? 18 * traces.length : 0);
    this.element.style.height = `${full.height}px`;
    Plotly.react(this.element, traces.map(painted), full, CONFIG).then(() => { this.element.dataset.drawn = choice || "all"; });
  }
}

function makePlots() {
  const plots = new Map();
  for (const group of document.querySelectorAll(".group")) {
    const selects = [...group.querySelectorAll("select")];
    for (const element of group.querySelectorAll(".plot")) plots.set(element, new Plot(element, selects));
  }
  const show = (plot) => { plot.near = true; plot.draw(); };
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      show(plots.get(target));
    }
  }, { rootMargin: "600px" });
  for (const element of plots.keys()) watcher.observe(element);
  addEventListener("beforeprint", () => plots.forEach(show));
}
