// What the page is made of: the results, with what is not there made harmless, and what the designs are (config/design.h). Statistics
// are taken from `summary` and never made here, but for the median over rounds of each bin of the brown-out curve. Everything of the
// results may be null.

const data = JSON.parse(document.getElementById("data").textContent);
const results = data.results ?? {};
const metricNamed = new Map(data.metrics.map((metric) => [metric.name, metric]));

// Okabe and Ito's colours, which people of all kinds of colour vision can tell apart, darkened or lightened for contrast with the
// paper, in the order of the designs' rows. Shapes tell the designs apart where colours do not.
const LOOKS = [
  { light: "#0067a8", dark: "#56b4e9", shape: "circle", svg: '<circle cx="7" cy="7" r="5.5"/>' },
  { light: "#c45100", dark: "#f0914a", shape: "rect", svg: '<rect x="2" y="2" width="10" height="10"/>' },
  { light: "#007d59", dark: "#2dc597", shape: "triangle", svg: '<path d="M7 1.5 13 12.5H1z"/>' },
  { light: "#a83f82", dark: "#e59cc8", shape: "rectRot", svg: '<path d="M7 .5 13.5 7 7 13.5 .5 7z"/>' },
  { light: "#5b5b5b", dark: "#b9bec6", shape: "crossRot", svg: '<path d="m2 2 10 10M12 2 2 12" fill="none" stroke="currentColor" stroke-width="2.4"/>' },
  { light: "#7a6400", dark: "#e8d44d", shape: "star", svg: '<path d="m2.5 2.5 9 9M11.5 2.5l-9 9M7 .5v13M.5 7h13" fill="none" stroke="currentColor" stroke-width="1.8"/>' },
  { light: "#8c2d19", dark: "#e8896f", shape: "triangle", rotation: 180, svg: '<path d="M7 12.5 1 1.5h12z"/>' },
  { light: "#4a3fa8", dark: "#a9a0f0", shape: "cross", svg: '<path d="M7 .5v13M.5 7h13" fill="none" stroke="currentColor" stroke-width="2.8"/>' },
];
/** Shapes without an inside. */
const LINES = new Set(["crossRot", "star", "cross"]);
const UNKNOWN_DESIGN = { light: "#333333", dark: "#dddddd", rotation: 0, shape: "rectRounded", svg: '<rect x="2" y="2" width="10" height="10" rx="3"/>' };
const DESIGNS = list(data.designs).map(record).map((row, index) => ({ ...UNKNOWN_DESIGN, ...LOOKS[index], ...row }));
const isBaseline = (name) => DESIGNS.some((design) => design.name === name && design.baseline === true);
/** What a design is beside its name; mostly nothing. */
const kindOf = (design) => (design.baseline === true ? "baseline" : text(design.byHandOf) ? "by hand" : "");

const PHASES = [
  { metric: "prepareMs", name: "prepare", light: "#c9d6e2", dark: "#3d4c5c" },
  { metric: "launchMs", name: "launch", light: "#9fbad1", dark: "#557088" },
  { metric: "exchangeMs", name: "exchange", light: "#7099bb", dark: "#7496b5" },
  { metric: "verifyMs", name: "verify", light: "#41759f", dark: "#a3c3de" },
  { metric: "pausePhaseMs", name: "pause", light: "#d1495b", dark: "#ff7d8c" },
  { metric: "confirmMs", name: "confirm", light: "#edae49", dark: "#f3c677" },
  { metric: "retireMs", name: "retire", light: "#b9b4ab", dark: "#6b675f" },
];

const PAUSES = [
  {
    metric: "stopToResumeMs",
    title: "Pause by QEMU's events: STOP to RESUME",
    short: "STOP to RESUME",
    what: "From QEMU's event STOP on the old VMM to RESUME on the new one: how long no virtual CPU was allowed to run.",
  },
  {
    metric: "guestPauseMs",
    title: "Pause as the guest shows it: heartbeats",
    short: "heartbeats",
    what: "From the guest's last heartbeat on the old VMM to its first on the new one, on the host's clock: how long the guest really did nothing that could be seen.",
  },
];

function median(values) {
  const sorted = values.filter(isNumber).sort((a, b) => a - b);
  if (sorted.length === 0) return null;
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function at(round, pointer) {
  let value = round;
  for (const key of pointer.split("/").slice(1)) value = record(value)[key];
  return isNumber(value) ? value : null;
}

const enters = (round) => round.outcome === "upgraded" && round.disturbed !== true;

const vmms = list(results.vmms).map(record);
const settings = record(results.settings);
const host = record(results.host);
const cells = list(results.cells).map((cell, index) => {
  const id = text(record(cell).id) || `cell ${index + 1}`;
  // One name everywhere: here, in the CSV, in the text and in README.md's tables.
  const given = text(record(cell).title);
  const isTaken = list(results.cells).some((other, place) => place !== index && text(record(other).title) === given);
  const summary = record(list(record(results.summary).cells).find((other) => record(other).id === record(cell).id));
  const series = list(record(cell).series)
    .map(record)
    .map((one) => ({
      design: text(one.design) || "?",
      notRun: text(one.notRun),
      rounds: list(one.rounds).map(record),
      inspection: one.inspection ? record(one.inspection) : null,
      summary: record(list(summary.series).find((other) => record(other).design === one.design)),
    }));
  series.sort((a, b) => designRank(a.design) - designRank(b.design));
  return { ...record(cell), id, name: !given ? id : isTaken ? `${given} (${id})` : given, series, ratios: list(summary.ratios).map(record) };
});

function designRank(name) {
  const index = DESIGNS.findIndex((design) => design.name === name);
  return index < 0 ? DESIGNS.length : index;
}
const designLook = (name) => DESIGNS.find((design) => design.name === name) ?? UNKNOWN_DESIGN;
const designsPresent = [...new Set(cells.flatMap((cell) => cell.series.map((one) => one.design)))].sort((a, b) => designRank(a) - designRank(b));
const metricOf = (series, name) => record(record(series.summary.metrics)[name]);

const vmmName = (index) => {
  const vmm = vmms[index];
  if (!vmm) return "?";
  return text(vmm.version) || text(vmm.binary).split("/").pop() || "?";
};
const pairName = (cell) => `${vmmName(cell.old)} → ${vmmName(cell.new)}`;
const devicesName = (cell) => {
  const devices = list(cell.devices).map(text).filter(Boolean);
  const kinds = devices.filter((device) => device !== "many").join(" and ") || "none";
  return devices.includes("many") ? `many of ${kinds}` : kinds;
};
const pagesName = (cell) => (cell.transparentHuge === true ? "transparent huge" : bytes(cell.pageSizeBytes));

/** As summary.h has it: `TCG`, `KVM`, and of a host that is a virtual machine itself `KVM (nested)`. */
const acceleratorName = (name) => text(name).toUpperCase() + (text(name) === "kvm" && host.virtualized === true ? " (nested)" : "");

/** What was varied, or is the same for all. */
const FACTORS = [
  { name: "Guest RAM", of: (cell) => bytes(cell.ramBytes) },
  { name: "QEMU, old → new", of: pairName },
  { name: "RAM touched", of: (cell) => bytes(cell.touchedBytes) },
  { name: "Load in the guest", of: (cell) => text(cell.load) || "?" },
  { name: "Devices", of: devicesName },
  { name: "Virtual CPUs", of: (cell) => text(cell.vcpus) || "?" },
  { name: "Page size", of: pagesName },
  { name: "Written again and again", of: (cell) => (isNumber(cell.hotSetBytes) ? bytes(cell.hotSetBytes) : "") },
  { name: "Accelerator", of: (cell) => acceleratorName(text(cell.accelerator) || text(host.accelerator)) },
  { name: "Guest", of: (cell) => text(cell.guest) },
  { name: "VMs at once", of: (cell) => text(cell.vms) || "?" },
];
const valuesOfFactor = (factor) => [...new Set(cells.map(factor.of))];
/** The median over rounds of each bin; bins of all rounds lie on one grid. */
function brownOutCurve(series) {
  const bins = new Map();
  for (const round of series.rounds.filter(enters)) {
    const rate = record(round.writeRate);
    if (!isNumber(rate.binMs) || rate.binMs <= 0 || !isNumber(rate.firstBinMs)) continue;
    list(rate.curvePercent).forEach((percent, index) => {
      if (!isNumber(percent)) return;
      const start = Math.round(rate.firstBinMs / rate.binMs + index) * rate.binMs;
      const middle = start + rate.binMs / 2;
      if (!bins.has(middle)) bins.set(middle, []);
      bins.get(middle).push(percent);
    });
  }
  return [...bins].sort((a, b) => a[0] - b[0]).map(([x, values]) => ({ x, y: median(values), count: values.length }));
}

/** Cells that differ from `cell` in nothing but RAM, and at most in the pair. */
function likeCell(cell, other) {
  // As much, or as great a part of what is touched.
  const share = (one) => (isNumber(one.hotSetBytes) && one.touchedBytes > 0 ? one.hotSetBytes / one.touchedBytes : 0);
  if (cell.hotSetBytes !== other.hotSetBytes && Math.abs(share(cell) - share(other)) > 0.05) return false;
  const key = (one) => JSON.stringify([one.load, one.vcpus, list(one.devices), one.vms, pagesName(one), one.accelerator, one.guest]);
  return key(cell) === key(other);
}
