// Text of the page: figures as people read them, and the nodes that hold it. Text from the results only ever becomes a text node
// (element()), so it cannot become markup.

const DASH = "–";
const NO_BREAK = "\u00a0";
const ROUNDS_FOR_INTERVAL = 12; // As statistics.h has it; for words only.
const INTERVAL = `95 % interval of the median (of fewer than ${ROUNDS_FOR_INTERVAL} rounds: min and max)`;

const list = (value) => (Array.isArray(value) ? value : []);
const record = (value) => (value !== null && typeof value === "object" && !Array.isArray(value) ? value : {});
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const text = (value) => (value === null || value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value));
const plural = (count, one, many) => `${count} ${count === 1 ? one : (many ?? one + "s")}`;
const shortened = (value, length) => (value.length > length ? value.slice(0, length - 1) + "…" : value);
const isClaim = (verdict) => verdict === "smaller" || verdict === "larger";

/** Children are nodes or text; null ones are left out. */
function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {}))
    if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

function fill(id, ...children) {
  document.getElementById(id).replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== ""));
}

// Figures as text.

function number(value, digits) {
  return value.toLocaleString("en-US", { maximumFractionDigits: digits, minimumFractionDigits: digits }).replaceAll(",", NO_BREAK);
}

function plain(value) {
  if (!isNumber(value)) return DASH;
  const size = Math.abs(value);
  return number(value, Number.isInteger(value) || size >= 100 ? 0 : size >= 1 ? 1 : 2);
}

function significant(value) {
  if (!isNumber(value)) return DASH;
  const size = Math.abs(value);
  return size >= 100 ? number(value, 0) : size >= 10 ? number(value, 1) : number(value, size >= 0.1 || size === 0 ? 2 : 3);
}

function bytes(value) {
  if (!isNumber(value)) return DASH;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let scaled = value;
  for (; Math.abs(scaled) >= 1024 && unit < units.length - 1; ++unit) scaled /= 1024;
  return `${Number.isInteger(scaled) || Math.abs(scaled) >= 100 ? number(scaled, 0) : number(scaled, 1)}${NO_BREAK}${units[unit]}`;
}

const ms = (value) => (isNumber(value) ? `${plain(value)}${NO_BREAK}ms` : DASH);

function valueText(metric, value) {
  if (!isNumber(value)) return DASH;
  return metric.unit === "bytes" ? bytes(value) : metric.unit ? `${plain(value)}${NO_BREAK}${metric.unit}` : plain(value);
}

/** The interval of a ratio; an end is open where figures are only known to be longer than the window. */
function rangeText(ratio) {
  if (isNumber(ratio.low) && isNumber(ratio.high)) return ratio.minMax === true ? `min ${significant(ratio.low)}, max ${significant(ratio.high)}` : `${significant(ratio.low)} ${DASH} ${significant(ratio.high)}`;
  return isNumber(ratio.low) ? `${significant(ratio.low)} or more` : isNumber(ratio.high) ? `${significant(ratio.high)} or less` : DASH;
}

/** A member of a metric's summary; with a sign in front where the window ended first and it is only known to be that or more. */
function memberText(metric, summary, member) {
  const value = valueText(metric, summary?.[member]);
  return list(summary?.atLeast).includes(member) ? `>${NO_BREAK}${value}` : value;
}

/** Of too few rounds for an interval it says that it is none. */
function intervalText(metric, summary) {
  if (!isNumber(summary?.low) || !isNumber(summary?.high)) return DASH;
  const low = memberText({ ...metric, unit: metric.unit === "bytes" ? "bytes" : "" }, summary, "low"), high = memberText(metric, summary, "high");
  return summary.minMax === true ? `min ${low}, max ${high}` : `${low} ${DASH} ${high}`;
}

function dateText(iso) {
  const date = new Date(text(iso));
  if (!iso || Number.isNaN(date.getTime())) return text(iso) || "not said";
  return date.toISOString().slice(0, 16).replace("T", " ") + " UTC";
}

function durationText(from, to) {
  const seconds = (new Date(text(to)) - new Date(text(from))) / 1000;
  if (!isNumber(seconds) || seconds < 0) return "";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function shellWords(command) {
  if (!Array.isArray(command)) return text(command);
  return command.map((word) => (/^[\w@%+=:,./-]+$/.test(text(word)) ? text(word) : `'${text(word).replaceAll("'", "'\\''")}'`)).join(" ");
}

// Parts of the page.

function mark(design) {
  const holder = document.createElement("template");
  holder.innerHTML = `<svg class="mark" viewBox="0 0 14 14" aria-hidden="true" fill="currentColor">${designLook(design).svg}</svg>`;
  const svg = holder.content.firstChild;
  svg.style.setProperty("--mark", colourOf(design));
  return svg;
}

const designLabel = (design) => element("span", { class: "design" }, mark(design), shortened(design, 40));

/** Columns: `{title, number, head}`; a cell is text, a node, or a list of both. */
function table(caption, columns, rows, className) {
  const head = element("tr", {}, columns.map((column) => element("th", { scope: "col", class: column.number ? "number" : null }, column.title)));
  const body = rows.map((row) =>
    element("tr", {}, row.map((cell, index) =>
      columns[index].head ? element("th", { scope: "row" }, cell) : element("td", { class: columns[index].number ? "number" : "text", "data-title": typeof columns[index].title === "string" ? columns[index].title : null }, cell ?? DASH))));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    element("table", { class: className }, element("caption", {}, element("span", {}, caption)), element("thead", {}, head), element("tbody", {}, body)));
}

const openDetails = new Set();
function details(key, title, ...children) {
  const node = element("details", { "data-key": key, open: openDetails.has(key) }, element("summary", {}, title), ...children);
  node.addEventListener("toggle", () => {
    if (state.printing) return;
    if (node.open) openDetails.add(key);
    else openDetails.delete(key);
  });
  return node;
}

function facts(entries) {
  return element("dl", { class: "facts" }, entries.filter(([, value]) => value).map(([name, value, wide]) =>
    element("div", { class: wide ? "wide" : null }, element("dt", {}, name), element("dd", {}, value))));
}

function listed(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}
