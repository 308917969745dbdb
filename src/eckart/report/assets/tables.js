// Tables that are sorted by their heads, filtered, and given as CSV.
const FORMATS = {
  text: (value) => value,
  integer: (value) => value.toLocaleString("en"),
  number: (value) => (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-3) ? value.toExponential(2)
    : value.toLocaleString("en", value >= 1000 ? { maximumFractionDigits: 0 } : { minimumSignificantDigits: 4, maximumSignificantDigits: 4 })),
  percent: (value) => `${(100 * value).toFixed(1)} %`,
  times: (value) => `× ${value.toFixed(2)}`,
  bytes: (value) => (value >= 1e9 ? `${(value / 1e9).toFixed(2)} GB` : `${(value / 1e6).toFixed(value < 1e7 ? 2 : 1)} MB`),
  seconds: (value) => (value >= 120 ? `${(value / 60).toFixed(1)} min` : `${value.toFixed(1)} s`),
};
const MANY = 12; // rows from which on a filter is worth its place

function compareCells(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function csvCell(value) {
  let text = value === null ? "" : String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`; // spreadsheets run these as formulas
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

class DataTable {
  constructor(element) {
    this.element = element;
    this.data = page.tables[element.dataset.table];
    this.select = element.querySelector("select");
    this.sorted = null; // column, direction
    this.query = "";
    this.build();
    this.select?.addEventListener("change", () => this.fill());
    this.fill();
  }

  get rows() {
    return this.data.variants[Number(this.select?.value ?? 0)] ?? [];
  }

  build() {
    const bar = this.element.appendChild(document.createElement("div"));
    bar.className = "bar";
    this.count = bar.appendChild(document.createElement("span"));
    this.count.className = "count";
    this.count.setAttribute("role", "status");
    const tools = bar.appendChild(document.createElement("div"));
    this.filter = tools.appendChild(document.createElement("input"));
    Object.assign(this.filter, { type: "search", placeholder: "Filter", ariaLabel: "Show the rows that contain" });
    this.filter.addEventListener("input", () => { this.query = this.filter.value.toLowerCase(); this.fill(); });
    const button = tools.appendChild(document.createElement("button"));
    Object.assign(button, { type: "button", textContent: "Download CSV" });
    button.addEventListener("click", () => this.download());
    const box = this.element.appendChild(document.createElement("div"));
    Object.assign(box, { className: "rows", tabIndex: 0 });
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", `Table: ${this.element.dataset.caption}`);
    const table = box.appendChild(document.createElement("table"));
    const head = table.createTHead().insertRow();
    this.heads = this.data.columns.map((column, place) => {
      const cell = head.appendChild(document.createElement("th"));
      cell.scope = "col";
      if (column.kind === "text") cell.className = "words";
      const sort = cell.appendChild(document.createElement("button"));
      Object.assign(sort, { type: "button", textContent: column.label, title: column.title });
      sort.addEventListener("click", () => this.sort(place));
      return cell;
    });
    this.body = table.createTBody();
  }

  sort(place) {
    const before = this.sorted;
    this.sorted = { place, direction: before?.place === place ? -before.direction : 1 };
    this.heads.forEach((head, index) => {
      if (index === place) head.setAttribute("aria-sort", this.sorted.direction > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    this.fill();
  }

  ordered() {
    const rows = this.rows.filter((row) => !this.query || row.some((cell) => String(cell ?? "").toLowerCase().includes(this.query)));
    if (!this.sorted) return rows;
    const { place, direction } = this.sorted;
    // What is not known comes last, whichever way it is sorted.
    return rows.sort((a, b) => (a[place] === null) - (b[place] === null) || direction * compareCells(a[place], b[place]));
  }

  fill() {
    const rows = this.ordered();
    this.filter.hidden = this.rows.length <= MANY;
    this.count.textContent = rows.length === this.rows.length ? `${rows.length} rows` : `${rows.length} of ${this.rows.length} rows`;
    const recipe = this.data.columns.findIndex((column) => column.label === "recipe");
    this.body.replaceChildren(...rows.map((row) => {
      const line = document.createElement("tr");
      this.data.columns.forEach((column, place) => {
        const cell = line.insertCell();
        if (column.kind === "text") cell.className = "words";
        const number = place === recipe ? page.recipes.indexOf(row[place]) : -1;
        if (number >= 0) cell.append(mark(number));
        cell.append(row[place] === null ? "–" : FORMATS[column.kind](row[place]));
      });
      return line;
    }));
    paintMarks();
  }

  download() {
    const lines = [this.data.columns.map((column) => column.label), ...this.ordered()];
    const text = lines.map((line) => line.map(csvCell).join(",")).join("\r\n") + "\r\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv;charset=utf-8" }));
    link.download = `eckart-${this.data.id}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
}

for (const element of document.querySelectorAll(".table")) new DataTable(element);
makePlots();
setTheme(remembered() ?? (prefersDark.matches ? "dark" : "light"));
