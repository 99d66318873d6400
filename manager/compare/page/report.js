// Draws the report page from the results of `virt-handover compare`, which stand in the page as JSON.
//
// Text from the results only ever becomes a text node (element()) or is painted on a canvas, so it cannot become markup. Statistics are
// taken from `summary` and never made here, but for the median over rounds of each bin of the brown-out curve. Everything may be null.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const results = data.results ?? {};
  const metricNamed = new Map(data.metrics.map((metric) => [metric.name, metric]));

  const WIDE_SPREAD = 20; // From this ratio of the largest to the smallest value on, a linear axis hides the small ones.
  const LISTED_AT_MOST = 200;
  const NOTES_AT_TOP = 3;
  const DASH = "–";
  const NO_BREAK = "\u00a0";

  // Okabe and Ito's colours, which people of all kinds of colour vision can tell apart, darkened or lightened for contrast with the
  // paper. Shapes tell the designs apart where colours do not.
  const DESIGNS = [
    { name: "relayed", light: "#0067a8", dark: "#56b4e9", shape: "circle", svg: '<circle cx="7" cy="7" r="5.5"/>' },
    { name: "manager-owned", light: "#c45100", dark: "#f0914a", shape: "rect", svg: '<rect x="2" y="2" width="10" height="10"/>' },
    { name: "vmm-owned", light: "#007d59", dark: "#2dc597", shape: "triangle", svg: '<path d="M7 1.5 13 12.5H1z"/>' },
    { name: "vmm-exec", light: "#a83f82", dark: "#e59cc8", shape: "rectRot", svg: '<path d="M7 .5 13.5 7 7 13.5 .5 7z"/>' },
    { name: "copy", light: "#5b5b5b", dark: "#b9bec6", shape: "crossRot", svg: '<path d="m2 2 10 10M12 2 2 12" fill="none" stroke="currentColor" stroke-width="2.4"/>' },
    { name: "save-restore", light: "#7a6400", dark: "#e8d44d", shape: "star", svg: '<path d="m2.5 2.5 9 9M11.5 2.5l-9 9M7 .5v13M.5 7h13" fill="none" stroke="currentColor" stroke-width="1.8"/>' },
  ];
  const UNKNOWN_DESIGN = { light: "#333333", dark: "#dddddd", shape: "rectRounded", svg: '<rect x="2" y="2" width="10" height="10" rx="3"/>' };
  const BASELINES = ["copy", "save-restore"];

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

  // From the design of the project, not from the results: what a figure cannot say.
  const DESIGN_TABLE = [
    ["relayed", "The manager: one memory file, mapped by both VMMs (or QEMU's own, sent along)", "QEMU's own memory files, through QEMU's CPR channel, in which the manager's shim stands", "The manager sees every name and descriptor, and compares both VMMs' memory, before the guest stops; what does not fit is refused", "Until the new VMM is told to run. With vfio: until the switch", "Through the channel; the manager opened the device", "10.0 on both sides, in either direction"],
    ["manager-owned", "The manager: one memory file, mapped by both VMMs", "Copied in the migration stream, under 1 MB", "The manager compares both VMMs' memory before the guest stops", "Until the new VMM is told to run", "Refused: the kernel would be configured twice", "Any"],
    ["vmm-owned", "QEMU", "QEMU's own memory files, straight from the old to the new VMM (cpr-transfer)", "What is sent, only the two QEMUs, which check little of it; from outside, what both say of their memory", "Until the new VMM is told to run. With vfio: until the switch", "Through the channel, from QEMU 10.1 on", "10.0 on both sides; not from 10.1 or later back to 10.0"],
    ["vmm-exec", "QEMU", "The same files, kept open while the process replaces itself (cpr-exec)", "Nobody: there is no second process to look at", "None after exec", "Kept open", "10.2. Refused where the sandbox forbids exec (spawn=deny), and where not all guest RAM is in memory files"],
    ["copy", "Each VMM its own; copied over a socket while the guest runs", "Copied", "QEMU, while it loads the stream", "Until the new VMM is told to run", "Refused", "Any. A baseline: an ordinary migration on one host; needs the RAM twice"],
    ["save-restore", "Each VMM its own; written to a file and read back while the guest is stopped", "In the file", "QEMU, while it loads the file", "Until the new VMM is told to run", "Refused", "Any. A baseline: stop, save, start"],
  ];

  // Small helpers.

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

  function intervalText(metric, summary) {
    return isNumber(summary?.low) && isNumber(summary?.high) ? `${valueText({ ...metric, unit: metric.unit === "bytes" ? "bytes" : "" }, summary.low)} ${DASH} ${valueText(metric, summary.high)}` : DASH;
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

  // The results, with what is not there made harmless.

  const vmms = list(results.vmms).map(record);
  const settings = record(results.settings);
  const host = record(results.host);
  const cells = list(results.cells).map((cell, index) => {
    const id = text(record(cell).id) || `cell ${index + 1}`;
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
    return { ...record(cell), id, series, ratios: list(summary.ratios).map(record) };
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
  const devicesName = (cell) => list(cell.devices).map(text).filter(Boolean).join(" and ") || "none";

  /** What cells differ in tells them apart; what they have in common is said once, at the top. */
  const FACTORS = [
    { name: "Guest RAM", of: (cell) => bytes(cell.ramBytes), in: (value) => value },
    { name: "QEMU, old → new", of: pairName, in: (value) => value },
    { name: "RAM touched", of: (cell) => bytes(cell.touchedBytes), in: (value) => `${value} touched` },
    { name: "Load in the guest", of: (cell) => text(cell.load) || "?", in: (value) => `load ${value}` },
    { name: "Devices", of: devicesName, in: (value) => `devices: ${value}` },
    { name: "Virtual CPUs", of: (cell) => text(cell.vcpus) || "?", in: (value) => `${value} vCPU` },
    { name: "Page size", of: (cell) => bytes(cell.pageSizeBytes), in: (value) => `${value} pages` },
    { name: "VMs at once", of: (cell) => text(cell.vms) || "?", in: (value) => `${value} VMs at once` },
  ];
  const valuesOfFactor = (factor) => [...new Set(cells.map(factor.of))];
  const differing = FACTORS.filter((factor, index) => index < 2 || valuesOfFactor(factor).length > 1).filter(
    // Touched RAM goes with its size: it tells nothing apart unless a size has two.
    (factor) => factor.name !== "RAM touched" || new Set(cells.map((cell) => `${cell.ramBytes}/${cell.touchedBytes}`)).size > new Set(cells.map((cell) => cell.ramBytes)).size,
  );
  const cellName = (cell) => differing.map((factor) => factor.in(factor.of(cell))).join(", ");

  // State of the page.

  const state = { cell: 0, hidden: new Set(), scale: new Map(), printing: false };
  const darkScheme = window.matchMedia("(prefers-color-scheme: dark)");
  let charts = [];

  function theme() {
    const dark = darkScheme.matches && !state.printing;
    return {
      key: dark ? "dark" : "light",
      ink: dark ? "#e6e9ed" : "#1b1f24",
      muted: dark ? "#a2acb8" : "#59636e",
      grid: dark ? "#2b323b" : "#e6e9ee",
      paper: dark ? "#12151a" : "#ffffff",
    };
  }
  const colourOf = (design) => designLook(design)[theme().key];
  const faded = (colour, alpha) => colour + Math.round(alpha * 255).toString(16).padStart(2, "0");

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

  // Top of the page.

  function drawSubject() {
    const allRounds = cells.flatMap((cell) => cell.series.flatMap((series) => series.rounds));
    const complete = results.finishedAt !== null && results.finishedAt !== undefined;
    const entries = [
      ["QEMU, old → new", [...new Set(cells.map(pairName))].join("; "), true],
      ["Guest RAM", [...new Set(cells.map((cell) => bytes(cell.ramBytes)))].join(", ")],
      ["Rounds", isNumber(settings.rounds) ? `${settings.rounds} for each design and ${cells.length === 1 ? "the one cell" : `each of ${cells.length} cells`}` : `${allRounds.length} in all`],
      ...FACTORS.slice(3).map((factor) => [factor.name, valuesOfFactor(factor).join(", ")]),
      ["Accelerator", text(host.accelerator)],
      ["Host", [isNumber(host.cpus) ? `${host.cpus} CPUs` : "", text(host.cpu), isNumber(host.memoryBytes) ? bytes(host.memoryBytes) : "", host.virtualized === true ? "itself a virtual machine" : ""].filter(Boolean).join(", "), true],
      ["When", `${dateText(results.startedAt)}${complete ? `, took ${durationText(results.startedAt, results.finishedAt)}` : ""}`, true],
    ];
    fill("subject", facts(entries), complete ? null : element("p", { class: "warning", role: "note" },
      element("strong", {}, "Not complete. "), `Rounds are missing: ${plural(allRounds.length, "handover")} measured so far. Figures may still change.`));
  }

  function listed(names) {
    return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
  }

  /** The pairs that answer the question: all against relayed, and who owns the memory. */
  function pairsInShort() {
    const first = designsPresent.includes("relayed") ? "relayed" : designsPresent[0];
    const pairs = designsPresent.filter((design) => design !== first).map((design) => [design, first]);
    if (first === "relayed" && designsPresent.includes("manager-owned") && designsPresent.includes("vmm-owned")) pairs.push(["manager-owned", "vmm-owned"]);
    return pairs;
  }

  /** A pair's ratio in a cell, as design / reference, whichever way round it was made. */
  function ratioOf(cell, metric, design, reference) {
    const straight = cell.ratios.find((ratio) => ratio.metric === metric && ratio.design === design && ratio.reference === reference);
    if (straight) return straight;
    const turned = cell.ratios.find((ratio) => ratio.metric === metric && ratio.design === reference && ratio.reference === design);
    if (!turned) return null;
    const inverse = (value) => (isNumber(value) && value > 0 ? 1 / value : null);
    const verdict = turned.verdict === "smaller" ? "larger" : turned.verdict === "larger" ? "smaller" : turned.verdict;
    return { ...turned, design, reference, median: inverse(turned.median), low: inverse(turned.high), high: inverse(turned.low), verdict };
  }

  const VERDICT_IN_WORDS = {
    smaller: (design, reference) => `${design} paused the guest for a shorter time than ${reference}`,
    larger: (design, reference) => `${design} paused the guest for longer than ${reference}`,
    "no difference shown": (design, reference) => `No difference shown between ${design} and ${reference}`,
    "too few rounds to say": (design, reference) => `Too few rounds to say anything of ${design} against ${reference}`,
    "host too busy to say": (design, reference) => `The host was too busy to say anything of ${design} against ${reference}`,
  };
  const verdictWords = (verdict, design, reference) => (VERDICT_IN_WORDS[verdict] ?? ((a, b) => `No difference shown between ${a} and ${b} (${text(verdict) || "no verdict"})`))(design, reference);

  function claimsOf(metric) {
    const groups = new Map(); // Same reference and same verdicts: one sentence.
    for (const [design, reference] of pairsInShort()) {
      const ratios = cells.map((cell) => ratioOf(cell, metric, design, reference)).filter((ratio) => ratio);
      if (ratios.length === 0) continue;
      const counts = new Map();
      for (const ratio of ratios) counts.set(ratio.verdict, (counts.get(ratio.verdict) ?? 0) + 1);
      // Ratios that are said each need a sentence of their own.
      const key = JSON.stringify([reference, [...counts].sort(), [...counts.keys()].some(isClaim) ? design : ""]);
      if (!groups.has(key)) groups.set(key, { reference, counts, total: ratios.length, designs: [], ratios: [] });
      groups.get(key).designs.push(design);
      groups.get(key).ratios.push(ratios);
    }
    return [...groups.values()].map((group) => {
      const differs = [...group.counts.keys()].some(isClaim);
      const sizes = group.ratios.flat().filter((ratio) => isClaim(ratio.verdict) && isNumber(ratio.median)).map((ratio) => ratio.median);
      let sentence;
      if (group.counts.size === 1) {
        const verdict = [...group.counts.keys()][0];
        const names = listed(group.designs);
        sentence = verdictWords(verdict, verdict === "no difference shown" ? group.reference : names, verdict === "no difference shown" ? names.replace(" and ", " or ") : group.reference);
        if (cells.length > 1) sentence += group.total === cells.length ? `, in ${cells.length === 2 ? "both" : `all ${cells.length}`} cells` : `, in the ${plural(group.total, "cell")} that ${group.total === 1 ? "has" : "have"} both`;
      } else {
        const words = { smaller: "shorter pause", larger: "longer pause" };
        const parts = [...group.counts].sort((a, b) => b[1] - a[1]).map(([verdict, count]) => `${words[verdict] ?? text(verdict)} in ${count}`);
        sentence = `${listed(group.designs)} against ${group.reference}, of ${group.total} cells: ${parts.join(", ")}`;
      }
      if (sizes.length) {
        const [least, most] = [Math.min(...sizes), Math.max(...sizes)].map(significant);
        sentence += ` (${least === most ? least : `${least} to ${most}`} times as long${group.counts.size > 1 ? " where it differs" : ""}; medians of paired rounds)`;
      }
      return element("li", { class: differs ? "differs" : null }, `${sentence}.`);
    });
  }

  function mediansByCell(pause) {
    const metric = metricNamed.get(pause.metric);
    const rows = cells.map((cell) => [
      cellName(cell),
      ...designsPresent.map((design) => {
        const series = cell.series.find((one) => one.design === design);
        const summary = series ? metricOf(series, pause.metric) : {};
        if (!isNumber(summary.median)) return series?.notRun ? element("span", { class: "small" }, "not run") : DASH;
        return [ms(summary.median), element("span", { class: "small" }, intervalText({ ...metric, unit: "" }, summary))];
      }),
    ]);
    return table(`${pause.short}: median in milliseconds, and under it the 95 % interval of the median`,
      [{ title: "Cell", head: true }, ...designsPresent.map((design) => ({ title: designLabel(design), number: true }))], rows);
  }

  function guestDataWords() {
    const rounds = cells.flatMap((cell) => cell.series.flatMap((series) => series.rounds));
    const upgraded = rounds.filter((round) => round.outcome === "upgraded");
    const lost = rounds.filter((round) => round.outcome === "lost").length;
    const checked = upgraded.filter((round) => typeof record(round.patterns).intact === "boolean");
    const damaged = checked.filter((round) => round.patterns.intact === false).length;
    const nodes = [];
    if (damaged) nodes.push(element("p", { class: "warning" }, element("strong", {}, "Guest data was damaged "), `in ${plural(damaged, "handover")} of ${checked.length} that were checked; see below.`));
    if (lost) nodes.push(element("p", { class: "warning" }, element("strong", {}, "The guest was lost "), `in ${plural(lost, "handover")} of ${rounds.length}; see below.`));
    if (rounds.length) {
      const words = [`${upgraded.length} of ${plural(rounds.length, "handover")} ended with the guest running on the new VMM.`];
      if (checked.length && !damaged) words.push(`In all ${checked.length} that could be checked, no memory page, disk block or heartbeat of the guest was wrong afterwards.`);
      const out = rounds.filter((round) => round.outcome === "upgraded" && round.disturbed === true).length;
      if (out) words.push(`${out} are left out of all statistics, since the host was disturbed meanwhile.`);
      nodes.push(element("p", {}, words.join(" ")));
    }
    return nodes;
  }

  function drawVerdict() {
    const withFigures = cells.filter((cell) => cell.series.some((series) => PAUSES.some((pause) => isNumber(metricOf(series, pause.metric).median))));
    if (withFigures.length === 0) {
      fill("verdict-body", element("p", { class: "headline" }, "There is no handover yet that could be counted, so nothing can be said of any difference between the designs."), guestDataWords());
      return;
    }
    const first = withFigures[0];
    const measured = first.series.filter((series) => PAUSES.some((pause) => isNumber(metricOf(series, pause.metric).median)));
    const [stop, beats] = PAUSES.map((pause) => metricOf(measured[0], pause.metric).median);
    const parts = [isNumber(stop) ? `QEMU had the guest stopped for ${ms(stop)}` : "", isNumber(beats) ? `the guest's heartbeat was away for ${ms(beats)}` : ""].filter(Boolean);
    const pauseRow = (pause) => [pause.short, ...measured.map((series) => {
      const summary = metricOf(series, pause.metric);
      return isNumber(summary.median) ? [ms(summary.median), element("span", { class: "small" }, intervalText({ ...metricNamed.get(pause.metric), unit: "" }, summary))] : DASH;
    })];
    fill("verdict-body",
      element("p", { class: "headline" }, element("strong", {}, `${cellName(first)}: `), `with ${measured[0].design}, ${parts.join(", and ")} (medians of ${plural(measured[0].summary.rounds ?? 0, "handover")}).`),
      table(`Pause in ${cellName(first)}: median, and under it the 95 % interval of the median`, [{ title: "", head: true }, ...measured.map((series) => ({ title: designLabel(series.design), number: true }))], PAUSES.map(pauseRow)),
      PAUSES.map((pause) => {
        const claims = claimsOf(pause.metric);
        return claims.length ? [element("h3", {}, `Do they differ? ${pause.title}`), element("ul", { class: "claims" }, claims)] : [];
      }),
      element("p", { class: "quiet" }, "“No difference shown” does not say that there is none: only that these rounds do not show one. Milliseconds belong to this host; compare designs, and ratios."),
      guestDataWords(),
      list(results.notes).length ? element("ul", { class: "quiet" }, list(results.notes).slice(0, NOTES_AT_TOP).map((note) => element("li", {}, shortened(text(note), 300)))) : null,
      cells.length > 1 ? details("medians", `The same for all ${cells.length} cells`, PAUSES.map(mediansByCell)) : null);
  }

  function drawDesigns() {
    const rows = DESIGN_TABLE.map(([design, ...columns]) => [
      [designLabel(design), designsPresent.includes(design) ? null : element("span", { class: "small" }, "not in this run")],
      ...columns,
    ]);
    fill("designs-body",
      table("Six ways to put a new VMM under a running guest",
        ["Design", "Who makes guest RAM", "How firmware, ROM and video memory travel", "Who can check", "Way back after a failure", "Passed-through devices (vfio)", "QEMU needed"].map((title, index) => ({ title, head: index === 0 })), rows, "designs"),
      element("p", { class: "quiet" }, "CPR (checkpoint and restart) is QEMU's own mechanism for handing memory files and descriptors to another QEMU. The column on vfio says what a design can do; no guest here has such a device."));
  }

  // Charts. Each is described by what Chart.js takes; what is common to all is put in here.

  function newChart(canvas, config) {
    const colours = theme();
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    Chart.defaults.font.size = 12;
    Chart.defaults.color = colours.muted;
    Chart.defaults.borderColor = colours.grid;
    const tooltip = {
      backgroundColor: colours.ink, titleColor: colours.paper, bodyColor: colours.paper, displayColors: false, padding: 8,
      ...config.options.plugins?.tooltip,
    };
    charts.push(new Chart(canvas, {
      ...config,
      options: {
        responsive: true, maintainAspectRatio: false, animation: false, ...config.options,
        plugins: { ...config.options.plugins, tooltip, legend: { display: false, ...config.options.plugins?.legend } },
      },
    }));
  }

  const axisTitle = (title) => ({ display: true, text: title, color: theme().ink, font: { size: 12 } });

  const LEGEND = { display: true, position: "bottom", align: "start", labels: { usePointStyle: true, boxHeight: 7, padding: 14 } };

  /** A logarithmic axis whose marks are round figures, as many as there is room for. */
  function logarithmicTicks(scale) {
    const room = (scale.isHorizontal() ? scale.width || scale.chart.width * 0.7 : scale.height || scale.chart.height) / (scale.isHorizontal() ? 52 : 26);
    const sets = [[1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8], [1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]];
    let ticks = [];
    for (const set of sets) {
      ticks = [];
      for (let power = Math.floor(Math.log10(scale.min)); power <= Math.ceil(Math.log10(scale.max)); ++power)
        for (const step of set) {
          const value = Number((step * 10 ** power).toPrecision(6));
          if (value >= scale.min && value <= scale.max) ticks.push({ value });
        }
      if (ticks.length <= room) break;
    }
    scale.ticks = ticks;
  }

  function valueAxis(title, values, logarithmic) {
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const ticks = { color: theme().muted, callback: (value) => plain(Number(value)) };
    if (!logarithmic) return { type: "linear", beginAtZero: true, grace: "4%", title: axisTitle(title), ticks: { ...ticks, maxTicksLimit: 7 }, grid: { color: theme().grid } };
    // Down to a round figure, so that the smallest values have one below them.
    const power = 10 ** Math.floor(Math.log10(least / 1.05));
    const from = [5, 2, 1].find((step) => step * power <= least / 1.05) * power;
    return {
      type: "logarithmic", min: from, max: most * 1.15, title: axisTitle(`${title}, logarithmic scale`), afterBuildTicks: logarithmicTicks,
      ticks: { ...ticks, autoSkip: false, maxRotation: 0 }, grid: { color: theme().grid },
    };
  }

  /** Whether an axis is logarithmic: as the reader says, or else by how far the values are apart. */
  function scaleOf(key, values) {
    const possible = values.length > 0 && Math.min(...values) > 0;
    const spread = possible ? Math.max(...values) / Math.min(...values) : 1;
    const wide = spread > WIDE_SPREAD;
    return { key, possible, spread, logarithmic: possible && (state.scale.get(key) ?? wide) };
  }

  function scaleSwitch(scale, redraw) {
    if (!scale.possible || scale.spread < 3) return null;
    const input = element("input", { type: "checkbox" });
    input.checked = scale.logarithmic;
    input.addEventListener("change", () => {
      state.scale.set(scale.key, input.checked);
      redraw();
    });
    return element("label", { class: "scale" }, input, element("span", {}, `Logarithmic scale: equal steps are equal ratios (largest / smallest: ${plain(scale.spread)})`));
  }

  /**
   * A figure with a chart that can be drawn again without touching the rest of the page.
   * `draw(canvas)` returns `{scale, label}`, or a text that says why there is no chart; it sets the height of `canvas.parentNode`.
   */
  function figure({ key, title, read, draw, after }) {
    const holder = element("div", {});
    const node = element("figure", { "data-chart": key }, element("figcaption", {}, element("h3", {}, title), element("p", { class: "read" }, read)), holder, after ?? null);
    const redraw = () => {
      charts = charts.filter((chart) => {
        if (!node.contains(chart.canvas)) return true;
        chart.destroy();
        return false;
      });
      const canvas = element("canvas", { role: "img" });
      const box = element("div", { class: "canvas" }, canvas);
      holder.replaceChildren(box);
      const drawn = draw(canvas, box);
      if (typeof drawn === "string") {
        holder.replaceChildren(element("p", { class: "none" }, drawn));
        return;
      }
      canvas.setAttribute("aria-label", `${title}. ${drawn.label ?? ""} The figures are in the table below.`);
      const control = drawn.scale ? scaleSwitch(drawn.scale, () => {
        redraw();
        holder.querySelector("input")?.focus();
      }) : null;
      if (control) holder.append(control);
    };
    return { node, redraw };
  }

  const shownSeries = (cell) => cell.series.filter((series) => !state.hidden.has(series.design));

  function designAxis(labels) {
    return {
      type: "linear", min: -0.5, max: labels.length - 0.5, reverse: true, grid: { display: false },
      afterBuildTicks: (scale) => { scale.ticks = labels.map((_, index) => ({ value: index })); },
      ticks: { color: theme().ink, autoSkip: false, callback: (_, index) => labels[index] ?? "" },
    };
  }

  const missingWords = (cell, metricName) =>
    shownSeries(cell).filter((series) => !isNumber(metricOf(series, metricName).median)).map((series) =>
      `${series.design}: ${series.notRun ? `not run (${shortened(series.notRun, 200)})` : series.rounds.length ? "no round that counts has this figure" : "no round yet"}`);

  function statisticsTable(cell, metricName, more = []) {
    const metric = metricNamed.get(metricName);
    const rows = shownSeries(cell).map((series) => {
      const summary = metricOf(series, metricName);
      return [designLabel(series.design), text(summary.count ?? 0), valueText(metric, summary.median), intervalText(metric, summary), valueText(metric, summary.min), valueText(metric, summary.max), valueText(metric, summary.p99), ...more.map((column) => column.of(series))];
    });
    const missing = missingWords(cell, metricName);
    return [table(`${metric.title}, ${cellName(cell)}`, [{ title: "Design", head: true }, ...["Values", "Median", "95 % interval", "Smallest", "Largest", "p99", ...more.map((column) => column.title)].map((title) => ({ title, number: true }))], rows),
      missing.length ? element("ul", { class: "quiet" }, missing.map((words) => element("li", {}, words))) : null];
  }

  /** Every round as a point, by design; over them the median, its interval, and p99 where there is one. */
  function roundsFigure(cell, key, metricName, title, read, axis, more) {
    const metric = metricNamed.get(metricName);
    return figure({
      key, title, read: read + " Each point is a handover, the tall tick the median. Further left is better.",
      after: details(`${key}-table`, "The figures", statisticsTable(cell, metricName, more)),
      draw: (canvas, box) => {
        const colours = theme();
        const rows = shownSeries(cell).map((series) => ({
          series, summary: metricOf(series, metricName),
          points: series.rounds.filter((round) => round.outcome === "upgraded" && at(round, metric.pointer) !== null),
        })).filter((row) => row.points.length);
        if (rows.length === 0) return "No handover in this cell has this figure.";
        const values = rows.flatMap((row) => row.points.map((round) => at(round, metric.pointer)));
        const scale = scaleOf(key, values);
        box.style.height = `${rows.length * 50 + 66}px`;
        const radius = Math.max(...rows.map((row) => row.points.length)) > 50 ? 2.5 : 3.5;
        const datasets = [];
        rows.forEach(({ series, summary, points }, index) => {
          const colour = colourOf(series.design), look = designLook(series.design);
          const cloud = (rounds, disturbed) => ({
            kind: "round", data: rounds.map((round, position) => ({
              x: at(round, metric.pointer),
              // Spread evenly, and the same at each drawing.
              y: index + ((((isNumber(round.round) ? round.round : position) * 0.618 + (isNumber(round.vm) ? round.vm : 0) * 0.37) % 1) - 0.5) * 0.52,
              label: `${series.design}, round ${text(round.round)}${cell.vms > 1 ? `, VM ${text(round.vm)}` : ""}: ${valueText(metric, at(round, metric.pointer))}${disturbed ? " (disturbed)" : ""}`,
            })),
            pointStyle: look.shape, radius, hoverRadius: radius + 2, order: 3, borderWidth: disturbed || look.shape === "crossRot" || look.shape === "star" ? 1.3 : 0.8,
            borderColor: faded(colour, 0.9), backgroundColor: disturbed ? "transparent" : faded(colour, 0.42),
          });
          datasets.push(cloud(points.filter(enters), false), cloud(points.filter((round) => !enters(round)), true));
          const tick = (value, length, width) => ({ data: [{ x: value, y: index }], pointStyle: "line", rotation: 90, radius: length, hoverRadius: length, borderWidth: width, hoverBorderWidth: width, borderColor: colours.ink, order: 1 });
          if (isNumber(summary.low) && isNumber(summary.high))
            datasets.push({ data: [{ x: summary.low, y: index }, { x: summary.high, y: index }], showLine: true, radius: 0, hoverRadius: 0, borderWidth: 5, borderColor: faded(colours.ink, 0.45), order: 2 });
          if (isNumber(summary.median)) datasets.push(tick(summary.median, 17, 3));
          if (isNumber(summary.p99)) datasets.push(tick(summary.p99, 9, 2));
        });
        const labels = rows.map(({ series, summary }) => [shortened(series.design, 20), isNumber(summary.median) ? valueText(metric, summary.median) : "not counted"]);
        newChart(canvas, {
          type: "scatter", data: { datasets },
          options: {
            scales: { x: valueAxis(axis, values, scale.logarithmic), y: designAxis(labels) },
            plugins: { tooltip: { filter: (item) => item.dataset.kind === "round", callbacks: { label: (item) => item.raw.label } } },
          },
        });
        return { scale, label: rows.map(({ series, summary }) => `${series.design}: median ${valueText(metric, summary.median)}`).join("; ") + "." };
      },
    });
  }

  function phasesFigure(cell) {
    return figure({
      key: "phases", title: "Where the time of a handover goes",
      read: "Each bar is one design's handover, from the command to the old VMM's end; each part is the median of a phase. The guest runs on during the blue parts; “pause” is switching and proving, and confirming ends it. What copy sends while the guest still runs is in “exchange”. Parts are medians, so their sum need not be the median of the whole.",
      after: details("phases-table", "The figures", table(`Median of each phase in milliseconds, ${cellName(cell)}`,
        [{ title: "Design", head: true }, ...PHASES.map((phase) => ({ title: phase.name, number: true })), { title: "whole handover", number: true }],
        shownSeries(cell).map((series) => [designLabel(series.design), ...PHASES.map((phase) => plain(metricOf(series, phase.metric).median)), plain(metricOf(series, "totalMs").median)]))),
      draw: (canvas, box) => {
        const colours = theme();
        const rows = shownSeries(cell).filter((series) => PHASES.some((phase) => isNumber(metricOf(series, phase.metric).median)));
        if (rows.length === 0) return "No handover in this cell has this figure.";
        const sums = rows.map((series) => PHASES.reduce((sum, phase) => sum + (metricOf(series, phase.metric).median ?? 0), 0));
        box.style.height = `${rows.length * 46 + 130}px`;
        newChart(canvas, {
          type: "bar",
          data: {
            labels: rows.map((series, index) => [shortened(series.design, 20), `sum ${ms(sums[index])}`]),
            datasets: PHASES.map((phase) => ({ label: phase.name, data: rows.map((series) => metricOf(series, phase.metric).median ?? null), backgroundColor: phase[colours.key], borderColor: colours.paper, borderWidth: { right: 0.5 }, barPercentage: 0.72 })),
          },
          options: {
            indexAxis: "y",
            scales: {
              x: { stacked: true, title: axisTitle("time (ms)"), ticks: { maxTicksLimit: 7, maxRotation: 0, callback: (value) => plain(Number(value)) }, grid: { color: colours.grid } },
              y: { stacked: true, grid: { display: false }, ticks: { color: colours.ink } },
            },
            plugins: {
              legend: { ...LEGEND, labels: { boxWidth: 12, boxHeight: 12, padding: 12 } },
              tooltip: { callbacks: { title: (items) => rows[items[0].dataIndex].design, label: (item) => `${item.dataset.label}: ${ms(item.raw)}` } },
            },
          },
        });
        return { label: rows.map((series, index) => `${series.design}: ${ms(sums[index])}`).join("; ") + "." };
      },
    });
  }

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

  function brownOutFigure(cell) {
    const curves = new Map(shownSeries(cell).map((series) => [series.design, brownOutCurve(series)]));
    const notBack = (series) => {
      const rounds = series.rounds.filter(enters).filter((round) => round.writeRate);
      return rounds.length ? `${rounds.filter((round) => at(round, "/writeRate/brownOutMs") === null).length} of ${rounds.length}` : DASH;
    };
    const times = [...new Set([...curves.values()].flatMap((curve) => curve.map((bin) => bin.x)))].sort((a, b) => a - b);
    return figure({
      key: "brownout", title: "How fast the guest is back at speed",
      read: "The guest writes memory all the time. The curve is its rate in percent of the rate before (median over rounds); time 0 is its first heartbeat on the new VMM. A dip after 0 is the brown-out: the guest runs, but not yet at full speed. Sooner back at 100 % is better.",
      after: details("brownout-table", "The figures", statisticsTable(cell, "brownOutMs", [{ title: "Not back in the window", of: notBack }]),
        times.length ? details("brownout-curve", "The curve", table(`Write rate, percent of before (median over rounds), ${cellName(cell)}`,
          [{ title: "Time (ms)", number: true }, ...[...curves.keys()].map((design) => ({ title: designLabel(design), number: true }))],
          times.map((time) => [plain(time), ...[...curves.values()].map((curve) => plain(curve.find((bin) => bin.x === time)?.y))]))) : null),
      draw: (canvas, box) => {
        const colours = theme();
        const drawn = [...curves].filter(([, curve]) => curve.length);
        if (drawn.length === 0) return cell.load === "memory" ? "No handover in this cell has this figure." : `The guest of this cell does not write memory all the time (its load is ${text(cell.load) || "not said"}).`;
        box.style.height = "360px";
        const line = (points) => ({ data: points, radius: 0, hoverRadius: 0, borderColor: faded(colours.muted, 0.8), borderWidth: 1, borderDash: [4, 4], order: 2, kind: "guide" });
        const half = times.length > 1 ? (times[1] - times[0]) / 2 : 0;
        const [from, to] = [times[0] - half, times.at(-1) + half];
        // A rate of more than twice that before is a guest that was slow before, and says nothing of the handover.
        const most = Math.min(200, Math.max(110, ...drawn.flatMap(([, curve]) => curve.map((bin) => bin.y))));
        const datasets = drawn.map(([design, curve]) => ({
          label: design, data: curve, borderColor: colourOf(design), backgroundColor: faded(colourOf(design), 0.5), borderWidth: 2, tension: 0,
          pointStyle: designLook(design).shape, radius: (context) => (context.dataIndex % Math.max(1, Math.ceil(curve.length / 16)) ? 0 : 3.5), order: 1,
        }));
        newChart(canvas, {
          type: "line", data: { datasets: [...datasets, line([{ x: from, y: 100 }, { x: to, y: 100 }]), line([{ x: 0, y: 0 }, { x: 0, y: most }])] },
          options: {
            interaction: { mode: "nearest", axis: "x", intersect: false },
            scales: {
              x: { type: "linear", min: from, max: to, title: axisTitle("time since the first heartbeat on the new VMM (ms)"), ticks: { maxTicksLimit: 8, maxRotation: 0, callback: (value) => plain(Number(value)) }, grid: { color: colours.grid } },
              y: { min: 0, max: Math.ceil(most / 10) * 10, title: axisTitle("memory writes (% of before)"), ticks: { maxTicksLimit: 7 }, grid: { color: colours.grid } },
            },
            plugins: {
              legend: { ...LEGEND, labels: { ...LEGEND.labels, filter: (item) => item.text !== undefined } },
              tooltip: { filter: (item) => item.dataset.kind !== "guide", callbacks: { title: (items) => (items.length ? `${plain(items[0].raw.x)} ms` : ""), label: (item) => `${item.dataset.label}: ${plain(item.raw.y)} % (${plural(item.raw.count, "round")})` } },
            },
          },
        });
        return { label: drawn.map(([design]) => `${design}: brown-out ${ms(metricOf(cell.series.find((series) => series.design === design), "brownOutMs").median)}`).join("; ") + "." };
      },
    });
  }

  function memoryFigure(cell) {
    const rows = shownSeries(cell).filter((series) => isNumber(series.inspection?.extraMemoryBytes));
    return figure({
      key: "memory", title: "Extra memory while both VMMs run",
      read: "How much more memory both processes have together at their most than the old one had before (proportional set size, and every memory file once), looked at in one handover of its own. Shorter is better.",
      after: details("memory-table", "The figures", table(`Proportional set size, ${cellName(cell)}`,
        [{ title: "Design", head: true }, { title: "Old before", number: true }, { title: "Both at their most", number: true }, { title: "Extra", number: true }],
        shownSeries(cell).map((series) => [designLabel(series.design), bytes(series.inspection?.memoryOldBytes), bytes(series.inspection?.memoryBothBytes), bytes(series.inspection?.extraMemoryBytes)]))),
      draw: (canvas, box) => {
        const colours = theme();
        if (rows.length === 0) return "No design was inspected in this cell.";
        box.style.height = `${rows.length * 46 + 60}px`;
        newChart(canvas, {
          type: "bar",
          data: {
            labels: rows.map((series) => [shortened(series.design, 20), bytes(series.inspection.extraMemoryBytes)]),
            datasets: [{ data: rows.map((series) => series.inspection.extraMemoryBytes / 2 ** 20), backgroundColor: rows.map((series) => colourOf(series.design)), barPercentage: 0.6 }],
          },
          options: {
            indexAxis: "y",
            scales: { x: { beginAtZero: true, title: axisTitle("extra memory (MiB)"), ticks: { maxTicksLimit: 7, maxRotation: 0, callback: (value) => plain(Number(value)) }, grid: { color: colours.grid } }, y: { grid: { display: false }, ticks: { color: colours.ink } } },
            plugins: { tooltip: { callbacks: { title: (items) => rows[items[0].dataIndex].design, label: (item) => bytes(rows[item.dataIndex].inspection.extraMemoryBytes) } } },
          },
        });
        return { label: rows.map((series) => `${series.design}: ${bytes(series.inspection.extraMemoryBytes)}`).join("; ") + "." };
      },
    });
  }

  /** Cells that differ from `cell` in nothing but RAM, and at most in the pair. */
  function likeCell(cell, other) {
    const key = (one) => JSON.stringify([one.load, one.vcpus, list(one.devices), one.vms, one.pageSizeBytes]);
    return key(cell) === key(other);
  }

  function ramFigures(cell, pause) {
    const metric = metricNamed.get(pause.metric);
    const pairs = new Map();
    for (const other of cells.filter((one) => likeCell(cell, one) && isNumber(one.ramBytes) && one.ramBytes > 0)) {
      const name = pairName(other);
      if (!pairs.has(name)) pairs.set(name, []);
      pairs.get(name).push(other);
    }
    return [...pairs].filter(([, group]) => new Set(group.map((one) => one.ramBytes)).size > 1).map(([pair, group], pairIndex) => {
      const key = `ram-${pause.metric}-${pairIndex}`;
      // Of cells with the same RAM size the one that is most like the chosen one.
      const share = (one) => (one.touchedBytes ?? 0) / one.ramBytes;
      const bySize = [...new Set(group.map((one) => one.ramBytes))].sort((a, b) => a - b).map((size) =>
        group.filter((one) => one.ramBytes === size).sort((a, b) => Math.abs(share(a) - share(cell)) - Math.abs(share(b) - share(cell)))[0]);
      const lines = designsPresent.filter((design) => !state.hidden.has(design)).map((design) => ({
        design,
        points: bySize.map((one) => ({ x: one.ramBytes, ...metricOf(one.series.find((series) => series.design === design) ?? { summary: {} }, pause.metric) })).filter((point) => isNumber(point.median)),
      })).filter((line) => line.points.length);
      return figure({
        key, title: `${pause.short[0].toUpperCase()}${pause.short.slice(1)} against guest RAM, ${pair}`,
        read: "Points are medians, bars their 95 % intervals, drawn side by side to be told apart. A flat line: the pause does not depend on RAM. Lower is better.",
        after: details(`${key}-table`, "The figures", table(`${metric.title} by guest RAM, ${pair}: median and 95 % interval`,
          [{ title: "Guest RAM", head: true }, ...lines.map((line) => ({ title: designLabel(line.design), number: true }))],
          bySize.map((one) => [[bytes(one.ramBytes), element("span", { class: "small" }, `${bytes(one.touchedBytes)} touched`)], ...lines.map((line) => {
            const point = line.points.find((candidate) => candidate.x === one.ramBytes);
            return point ? [ms(point.median), element("span", { class: "small" }, intervalText({ ...metric, unit: "" }, point))] : DASH;
          })]))),
        draw: (canvas, box) => {
          const colours = theme();
          if (lines.length === 0) return "No handover has this figure.";
          const values = lines.flatMap((line) => line.points.flatMap((point) => [point.median, point.low, point.high])).filter(isNumber);
          const scale = scaleOf(key, values);
          box.style.height = "370px";
          const sizes = bySize.map((one) => one.ramBytes);
          const step = (1.69 * sizes.at(-1) / sizes[0]) ** 0.021; // Some 7 pixels, whatever the range of sizes.
          const aside = (x, index) => x * step ** (index - (lines.length - 1) / 2);
          const datasets = [];
          lines.forEach(({ design, points }, index) => {
            const colour = colourOf(design);
            datasets.push({ label: design, data: points.map((point) => ({ x: aside(point.x, index), y: point.median, point })), borderColor: colour, backgroundColor: faded(colour, 0.6), borderWidth: 2, pointStyle: designLook(design).shape, radius: 5, hoverRadius: 7, order: 1, kind: "medians" });
            for (const point of points.filter((one) => isNumber(one.low) && isNumber(one.high)))
              datasets.push({ data: [{ x: aside(point.x, index), y: point.low }, { x: aside(point.x, index), y: point.high }], borderColor: faded(colour, 0.75), borderWidth: 2, pointStyle: "line", radius: 4, hoverRadius: 4, order: 2 });
          });
          newChart(canvas, {
            type: "line", data: { datasets },
            options: {
              scales: {
                x: {
                  type: "logarithmic", min: sizes[0] / 1.3, max: sizes.at(-1) * 1.3, title: axisTitle("guest RAM"), grid: { color: colours.grid },
                  afterBuildTicks: (axis) => { axis.ticks = sizes.map((value) => ({ value })); },
                  ticks: { autoSkip: false, maxRotation: 0, callback: (value) => bytes(Number(value)), color: colours.ink },
                },
                y: valueAxis("median pause (ms)", values, scale.logarithmic),
              },
              plugins: {
                legend: { ...LEGEND, labels: { ...LEGEND.labels, filter: (item) => item.text !== undefined } },
                tooltip: {
                  filter: (item) => item.dataset.kind === "medians",
                  callbacks: { title: () => "", label: (item) => `${item.dataset.label}, ${bytes(item.raw.point.x)}: ${ms(item.raw.point.median)} (95 %: ${intervalText({ ...metric, unit: "ms" }, item.raw.point)})` },
                },
              },
            },
          });
          return { scale, label: lines.map((line) => `${line.design}: ${line.points.map((point) => `${bytes(point.x)} ${ms(point.median)}`).join(", ")}`).join("; ") + "." };
        },
      });
    });
  }

  // Tables of a cell.

  function ratiosTable(cell) {
    const shown = cell.ratios.filter((ratio) => !state.hidden.has(ratio.design) && !state.hidden.has(ratio.reference));
    if (shown.length === 0) return element("p", { class: "quiet" }, "There are no two designs in this cell with rounds in common.");
    const rows = (metric) => shown.filter((ratio) => ratio.metric === metric).sort((a, b) => designRank(a.reference) - designRank(b.reference) || designRank(a.design) - designRank(b.design)).map((ratio) => {
      const verdict = isClaim(ratio.verdict) ? element("strong", {}, `${ratio.verdict} with ${shortened(text(ratio.design), 40)}`) : text(ratio.verdict) || DASH;
      return [[designLabel(text(ratio.design)), " / ", designLabel(text(ratio.reference))], text(ratio.count ?? 0), significant(ratio.median),
        isNumber(ratio.low) && isNumber(ratio.high) ? `${significant(ratio.low)} ${DASH} ${significant(ratio.high)}` : DASH, verdict];
    });
    const ofMetric = (metric) => table(`${metricNamed.get(metric)?.title ?? text(metric)}: ratios of paired rounds, ${cellName(cell)}`,
      [{ title: "Designs" }, { title: "Pairs", number: true }, { title: "Ratio, median", number: true }, { title: "95 % interval", number: true }, { title: "Verdict" }], rows(metric));
    const pauses = PAUSES.map((pause) => pause.metric);
    const present = [...new Set(shown.map((ratio) => ratio.metric))];
    const others = present.filter((metric) => !pauses.includes(metric));
    return [pauses.filter((metric) => present.includes(metric)).map(ofMetric),
      others.length ? details("ratios", `Ratios of other figures: ${listed(others.map((metric) => metricNamed.get(metric)?.title ?? text(metric)))}`, others.map(ofMetric)) : null];
  }

  function countBy(values, of) {
    const counts = new Map();
    for (const value of values) counts.set(of(value), (counts.get(of(value)) ?? 0) + 1);
    return [...counts];
  }

  function inspectionTables(cell) {
    const inspected = shownSeries(cell).filter((series) => series.inspection);
    if (inspected.length === 0) return element("p", { class: "quiet" }, "No design was inspected in this cell.");
    const classes = [...new Set(inspected.flatMap((series) => Object.keys(record(series.inspection.ioctls))))];
    const rows = inspected.map((series) => {
      const descriptors = list(series.inspection.descriptors).map(record);
      const kinds = countBy(descriptors, (one) => `${text(one.createdBy) || "?"}${one.passedBy ? `, passed: ${text(one.passedBy)}` : ""}`);
      const ioctls = series.inspection.ioctls ? record(series.inspection.ioctls) : null;
      return [designLabel(series.design), text(descriptors.length), kinds.length ? element("ul", {}, kinds.map(([kind, count]) => element("li", {}, `${count} made by ${kind}`))) : DASH,
        text(series.inspection.memfds) || DASH, ...classes.map((one) => text(ioctls?.[one]) || DASH), text(series.inspection.untraced) || (ioctls ? "traced" : DASH)];
    });
    return [
      table(`Descriptors, memory files and system calls of the new VMM, ${cellName(cell)}`,
        [{ title: "Design", head: true }, { title: "Descriptors", number: true }, { title: "Made by, and how passed" }, { title: "Memory files it made itself", number: true }, ...classes.map((one) => ({ title: `ioctl: ${shortened(one, 30)}`, number: true })), { title: "Trace" }], rows),
      details("descriptors", "Every descriptor by name", inspected.map((series) =>
        table(`${series.design}: descriptors of the new VMM`, [{ title: "Name" }, { title: "Created by" }, { title: "Passed by" }],
          list(series.inspection.descriptors).map(record).map((one) => [element("code", {}, text(one.name)), text(one.createdBy), text(one.passedBy) || "made by itself"])))),
    ];
  }

  // The middle of the page: one cell, and what spans cells.

  let figures = [];

  function drawCell() {
    charts.forEach((chart) => chart.destroy());
    charts = [];
    const cell = cells[state.cell];
    if (!cell) {
      fill("cell", element("p", { class: "quiet" }, "The results have no cell."));
      fill("across");
      return;
    }
    const pauseFigures = PAUSES.map((pause) => roundsFigure(cell, pause.metric, pause.metric, pause.title, pause.what, "pause (ms)"));
    const ram = PAUSES.map((pause) => ramFigures(cell, pause));
    const phases = phasesFigure(cell), brownOut = brownOutFigure(cell), memory = memoryFigure(cell);
    const lostWords = (series) => {
      const rounds = series.rounds.filter(enters).map((round) => record(round.network));
      const [lost, sent] = ["lost", "sent"].map((what) => rounds.reduce((sum, network) => sum + (isNumber(network[what]) ? network[what] : 0), 0));
      return sent ? `${plain(lost)} of ${plain(sent)}` : DASH;
    };
    const network = roundsFigure(cell, "networkGapMs", "networkGapMs", "Longest gap in the network", "The host sends the guest echo requests all the time; this is the longest time between two answers around the handover.", "longest gap (ms)",
      [{ title: "Requests lost in a round, median", of: (series) => plain(metricOf(series, "networkLost").median) }, { title: "Lost of sent, all rounds", of: lostWords }]);
    figures = [...pauseFigures, ...ram.flat(), phases, brownOut, memory, network];
    const heading = (words) => element("h3", {}, words);
    fill("cell",
      element("p", { class: "quiet", role: "status" }, `Shown: ${cellName(cell)}. ${text(cell.title) && text(cell.title) !== cell.id ? `${text(cell.title)}. ` : ""}${bytes(cell.touchedBytes)} of the guest's RAM were filled before; load: ${text(cell.load) || "?"}; devices: ${devicesName(cell)}; ${plural(cell.vcpus ?? "?", "virtual CPU")}; ${bytes(cell.pageSizeBytes)} pages.`),
      heading("How long the guest pauses"),
      element("p", {}, "Two different things, never mixed here: what QEMU reports, and what the guest shows, which also has in it how long the guest needs on the new VMM until it beats again. In charts of points, the bar through the tall tick is the median's 95 % interval, a short tick the 99th percentile (from 100 values on), and a hollow point a disturbed round, which does not count."),
      element("div", { class: "charts" }, pauseFigures.map((one) => one.node)),
      heading("Does the pause grow with the guest's RAM?"),
      ram.flat().length ? ram.map((group) => element("div", { class: "charts" }, group.map((one) => one.node))) : element("p", { class: "quiet" }, "Cells like this one were measured with one size of RAM only, so there is nothing to draw."),
      heading("What a handover is made of, and what comes after"),
      element("div", { class: "charts single" }, phases.node, brownOut.node),
      element("div", { class: "charts" }, memory.node, network.node));
    fill("across",
      heading("Ratios between designs"),
      element("p", {}, "Each round runs every design once, so rounds are compared in pairs: a ratio of 2 says that the first design took twice as long as the second in the middle round. A verdict needs the whole 95 % interval on one side of 1."),
      ratiosTable(cell),
      heading("What each design hands over"),
      element("p", {}, "Looked at once for each design, in a handover that is not among the rounds: every open descriptor of the new VMM, who made it and how it got there; and from a trace of system calls, what the new VMM set up itself."),
      inspectionTables(cell));
    figures.forEach((one) => one.redraw());
  }

  function drawControls() {
    const parts = [];
    if (cells.length > 1) {
      const select = element("select", { id: "cell-select", autocomplete: "off" }, cells.map((cell, index) => element("option", { value: String(index) }, shortened(cellName(cell), 120))));
      select.value = String(state.cell);
      select.addEventListener("change", () => {
        state.cell = Number(select.value);
        drawCell();
      });
      parts.push(element("label", { class: "cell" }, "Cell: one combination of what was varied", select));
    }
    const chips = designsPresent.map((design) => {
      const input = element("input", { type: "checkbox", autocomplete: "off" });
      input.checked = !state.hidden.has(design);
      input.addEventListener("change", () => {
        if (input.checked) state.hidden.delete(design);
        else state.hidden.add(design);
        drawCell();
      });
      const chip = element("label", { class: "chip" }, input, mark(design), element("span", {}, `${shortened(design, 40)}${BASELINES.includes(design) ? " (baseline)" : ""}`));
      chip.style.setProperty("--mark", colourOf(design));
      return chip;
    });
    parts.push(element("fieldset", {}, element("legend", {}, "Designs shown in charts and tables"), element("div", { class: "chips" }, chips)));
    const form = document.getElementById("controls");
    form.addEventListener("submit", (event) => event.preventDefault());
    form.replaceChildren(...parts);
  }

  // The end of the page.

  function drawReliability() {
    const groups = new Map();
    for (const cell of cells)
      for (const series of cell.series)
        for (const round of series.rounds) {
          const damaged = record(round.patterns).intact === false;
          if (enters(round) && !damaged) continue;
          const what = round.outcome !== "upgraded" ? text(round.outcome) || "no outcome" : damaged ? "guest data damaged" : "disturbed";
          const cause = text(round.cause) || (damaged ? `${plain(record(round.patterns).mismatches)} mismatches` : round.disturbed === true ? "the hypervisor of this host took CPU time away" : "no cause given");
          const key = JSON.stringify([cell.id, series.design, what, cause]);
          if (!groups.has(key)) groups.set(key, { cell, design: series.design, what, cause, rounds: [], steal: [] });
          groups.get(key).rounds.push(`${text(round.round) || "?"}${cell.vms > 1 ? ` (VM ${text(round.vm)})` : ""}`);
          groups.get(key).steal.push(round.stealPercent);
        }
    const order = ["lost", "guest data damaged"];
    const rows = [...groups.values()].sort((a, b) => (order.indexOf(b.what) - order.indexOf(a.what)) || 0);
    const stolen = (values) => (values.some(isNumber) ? `, up to ${plain(Math.max(...values.filter(isNumber)))} % taken` : "");
    const groupTable = (caption, some) => [table(caption, [{ title: "Cell" }, { title: "Design" }, { title: "Handovers", number: true }, { title: "What" }, { title: "Cause" }, { title: "Rounds" }],
      some.slice(0, LISTED_AT_MOST).map((group) => [cellName(group.cell), designLabel(group.design), text(group.rounds.length), group.what, group.cause + (group.what === "disturbed" ? stolen(group.steal) : ""), shortened(group.rounds.join(", "), 200)])),
      some.length > LISTED_AT_MOST ? element("p", { class: "quiet" }, `${some.length - LISTED_AT_MOST} more are in the results file.`) : null];
    const failed = rows.filter((group) => group.what !== "disturbed"), disturbed = rows.filter((group) => group.what === "disturbed");
    const sum = (some) => some.reduce((count, group) => count + group.rounds.length, 0);
    const failedTable = [
      failed.length ? groupTable("Handovers that did not succeed", failed) : element("p", {}, cells.some((cell) => cell.series.some((series) => series.rounds.length)) ? "No handover failed." : "There was no handover."),
      disturbed.length ? details("disturbed", `${plural(sum(disturbed), "handover")} succeeded, but on a disturbed host: not counted`, groupTable("Handovers that are left out of the statistics", disturbed)) : element("p", {}, "None was left out because of a disturbed host.")];
    const notRun = new Map();
    for (const cell of cells)
      for (const series of cell.series.filter((one) => one.notRun)) {
        const key = JSON.stringify([series.design, series.notRun]);
        if (!notRun.has(key)) notRun.set(key, { design: series.design, reason: series.notRun, cells: [] });
        notRun.get(key).cells.push(cellName(cell));
      }
    fill("reliability-body",
      element("h3", {}, "Failed and disturbed handovers"), failedTable,
      element("h3", {}, "Designs that were not run"),
      notRun.size ? table("Not run, and why", [{ title: "Design", head: true }, { title: "Reason" }, { title: "Cells" }],
        [...notRun.values()].map((one) => [designLabel(one.design), one.reason, one.cells.length === cells.length ? "all" : one.cells.join("; ")])) : element("p", {}, "Every design that was asked for was run."),
      list(results.notes).length ? [element("h3", {}, "Notes on this run"), element("ul", {}, list(results.notes).map((note) => element("li", {}, text(note))))] : null);
  }

  const METHOD = [
    ["One run, in rounds.", "Each round hands every design over once, in random order, one after the other, so that whatever else the host does falls on all alike. The guests whose turn it is not are stopped. After a handover between two different QEMUs the guest is taken back to the old one, unmeasured."],
    ["A guest that tells.", "The guest ticks every millisecond, keeps rewriting and checking a pattern over the memory that it has touched, uses its disk, and reports every mismatch. Its heartbeats are read on the host, from both VMMs."],
    ["Two pauses, never mixed.", "“STOP to RESUME” is QEMU's own: between its two events. “Heartbeats” is from the guest's last beat on the old VMM to its first on the new one. They are different quantities, on separate charts, and in separate statistics."],
    ["Phases.", "prepare: checks that touch nothing; launch: the new VMM starts; exchange: both are set up, with CPR the descriptors travel; verify: both VMMs' memory is compared; pause: switching and proving; confirm: the guest is told to run on the new VMM, the point of no return; retire: the old VMM is ended. The whole is from the command to the old VMM's end."],
    ["What counts.", "Only handovers that ended “upgraded” on a host that was not disturbed. What was not measured is left out, and never taken as 0."],
    ["Median and interval.", "The figure of a design is the median over its rounds (with several VMs at once: of each round's median). Its 95 % interval is a bootstrap of that median; with fewer than 6 rounds it is just the smallest and the largest. The 99th percentile is given from 100 values on."],
    ["Ratios.", "Two designs are compared within each round; the ratio is the median of these, with a bootstrap interval. “smaller” or “larger” is said only when the whole interval lies on one side of 1, and never with fewer than 6 rounds. Of many true ties about one in twenty will still look like a difference: look for what holds in several cells."],
    ["Brown-out.", "From the guest's first beat on the new VMM until it writes memory at 95 % of its rate before."],
    ["Extra memory and descriptors.", "Looked at in a handover of its own, since looking (and tracing) slows it down."],
  ];

  const HOST_NAMES = { cpu: "Processor", cpus: "CPUs", memoryBytes: "Memory", kernel: "Kernel", os: "Operating system", pageSizeBytes: "Page size", accelerator: "Accelerator", virtualized: "Is itself a virtual machine", loadAverage1: "Load average before", stealPercent: "CPU time taken by its hypervisor before (%)", runQueue: "Tasks that could run before, per CPU" };
  const spelled = (key) => key.replace(/(Bytes|Percent)$/, "").replace(/Ms$/, "").replace(/([a-z0-9])([A-Z])/g, (_, a, b) => `${a} ${b.toLowerCase()}`);

  function settingText(key, value) {
    if (value === null || value === undefined || value === "") return DASH;
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (isNumber(value)) return key.endsWith("Bytes") ? bytes(value) : key.endsWith("Ms") ? ms(value) : key.endsWith("Percent") ? `${plain(value)} %` : String(value);
    if (typeof value === "string") return value.includes("\n") ? element("pre", {}, value) : value;
    return element("code", {}, JSON.stringify(value));
  }

  function drawMethod() {
    const button = element("button", { type: "button" }, "Download results.json");
    button.addEventListener("click", () => {
      const url = URL.createObjectURL(new Blob([JSON.stringify(results, null, 2) + "\n"], { type: "application/json" }));
      element("a", { href: url, download: "results.json" }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    });
    const settingColumns = [{ title: "What", head: true }, { title: "Value" }];
    fill("method-body",
      element("ul", {}, METHOD.map(([title, words]) => element("li", {}, element("strong", {}, title), " ", words))),
      element("h3", {}, "The host"),
      table("Facts of the host", settingColumns, Object.entries(host).map(([key, value]) => [HOST_NAMES[key] ?? spelled(key), settingText(key, value)])),
      element("h3", {}, "The VMMs"),
      table("The QEMUs that were used", [{ title: "Version", head: true }, { title: "Program" }, { title: "Build id" }], vmms.map((vmm) => [text(vmm.version) || "?", element("code", {}, text(vmm.binary)), element("code", {}, text(vmm.buildId) || "none")])),
      element("h3", {}, "Settings"),
      element("p", {}, `Seed of the order of rounds: ${text(results.seed) || "not said"}. The command:`),
      element("pre", {}, shellWords(results.command) || "not said"),
      details("settings", "All settings", table("All settings", settingColumns, Object.entries(settings).map(([key, value]) => [spelled(key), settingText(key, value)]))),
      element("h3", {}, "The results"),
      element("p", {}, "Everything on this page is made from one file, which is in the page."),
      button);
    fill("footer", `Made by virt-handover ${text(results.version)} (format ${text(results.format) || "unknown"}). Charts: Chart.js ${Chart.version}, MIT License.`);
  }

  function drawAll() {
    drawSubject();
    drawVerdict();
    drawDesigns();
    drawControls();
    drawCell();
    drawReliability();
    drawMethod();
  }

  // Colours are painted into the charts, so they are drawn again when the scheme changes, and for paper.
  darkScheme.addEventListener("change", drawAll);
  window.addEventListener("beforeprint", () => {
    state.printing = true;
    drawAll();
    // What is folded up is printed too, but for pages of points of a curve, which is drawn.
    document.querySelectorAll("details:not([data-key=brownout-curve])").forEach((node) => { node.open = true; });
  });
  window.addEventListener("afterprint", () => {
    state.printing = false;
    drawAll();
  });
  drawAll();
})();
