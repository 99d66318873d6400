// The page from top to bottom.

const LISTED_AT_MOST = 200;
const NOTES_AT_TOP = 3;

// Top of the page.

function drawSubject() {
  const complete = results.finishedAt !== null && results.finishedAt !== undefined;
  const entries = [
    ["QEMU, old → new", [...new Set(cells.map(pairName))].join("; "), true],
    ["Guest RAM", [...new Set(cells.map((cell) => bytes(cell.ramBytes)))].join(", ")],
    ["Rounds", isNumber(settings.rounds) ? `${settings.rounds} for each design and ${cells.length === 1 ? "the one cell" : `each of ${cells.length} cells`}` : `${allRounds.length} in all`],
    ...FACTORS.slice(3).map((factor) => [factor.name, valuesOfFactor(factor).filter(Boolean).join(", ")]),
    ["Host", [isNumber(host.cpus) ? `${host.cpus} CPUs` : "", text(host.cpu), isNumber(host.memoryBytes) ? bytes(host.memoryBytes) : "", host.virtualized === true ? "itself a virtual machine" : ""].filter(Boolean).join(", "), true],
    ["When", `${dateText(results.startedAt)}${list(results.sittings).length > 1 ? `, in ${list(results.sittings).length} sittings` : ""}${complete ? `, took ${durationText(results.startedAt, results.finishedAt)}` : ""}`, true],
  ];
  fill("subject", facts(entries), list(results.notes).length ? element("ul", { class: "quiet" }, list(results.notes).slice(0, NOTES_AT_TOP).map((note) => element("li", {}, shortened(text(note), 300)))) : null);
}

const RATIO_COLUMNS = [{ title: "Ratio, median", number: true }, { title: `95 % interval (fewer than ${ROUNDS_FOR_INTERVAL} rounds: min and max)`, number: true }, { title: "p, corrected", number: true }, { title: "Verdict" }];

const OVERVIEW = ["stopToResumeMs", "guestPauseMs", "workLostMs", "brownOutMs", "networkGapMs", "networkLost", "totalMs"];

/** A median and, under it, its interval, and of how many values no more is known than that they are longer. */
function medianCell(name, series) {
  const metric = metricNamed.get(name);
  const summary = metricOf(series, name);
  if (!metric || !isNumber(summary.median)) return DASH;
  return [memberText(metric, summary, "median"), element("span", { class: "small" }, intervalText({ ...metric, unit: "" }, summary)),
    summary.longer > 0 ? element("span", { class: "small flag" }, `${summary.longer} of ${summary.count} longer than looked`) : null];
}

/** What became of a series' rounds: what statistics are made of, and what they are not. */
function roundsCell(series) {
  const { rounds, failed, disturbed } = series.summary;
  const out = [failed > 0 ? `${failed} failed` : "", disturbed > 0 ? `${disturbed} disturbed` : ""].filter(Boolean);
  return [text(rounds ?? 0), out.length ? element("span", { class: "small flag" }, out.join(", ")) : null, series.notRun ? element("span", { class: "small" }, series.rounds.length ? "not to the end" : "not run") : null];
}

/** All that matters of some cells at once. */
function overviewTable(some) {
  const withValues = OVERVIEW.filter((name) => some.some((cell) => cell.series.some((series) => isNumber(metricOf(series, name).median))));
  const rows = some.flatMap((cell) => shownSeries(cell).map((series) => [...(some.length > 1 ? [cell.name] : []), designLabel(series.design), roundsCell(series), ...withValues.map((name) => medianCell(name, series))]));
  return table(`${some.length > 1 ? "Every cell" : some[0].name}: medians, and under them the ${INTERVAL}. “>”: that or more, as the window ended first`,
    [...(some.length > 1 ? [{ title: "Cell", head: true }] : []), { title: "Design", head: some.length === 1 }, { title: "Rounds", number: true },
      ...withValues.map((name) => ({ title: metricNamed.get(name)?.title ?? name, number: true }))], rows);
}

const allRounds = cells.flatMap((cell) => cell.series.flatMap((series) => series.rounds));
const checkedRounds = allRounds.filter((round) => round.outcome === "upgraded" && typeof record(round.patterns).intact === "boolean");
const damagedRounds = checkedRounds.filter((round) => round.patterns.intact === false);

/** What must be known before anything else is read. */
function warnings() {
  const lost = allRounds.filter((round) => round.outcome === "lost").length;
  const warning = (title, words) => element("p", { class: "warning", role: "note" }, element("strong", {}, title), words);
  return [
    results.finishedAt ? null : warning("Not complete. ", `Rounds are missing: ${plural(allRounds.length, "handover")} measured so far. Figures may still change.`),
    damagedRounds.length ? warning("Guest data was damaged ", `in ${plural(damagedRounds.length, "handover")} of ${checkedRounds.length} that were checked; see below.`) : null,
    lost ? warning("The guest was lost ", `in ${plural(lost, "handover")} of ${allRounds.length}; see below.`) : null];
}

/** Baselines are so much slower that the others cannot be told apart beside them. */
function baselineSwitch() {
  const baselines = designsPresent.filter(isBaseline);
  if (baselines.length === 0 || baselines.length === designsPresent.length) return null;
  const input = element("input", { type: "checkbox", class: "baselines", autocomplete: "off" });
  input.checked = baselines.every((design) => !state.hidden.has(design));
  input.addEventListener("change", () => {
    for (const design of baselines) input.checked ? state.hidden.delete(design) : state.hidden.add(design);
    drawVerdict();
    drawControls();
    drawCell();
  });
  return element("label", { class: "scale" }, input, element("span", {}, `Show the baselines too: ${listed(baselines)}`));
}

/** A sentence with what it comes to in bold: all before the figures. */
function sentence(typed) {
  const words = typed.replaceAll(/(\d) %/g, `$1${NO_BREAK}%`).replaceAll(/(?<=\d) - (?=\d)/g, DASH);
  const end = words.indexOf(": ");
  return element("p", {}, end > 0 ? [element("strong", {}, words.slice(0, end + 1)), words.slice(end + 1)] : words);
}

function drawVerdict() {
  const answer = list(record(results.summary).answer).map(text).filter(Boolean);
  fill("verdict-body", warnings(),
    element("div", { class: "answer" }, answer.length ? answer.map(sentence) : element("p", {}, "There is no handover yet that could be counted, so nothing can be said of any difference between the designs.")),
    forestPlot(), baselineSwitch(),
    element("p", { class: "quiet" }, "“No difference shown” does not say that there is none: only that these rounds do not show one. Milliseconds belong to this host; compare designs, and ratios."),
    host.virtualized === true && cells.some((cell) => cell.accelerator === "kvm") ? element("p", { class: "quiet" }, "Under KVM (nested) each way out of the guest is one through another hypervisor. What of it holds on real hardware says the table in ", element("code", {}, "tests/bare-guest/README.md"), ": ratios of designs and the order of STOP to RESUME, with care; no millisecond, and not the pause that the guest feels.") : null,
    cells.length > 1 ? details("medians", `Every figure of all ${cells.length} cells`, overviewTable(cells)) : null);
}

/** Text of the designs' rows, which has names of programs and options between backticks. */
const prose = (words) => text(words).split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part));

function wayBackWords(design) {
  if (design.wayBack !== true) return "None, once the guest has stopped on the old VMM";
  return `Until the new VMM is told to run${design.noDevices ? "" : "; with passed-through devices until the switch"}`;
}

function releaseWords(design) {
  const [old, fresh] = [design.oldestOld, design.oldestNew].map((release) => text(release) || "any");
  return old === fresh ? (old === "any" ? "Any" : `${old} on both sides`) : `Old: ${old}; new: ${fresh}`;
}

function drawDesigns() {
  // What is driven by hand is nothing that a reader could choose: it is told of where it was measured.
  const shown = DESIGNS.filter((design) => kindOf(design) !== "by hand" || designsPresent.includes(design.name));
  const byHand = shown.filter((design) => kindOf(design) === "by hand");
  const rows = shown.map((design) => [
    [designLabel(design.name), kindOf(design) ? element("span", { class: "small" }, design.baseline === true ? "a baseline" : `by hand; ${design.byHandOf} rests on it`) : null,
      designsPresent.includes(design.name) ? null : element("span", { class: "small" }, "not in this run")],
    prose(design.guestRam), prose(design.implicitRam), prose(design.checkedBy), wayBackWords(design),
    design.noDevices ? ["Refused: ", prose(design.noDevices)] : "Handed over", releaseWords(design),
  ]);
  fill("designs-body", travelFigures(),
    element("p", { class: "quiet" }, "A thin line is a descriptor that is handed over, a thick one bytes that are copied, a broken one a stream of device state; a ring stands for a check on the way."),
    details("designs", "The designs in words", table("Ways to put a new VMM under a running guest",
      ["Design", "Guest RAM", "Firmware, ROM and video memory", "Who checks, and what", "Way back after a failure", "Passed-through devices", "Oldest QEMU"].map((title, index) => ({ title, head: index === 0 })), rows, "designs")),
    element("p", { class: "quiet" }, "CPR (checkpoint and restart) is QEMU's own mechanism for handing memory files and descriptors to another QEMU. The column on passed-through devices says what a design can do."),
    byHand.length ? element("p", { class: "quiet" }, `${listed(byHand.map((design) => design.name))}: QEMU's own way as a person goes it with two stock QEMUs and a monitor on each, without any of what ours add. What a design takes longer than the one that it rests on is what our part costs.`) : null);
}

// Tables of a cell.

function ratiosTable(cell) {
  const shown = cell.ratios.filter((ratio) => !state.hidden.has(ratio.design) && !state.hidden.has(ratio.reference));
  if (shown.length === 0) return element("p", { class: "quiet" }, "There are no two designs in this cell with rounds in common.");
  const rows = (metric) => shown.filter((ratio) => ratio.metric === metric).sort((a, b) => designRank(a.reference) - designRank(b.reference) || designRank(a.design) - designRank(b.design)).map((ratio) => {
    const verdict = isClaim(ratio.verdict) ? element("strong", {}, `${ratio.verdict} with ${shortened(text(ratio.design), 40)}`) : text(ratio.verdict) || DASH;
    const sure = surenessText(ratio) ? element("span", { class: "small" }, surenessText(ratio)) : null;
    return [[designLabel(text(ratio.design)), " / ", designLabel(text(ratio.reference))], text(ratio.count ?? 0), significant(ratio.median),
      rangeText(ratio), chanceText(ratio.pHolm), [verdict, sure]];
  });
  const ofMetric = (metric) => table(`${metricNamed.get(metric)?.title ?? text(metric)}: ratios of paired rounds, ${cell.name}`,
    [{ title: "Designs" }, { title: "Pairs", number: true }, ...RATIO_COLUMNS], rows(metric));
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
    table(`Descriptors, memory files and system calls of the new VMM, ${cell.name}`,
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
  const even = mediansText([{ series: shownSeries(cell) }], "beatP99BeforeMs"), during = mediansText([{ series: shownSeries(cell) }], "beatP99DuringMs");
  const known = even ? ` Known no better than beats come by themselves: 99 of 100 within ${even} of the one before, and within ${during || "what is not known"} while a handover is prepared.` : "";
  const evenness = { title: "99 of 100 beats before within", of: (series) => memberText(metricNamed.get("beatP99BeforeMs"), metricOf(series, "beatP99BeforeMs"), "median") };
  const pauseFigures = PAUSES.map((pause) => roundsFigure(cell, pause.metric, pause.metric, pause.title, pause.what + (pause.metric === "guestPauseMs" ? known : ""), "pause (ms)", pause.metric === "guestPauseMs" ? [evenness] : []));
  const ram = PAUSES.map((pause) => ramFigures(cell, pause));
  const phases = phasesFigure(cell), brownOut = brownOutFigure(cell), memory = memoryFigure(cell);
  const lostWords = (series) => {
    const rounds = series.rounds.filter(enters).map((round) => record(round.network));
    const [lost, sent] = ["lost", "sent"].map((what) => rounds.reduce((sum, network) => sum + (isNumber(network[what]) ? network[what] : 0), 0));
    return sent ? `${plain(lost)} of ${plain(sent)}` : DASH;
  };
  const network = roundsFigure(cell, "networkGapMs", "networkGapMs", "Longest gap in the network", "The host sends the guest echo requests all the time; this is the longest time between two answers around the handover.", "longest gap (ms)");
  const lost = roundsFigure(cell, "networkLost", "networkLost", "Packets lost", "Of the echo requests that the host sends the guest all the time, how many had no answer in a handover.", "echo requests lost",
    [{ title: "Lost of sent, all rounds", of: lostWords }]);
  const work = roundsFigure(cell, "workLostMs", "workLostMs", "Guest work lost", "What an ordinary thread of the guest did not do from the beginning of the handover to the end of the window, as time at its own speed before: what applications feel. A guest that was not back at speed by then went on to lose: its figure is the least. Heartbeats come from a thread that goes before all others.", "work lost (ms)");
  figures = [...pauseFigures, ...ram.flat(), work, phases, brownOut, memory, network, lost];
  const heading = (words) => element("h3", {}, words);
  fill("cell",
    element("p", { class: "quiet", role: "status" }, `Shown: ${cell.name}. ${bytes(cell.ramBytes)} of guest RAM, of which ${bytes(cell.touchedBytes)} were filled before; load: ${text(cell.load) || "?"}; devices: ${devicesName(cell)}; ${plural(cell.vcpus ?? "?", "virtual CPU")}; ${pagesName(cell)} pages.`),
    overviewTable([cell]),
    heading("How long the guest pauses"),
    element("p", {}, "Two different things, never mixed here: what QEMU reports, and what the guest shows, which also has in it how long the guest needs on the new VMM until it beats again. In charts of points, the bar through the tall tick is the median's 95 % interval (of fewer than 12 rounds: min to max), a short tick the 99th percentile (from 100 values on), and a hollow point a disturbed round, which does not count."),
    element("div", { class: "charts" }, pauseFigures.map((one) => one.node)),
    heading("Does the pause grow with the guest's RAM?"),
    ram.flat().length ? ram.map((group) => element("div", { class: "charts" }, group.map((one) => one.node))) : element("p", { class: "quiet" }, "Cells like this one were measured with one size of RAM only, so there is nothing to draw."),
    heading("What a handover is made of, and what comes after"),
    element("div", { class: "charts single" }, work.node, phases.node, brownOut.node),
    heading("What the network loses, and what it takes of the host's memory"),
    element("div", { class: "charts" }, lost.node, network.node, memory.node));
  fill("across",
    heading("Ratios between designs"),
    element("p", {}, "Each round runs every design once, so rounds are compared in pairs: a ratio of 2 says that the first design took twice as long as the second in the middle round. “Smaller” and “larger” need a sign test that stands the correction for all comparisons; see the method."),
    ratiosTable(cell),
    heading("What each design hands over"),
    element("p", {}, "Looked at once for each design, in a handover that is not among the rounds: every open descriptor of the new VMM, who made it and how it got there; and from a trace of system calls, what the new VMM set up itself."),
    inspectionTables(cell));
  figures.forEach((one) => one.redraw());
}

function drawControls() {
  const parts = [];
  if (cells.length > 1) {
    const select = element("select", { id: "cell-select", autocomplete: "off" }, cells.map((cell, index) => element("option", { value: String(index) }, shortened(cell.name, 200))));
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
      drawVerdict();
      drawCell();
    });
    const chip = element("label", { class: "chip" }, input, mark(design), element("span", {}, `${shortened(design, 40)}${kindOf(designLook(design)) ? ` (${kindOf(designLook(design))})` : ""}`));
    chip.style.setProperty("--mark", colourOf(design));
    return chip;
  });
  const baselines = baselineSwitch();
  if (baselines) parts.push(baselines);
  parts.push(element("fieldset", {}, element("legend", {}, "Designs shown in charts and tables"), element("div", { class: "chips" }, chips)));
  const form = document.getElementById("controls");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.replaceChildren(...parts);
}

// The end of the page.

/** By what, without the figures, so that rounds of one kind are one line. */
function disturbedBy(round) {
  const kinds = text(round.disturbedBy).split("; ").map((words) => words.replace(/(:| for (?!a CPU)).*/, ""));
  return kinds.filter(Boolean).join("; ") || "the hypervisor of this host took CPU time away";
}

function drawReliability() {
  const groups = new Map();
  for (const cell of cells)
    for (const series of cell.series)
      for (const round of series.rounds) {
        const damaged = record(round.patterns).intact === false;
        if (enters(round) && !damaged) continue;
        const what = round.outcome !== "upgraded" ? text(round.outcome) || "no outcome" : damaged ? "guest data damaged" : "disturbed";
        const cause = text(round.cause) || (damaged ? `${plain(record(round.patterns).mismatches)} mismatches` : round.disturbed === true ? disturbedBy(round) : "no cause given");
        const key = JSON.stringify([cell.id, series.design, what, cause]);
        if (!groups.has(key)) groups.set(key, { cell, design: series.design, what, cause, rounds: [], steal: [] });
        groups.get(key).rounds.push(`${text(round.round) || "?"}${cell.vms > 1 ? ` (VM ${text(round.vm)})` : ""}`);
        groups.get(key).steal.push(round.stealPercent);
      }
  const order = ["lost", "guest data damaged"];
  const rows = [...groups.values()].sort((a, b) => (order.indexOf(b.what) - order.indexOf(a.what)) || 0);
  const stolen = (values) => (values.some(isNumber) ? `, up to ${plain(Math.max(...values.filter(isNumber)))} % taken` : "");
  const groupTable = (caption, some) => [table(caption, [{ title: "Cell" }, { title: "Design" }, { title: "Handovers", number: true }, { title: "What" }, { title: "Cause" }, { title: "Rounds" }],
    some.slice(0, LISTED_AT_MOST).map((group) => [group.cell.name, designLabel(group.design), text(group.rounds.length), group.what, group.cause + (group.what === "disturbed" ? stolen(group.steal) : ""), shortened(group.rounds.join(", "), 200)])),
    some.length > LISTED_AT_MOST ? element("p", { class: "quiet" }, `${some.length - LISTED_AT_MOST} more are in the results file.`) : null];
  const failed = rows.filter((group) => group.what !== "disturbed"), disturbed = rows.filter((group) => group.what === "disturbed");
  const sum = (some) => some.reduce((count, group) => count + group.rounds.length, 0);
  const failedTable = [
    failed.length ? groupTable("Handovers that did not succeed", failed) : element("p", {}, cells.some((cell) => cell.series.some((series) => series.rounds.length)) ? "No handover failed." : "There was no handover."),
    element("p", {}, `Left out because of a disturbed host: ${sum(disturbed)} of ${plural(cells.reduce((count, cell) => count + cell.series.reduce((sum, series) => sum + series.rounds.length, 0), 0), "handover")}.`),
    disturbed.length ? details("disturbed", `${plural(sum(disturbed), "handover")} succeeded, but on a disturbed host: not counted`, groupTable("Handovers that are left out of the statistics", disturbed)) : null];
  const notRun = new Map();
  for (const cell of cells)
    for (const series of cell.series.filter((one) => one.notRun)) {
      const key = JSON.stringify([series.design, series.notRun]);
      if (!notRun.has(key)) notRun.set(key, { design: series.design, reason: series.notRun, cells: [] });
      notRun.get(key).cells.push(cell.name);
    }
  fill("reliability-body",
    checkedRounds.length && !damagedRounds.length ? element("p", {}, `After ${checkedRounds.length} of ${plural(allRounds.length, "handover")} the guest's memory, disk and heartbeats could be checked, and nothing was wrong in any of them.`) : null,
    element("h3", {}, "Failed and disturbed handovers"), failedTable,
    element("h3", {}, "Designs that were not run"),
    notRun.size ? table("Not run, and why", [{ title: "Design", head: true }, { title: "Reason" }, { title: "Cells" }],
      [...notRun.values()].map((one) => [designLabel(one.design), one.reason, one.cells.length === cells.length ? "all" : one.cells.join("; ")])) : element("p", {}, "Every design that was asked for was run."),
    list(results.notes).length ? [element("h3", {}, "Notes on this run"), element("ul", {}, list(results.notes).map((note) => element("li", {}, text(note))))] : null);
}

/** Of some cells the medians of all designs, least and most. */
function mediansText(some, name) {
  const medians = some.flatMap((cell) => cell.series.map((series) => metricOf(series, name).median)).filter(isNumber);
  const [least, most] = [Math.min(...medians), Math.max(...medians)].map(plain);
  return medians.length ? `${least === most ? least : `${least} ${DASH} ${most}`}${NO_BREAK}ms` : "";
}

/** How evenly beats come where nothing is handed over, by accelerator. */
function beatsText() {
  const [factor] = FACTORS.filter((one) => one.name === "Accelerator");
  const parts = valuesOfFactor(factor).map((name) => [mediansText(cells.filter((cell) => factor.of(cell) === name), "beatP99BeforeMs"), name]).filter(([words]) => words);
  return parts.length ? `before the handovers 99 of 100 were within ${listed(parts.map(([words, name]) => `${words} under ${name}`))} of the one before (medians of each design and cell)` : "by how much they vary these results do not have";
}

const primaryTitles = [...new Set(pooled.filter((ratio) => ratio.primary === true).map((ratio) => metricNamed.get(ratio.metric)?.title ?? text(ratio.metric)))];

const METHOD = [
  ["One run, in rounds.", "Each round hands every design over once, one after the other, so that whatever else the host does falls on all alike. The order is drawn, and balanced over rounds: each design has each place, and comes after each other one, equally often. The guests whose turn it is not are stopped. After a handover between two different QEMUs the guest is taken back to the old one, unmeasured."],
  ["A guest that tells.", "The guest ticks every millisecond, keeps rewriting and checking a pattern over the memory that it has touched, uses its disk, and reports every mismatch. Its heartbeats are read on the host, from both VMMs."],
  ["Two pauses, never mixed.", `“STOP to RESUME” is between two events of QEMU's, on the clock that nobody sets; what the manager does after the devices' state has gone over is in it, and not in QEMU's own “downtime”, which the results have beside it. “Heartbeats” is from the guest's last beat on the old VMM to its first on the new one. The guest is to beat each millisecond, and a thread that does nothing else dates what comes. That pause is known no better than beats come by themselves: ${beatsText()}. Where a guest's CPUs are themselves scheduled by a host above (KVM, nested), they come so unevenly that STOP to RESUME goes before it in what is said in short. They are different quantities, on separate charts, and in separate statistics.`],
  ["Phases.", "prepare: checks that touch nothing; launch: the new VMM starts; exchange: both are set up, with CPR the descriptors travel; verify: both VMMs' memory is compared; pause: switching and proving; confirm: the guest is told to run on the new VMM, the point of no return; retire: the old VMM is ended. The whole is from the command to the old VMM's end."],
  ["What counts.", "Only handovers that ended “upgraded” on a host that was not disturbed: its hypervisor took no CPU time away from the handover on, and before it nobody waited long for a CPU and the guest beat evenly. A handover is not judged by what it makes the host do itself, which differs by design; the limits are among the settings. What was not measured is left out, and never taken as 0."],
  ["Median and interval.", `The figure of a design is the median over its rounds (with several VMs at once: of each round's median). Its 95 % interval is a bootstrap of that median; with fewer than ${ROUNDS_FOR_INTERVAL} rounds there is none, and the smallest and the largest are shown as min and max. The 99th percentile is given from 100 values on.`],
  ["Ratios.", `Two designs are compared within each round; the ratio is the median of these, with a bootstrap interval. Which designs are compared by what was fixed beforehand: who owns guest RAM, a design against what it rests on where that was driven by hand, and each design against the first. “smaller” or “larger” is said where the exact sign test of the rounds has p < 0.05 after Holm's correction for all of its family: the chance of even one wrong such claim in it is below 5 %. “equivalent” is said where the 90 % interval lies within ${marginPercent} % of 1. Where one of two figures is 0 or less, no more is known than which is more. A claim of several cells together is made again without each of them: whether it stands then is said beside it. With fewer than ${ROUNDS_FOR_INTERVAL} rounds in common nothing is said.`],
  ["Families of tests.", `Primary is what the comparison is for: the design in which the manager owns guest RAM against the one in which the VMM does${primaryTitles.length ? `, by ${listed(primaryTitles)}` : " (here none)"}, all cells of an accelerator together. All other ratios of cells together are secondary, and those of single cells a third family; each family is corrected for itself. ${list(settings.primaryMetrics).length ? "Which are primary was written into the results before anything was measured." : "Which are primary was named after these rounds were measured and seen: only a later run can be said to have been tested by them."} Cells under different accelerators are never pooled: they are different quantities, and their guests may differ.`],
  ["Brown-out.", "From the guest's first beat on the new VMM until it writes memory at 95 % of its rate before, over 100 ms. Where that was not seen before the guest was last heard, it is longer than until 100 ms before that."],
  ["Guest work lost.", "What was not written from the handover's beginning to the window's end, as time at the rate before: an estimate, and known no better than that rate, so that it may be below 0."],
  ["Extra memory and descriptors.", "Looked at in a handover of its own, since looking (and tracing) slows it down."],
];

const HOST_NAMES = { cpu: "Processor", cpus: "CPUs", memoryBytes: "Memory", kernel: "Kernel", os: "Operating system", pageSizeBytes: "Page size", accelerator: "Accelerator", virtualized: "Is itself a virtual machine", loadAverage1: "Load average before", stealPercent: "CPU time taken by its hypervisor before (%)", runQueue: "Tasks that could run before, per CPU", machineId: "Machine (made of its id)" };
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
  const commits = [...new Set(list(results.sittings).map((one) => text(record(one).commit)).filter(Boolean))];
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
    element("p", {}, commits.length ? `The code that measured: commit ${listed(commits)}.` : "The commit of the code that measured is not in the results."),
    details("settings", "All settings", table("All settings", settingColumns, Object.entries(settings).map(([key, value]) => [spelled(key), settingText(key, value)]))),
    list(results.sittings).length > 1 ? table("Sittings", [{ title: "From", head: true }, { title: "To" }, { title: "Command" }],
      list(results.sittings).map(record).map((one) => [dateText(one.startedAt), one.finishedAt ? dateText(one.finishedAt) : "cut short", element("code", {}, shellWords(one.command))])) : null,
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
