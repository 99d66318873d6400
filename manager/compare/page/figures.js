// Charts: each is described by what Chart.js takes, and has a table of its figures. Labels are painted on a canvas.

const WIDE_SPREAD = 20; // From this ratio of the largest to the smallest value on, a linear axis hides the small ones.

// State of the page.

// The cell that shows most designs first.
const designsIn = (cell) => cell.series.filter((series) => series.rounds.some(enters)).length;
const state = { cell: Math.max(0, cells.findIndex((cell) => designsIn(cell) === Math.max(...cells.map(designsIn)))), hidden: new Set(designsPresent.some((design) => !isBaseline(design)) ? designsPresent.filter(isBaseline) : []), scale: new Map(), printing: false };
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
function figure({ key, title, read, draw, below, after }) {
  const holder = element("div", {});
  const node = element("figure", { "data-chart": key }, element("figcaption", {}, element("h3", {}, title), element("p", { class: "read" }, read), below ?? null), holder, after ?? null);
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
    return [designLabel(series.design), text(summary.count ?? 0), memberText(metric, summary, "median"), intervalText(metric, summary), memberText(metric, summary, "min"), memberText(metric, summary, "max"), memberText(metric, summary, "p99"), ...more.map((column) => column.of(series))];
  });
  const missing = missingWords(cell, metricName);
  return [table(`${metric.title}, ${cell.name}`, [{ title: "Design", head: true }, ...["Values", "Median", INTERVAL, "Smallest", "Largest", "p99", ...more.map((column) => column.title)].map((title) => ({ title, number: true }))], rows),
    missing.length ? element("ul", { class: "quiet" }, missing.map((words) => element("li", {}, words))) : null];
}

/** Whether no more is known of a round's figure than that it is longer. */
const isBound = (round, metricName) =>
  (metricName === "networkGapMs" && record(round.network).notBack === true) || (metricName === "workLostMs" && at(round, "/writeRate/brownOutMs") === null);

/** For an axis: what of a series' rounds is not in its figure, and what is in it as a bound. */
function leftOut(series, summary) {
  const words = [["failed", series.summary.failed], ["disturbed", series.summary.disturbed], ["longer", summary.longer]].filter(([, count]) => count > 0).map(([what, count]) => `${count} ${what}`);
  return words.length ? [words.join(", ")] : [];
}

/** Every round as a point, by design; over them the median, its interval, and p99 where there is one. */
function roundsFigure(cell, key, metricName, title, read, axis, more) {
  const metric = metricNamed.get(metricName);
  return figure({
    key, title, read: read + " Each point is a handover, the tall tick the median; hollow: disturbed, not counted; an arrow: longer than that, as the window ended first. Further left is better.",
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
        const cloud = (rounds, disturbed, bound) => ({
          kind: "round", data: rounds.map((round, position) => ({
            x: at(round, metric.pointer),
            // Spread evenly, and the same at each drawing.
            y: index + ((((isNumber(round.round) ? round.round : position) * 0.618 + (isNumber(round.vm) ? round.vm : 0) * 0.37) % 1) - 0.5) * 0.52,
            label: `${series.design}, round ${text(round.round)}${cell.vms > 1 ? `, VM ${text(round.vm)}` : ""}: ${bound ? "longer than " : ""}${valueText(metric, at(round, metric.pointer))}${disturbed ? " (disturbed)" : ""}`,
          })),
          pointStyle: bound ? "triangle" : look.shape, rotation: bound ? 90 : look.rotation, radius: bound ? radius + 2 : radius, hoverRadius: radius + 3, order: 3, borderWidth: disturbed || LINES.has(look.shape) ? 1.3 : 0.8,
          borderColor: faded(colour, 0.9), backgroundColor: disturbed ? "transparent" : faded(colour, 0.42),
        });
        for (const bound of [false, true])
          for (const disturbed of [false, true])
            datasets.push(cloud(points.filter((round) => enters(round) !== disturbed && isBound(round, metricName) === bound), disturbed, bound));
        const tick = (value, length, width) => ({ data: [{ x: value, y: index }], pointStyle: "line", rotation: 90, radius: length, hoverRadius: length, borderWidth: width, hoverBorderWidth: width, borderColor: colours.ink, order: 1 });
        if (isNumber(summary.low) && isNumber(summary.high))
          datasets.push({ data: [{ x: summary.low, y: index }, { x: summary.high, y: index }], showLine: true, radius: 0, hoverRadius: 0, borderWidth: 5, borderColor: faded(colours.ink, 0.45), order: 2 });
        if (isNumber(summary.median)) datasets.push(tick(summary.median, 17, 3));
        if (isNumber(summary.p99)) datasets.push(tick(summary.p99, 9, 2));
      });
      const labels = rows.map(({ series, summary }) => [shortened(series.design, 20), isNumber(summary.median) ? memberText(metric, summary, "median") : "not counted", ...leftOut(series, summary)]);
      newChart(canvas, {
        type: "scatter", data: { datasets },
        options: {
          scales: { x: valueAxis(axis, values, scale.logarithmic), y: designAxis(labels) },
          plugins: { tooltip: { filter: (item) => item.dataset.kind === "round", callbacks: { label: (item) => item.raw.label } } },
        },
      });
      return { scale, label: rows.map(({ series, summary }) => `${series.design}: median ${memberText(metric, summary, "median")}`).join("; ") + "." };
    },
  });
}

function phasesFigure(cell) {
  return figure({
    key: "phases", title: "Where the time of a handover goes",
    read: "Each bar is one design's handover, from the command to the old VMM's end; each part is the median of a phase. The guest runs on during the blue parts; “pause” is switching and proving, and confirming ends it. What copy sends while the guest still runs is in “exchange”. Parts are medians, so their sum need not be the median of the whole.",
    after: details("phases-table", "The figures", table(`Median of each phase in milliseconds, ${cell.name}`,
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

function brownOutFigure(cell) {
  const curves = new Map(shownSeries(cell).map((series) => [series.design, brownOutCurve(series)]));
  const notBack = (series) => {
    const rounds = series.rounds.filter(enters).filter((round) => round.writeRate);
    return rounds.length ? `${rounds.filter((round) => at(round, "/writeRate/brownOutMs") === null).length} of ${rounds.length}` : DASH;
  };
  const writing = shownSeries(cell).filter((series) => notBack(series) !== DASH);
  const times = [...new Set([...curves.values()].flatMap((curve) => curve.map((bin) => bin.x)))].sort((a, b) => a - b);
  return figure({
    key: "brownout", title: "How fast the guest is back at speed", 
    below: writing.length ? element("p", { class: "read" }, `Not back at 95 % within the window, and so counted as longer: ${writing.map((series) => `${series.design} ${notBack(series)}`).join(", ")}.`) : null,
    read: "The guest writes memory all the time. The curve is its rate in percent of the rate before (median over rounds); time 0 is its first heartbeat on the new VMM. A dip after 0 is the brown-out: the guest runs, but not yet at full speed. Sooner back at 100 % is better.",
    after: details("brownout-table", "The figures", statisticsTable(cell, "brownOutMs", [{ title: "Not back in the window", of: notBack }]),
      times.length ? details("brownout-curve", "The curve", table(`Write rate, percent of before (median over rounds), ${cell.name}`,
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
        pointStyle: designLook(design).shape, rotation: designLook(design).rotation, radius: (context) => (context.dataIndex % Math.max(1, Math.ceil(curve.length / 16)) ? 0 : 3.5), order: 1,
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
    key: "memory", title: "Extra memory at its peak",
    read: "How much more memory all processes of a handover have together at their most than before it (proportional set size, and every memory file once), looked at all the time in one handover of its own: also a new VMM that is only rehearsed counts. Shorter is better.",
    after: details("memory-table", "The figures", table(`Proportional set size, ${cell.name}`,
      [{ title: "Design", head: true }, { title: "Old before", number: true }, { title: "All at their most", number: true }, { title: "Extra", number: true }],
      shownSeries(cell).map((series) => [designLabel(series.design), bytes(series.inspection?.memoryOldBytes), bytes(series.inspection?.memoryPeakBytes ?? series.inspection?.memoryBothBytes), bytes(series.inspection?.extraMemoryBytes)]))),
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
      read: `Points are medians, bars their 95 % intervals (of fewer than ${ROUNDS_FOR_INTERVAL} rounds: min to max), drawn side by side to be told apart. A flat line: the pause does not depend on RAM. Lower is better.`,
      after: details(`${key}-table`, "The figures", table(`${metric.title} by guest RAM, ${pair}: median and ${INTERVAL}`,
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
          datasets.push({ label: design, data: points.map((point) => ({ x: aside(point.x, index), y: point.median, point })), borderColor: colour, backgroundColor: faded(colour, 0.6), borderWidth: 2, pointStyle: designLook(design).shape, rotation: designLook(design).rotation, radius: 5, hoverRadius: 7, order: 1, kind: "medians" });
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
                callbacks: { title: () => "", label: (item) => `${item.dataset.label}, ${bytes(item.raw.point.x)}: ${ms(item.raw.point.median)} (${item.raw.point.minMax === true ? "" : "95 %: "}${intervalText({ ...metric, unit: "ms" }, item.raw.point)})` },
              },
            },
          },
        });
        return { scale, label: lines.map((line) => `${line.design}: ${line.points.map((point) => `${bytes(point.x)} ${ms(point.median)}`).join(", ")}`).join("; ") + "." };
      },
    });
  });
}
