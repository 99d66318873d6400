// What is drawn as SVG and not on a canvas: the forest plot of ratios, and what travels from whom to whom. Both take their colours
// from the style, and a forest plot's places are percentages, so they need no drawing again for another width, scheme or paper.

/** The namespace's name is an address, and the page has none in it. */
const SVG = (() => {
  const holder = document.createElement("template");
  holder.innerHTML = "<svg></svg>";
  return holder.content.firstChild.namespaceURI;
})();

function drawing(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}

// The forest plot.

const FOREST_METRICS = ["stopToResumeMs", "guestPauseMs", "workLostMs", "networkGapMs"];
const FOREST_TICKS = [[0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5], [0.25, 0.5, 0.8, 1, 1.25, 2, 4, 8], [0.1, 0.3, 1, 3, 10, 30], [0.01, 0.1, 1, 10, 100], [0.001, 1, 1000]];
const marginPercent = isNumber(settings.equivalenceMarginPercent) ? settings.equivalenceMarginPercent : 10;
const band = [1 / (1 + marginPercent / 100), 1 + marginPercent / 100];
const pooled = list(record(results.summary).pooled).map(record);
const isShown = (ratio) => !state.hidden.has(text(ratio.design)) && !state.hidden.has(text(ratio.reference));
const chanceText = (p) => (!isNumber(p) ? DASH : p < 0.0001 ? "< 0.0001" : number(p, p < 0.01 ? 4 : p < 0.1 ? 3 : 2));
/** What makes a verdict one, and whether a claim stands when any one cell is left out. */
function surenessText(ratio) {
  if (ratio.verdict === "equivalent" && isNumber(ratio.low90) && isNumber(ratio.high90)) return ` 90 %: ${significant(ratio.low90)} ${DASH} ${significant(ratio.high90)}`;
  if (!Array.isArray(ratio.restsOn)) return "";
  return ` stands ${ratio.restsOn.length ? `in ${ratio.cells - ratio.restsOn.length} of ${ratio.cells} when one cell is` : "when any one cell is"} left out`;
}
const verdictNode = (ratio) => [isClaim(ratio.verdict) ? element("strong", {}, ratio.verdict) : text(ratio.verdict) || DASH, surenessText(ratio) ? element("span", { class: "small" }, surenessText(ratio)) : null];
const contrastNode = (ratio) => [designLabel(text(ratio.design)), " / ", designLabel(text(ratio.reference))];

/** A place on a logarithmic axis, in percent of its width; beyond its ends at its ends. */
function placesFor(ratios) {
  // Work lost is known so much worse than the rest that its intervals would leave no room for that.
  const sure = ratios.filter((ratio) => ratio.metric !== "workLostMs");
  const values = (sure.length ? sure : ratios).flatMap((ratio) => [ratio.low, ratio.median, ratio.high]).filter((value) => isNumber(value) && value > 0);
  const [from, to] = [Math.min(band[0] / 1.1, ...values) / 1.06, Math.max(band[1] * 1.1, ...values) * 1.06].map(Math.log);
  const at = (value) => Math.min(100, Math.max(0, (100 * (Math.log(value) - from)) / (to - from)));
  const inside = (value) => Math.log(value) > from && Math.log(value) < to;
  const ticks = FOREST_TICKS.map((set) => set.filter(inside)).find((set) => set.every((value, index) => index === 0 || at(value) - at(set[index - 1]) > 7)) ?? [1];
  return { percent: (value) => `${at(value).toFixed(2)}%`, ticks, has: inside };
}

function forestRow(ratio, places) {
  const x = places.percent, ends = [ratio.low, ratio.high].map((end) => isNumber(end) && end > 0);
  const height = 22, middle = 11, kind = ratio.minMax === true ? "few" : "interval";
  const arrow = (place, path) => drawing("svg", { x: place, y: middle, overflow: "visible" }, drawing("path", { d: path, class: "arrow" }));
  const point = isNumber(ratio.median) && ratio.median > 0 && places.has(ratio.median) ? drawing("svg", { x: x(ratio.median), y: middle, overflow: "visible" }, pointOf(text(ratio.design))) : null;
  return drawing("svg", { class: "forest", role: "img", height, width: "100%", "aria-label": `${significant(ratio.median)}, ${rangeText(ratio)}` },
    drawing("rect", { x: x(band[0]), y: 0, width: `${parseFloat(x(band[1])) - parseFloat(x(band[0]))}%`, height, class: "band" }),
    drawing("line", { x1: x(1), x2: x(1), y1: 0, y2: height, class: "one" }),
    ends[0] || ends[1] ? drawing("line", { x1: ends[0] ? x(ratio.low) : "0%", x2: ends[1] ? x(ratio.high) : "100%", y1: middle, y2: middle, class: kind }) : null,
    // An end that stays open, as the window ended first, or lies beyond the plot.
    (ends[0] || ends[1]) && !(ends[0] && places.has(ratio.low)) ? arrow("0%", "M9 -5 0 0 9 5") : null,
    (ends[0] || ends[1]) && !(ends[1] && places.has(ratio.high)) ? arrow("100%", "M-9 -5 0 0 -9 5") : null,
    point);
}

function pointOf(design) {
  const svg = mark(design);
  const group = drawing("g", { transform: "scale(0.75) translate(-7 -7)", class: "point", fill: "currentColor" }, ...svg.childNodes);
  group.style.color = colourOf(design);
  return group;
}

function forestAxis(places) {
  return drawing("svg", { class: "forest axis", height: 18, width: "100%", "aria-hidden": "true" },
    ...places.ticks.map((tick) => drawing("text", { x: places.percent(tick), y: 13, "text-anchor": "middle" }, String(tick))));
}

/** What the comparison is for stands out from all that is said besides; whether it was named beforehand, the results say. */
const primaryWords = list(settings.primaryMetrics).length ? " primary" : " primary, as named afterwards";
const figureNode = (ratio) => [metricNamed.get(ratio.metric)?.title ?? text(ratio.metric), ratio.primary === true ? element("span", { class: "small" }, primaryWords) : null];

/** Ratios of all cells of an accelerator together; who should own guest RAM comes first, as in the summary. */
function forestPlot() {
  const of = (metrics) => pooled.filter((ratio) => metrics.includes(ratio.metric) && isShown(ratio));
  const shown = of(FOREST_METRICS), others = of(data.metrics.map((metric) => metric.name).filter((name) => !FOREST_METRICS.includes(name)));
  if (shown.length === 0) return element("p", { class: "quiet" }, pooled.length ? "No pair of the designs that are shown was compared." : "No two designs were compared, so there is no ratio to draw.");
  const places = placesFor(shown);
  const groups = new Map();
  for (const ratio of shown) {
    const key = JSON.stringify([ratio.design, ratio.reference, ratio.accelerator]);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(ratio);
  }
  const row = (ratio) => element("tr", {},
    element("th", { scope: "row" }, figureNode(ratio)),
    element("td", { class: "plot" }, forestRow(ratio, places)),
    element("td", { class: "ratio" }, isNumber(ratio.median) ? significant(ratio.median) : "open", " ", element("span", { class: "small" }, `(${rangeText(ratio)})`)),
    element("td", { class: "said" }, verdictNode(ratio)));
  const open = shown.some((ratio) => [ratio.low, ratio.high].some((end) => !isNumber(end) || !places.has(end)));
  const few = shown.some((ratio) => ratio.minMax === true);
  return [
    element("table", { class: "forest", id: "forest" },
      element("caption", {}, `Ratios of paired rounds, all cells of an accelerator together: left of 1 the first design is faster. Bars: 95 % intervals of the median; shaded: within ${marginPercent} %, which counts as equivalent where a 90 % interval lies in it.`
        + (few ? ` Broken: fewer than ${ROUNDS_FOR_INTERVAL} rounds, from the smallest to the largest.` : "") + (open ? " Arrow: beyond the plot, or open, as some rounds are only known to be longer than was looked." : "")),
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Designs, figure"), element("td", { class: "plot" }, forestAxis(places)), element("th", { scope: "col" }, "Ratio (95 %)"), element("th", { scope: "col" }, "Verdict"))),
      [...groups.values()].map((ratios) => element("tbody", {},
        element("tr", { class: "pair" }, element("th", { colspan: 4, scope: "rowgroup" }, contrastNode(ratios[0]), ratios[0].accelerator ? ` under ${acceleratorName(ratios[0].accelerator)}` : null, element("span", { class: "small" }, ` ${plural(Math.max(...ratios.map((ratio) => ratio.rounds ?? 0)), "round")} in ${plural(ratios[0].cells ?? "?", "cell")}`))),
        ratios.map(row)))),
    details("pooled", "How sure that is, and the other figures", table("Ratios of paired rounds, pooled over all cells of an accelerator that have both designs",
      [{ title: "Designs" }, { title: "Accelerator" }, { title: "Figure" }, { title: "Rounds", number: true }, { title: "longer in", number: true }, { title: "shorter in", number: true }, ...RATIO_COLUMNS],
      [...shown, ...others].map((ratio) => [contrastNode(ratio), acceleratorName(ratio.accelerator), figureNode(ratio), text(ratio.rounds), text(ratio.greater), text(ratio.smaller),
        significant(ratio.median), rangeText(ratio), chanceText(ratio.pHolm), verdictNode(ratio)])))];
}

// What travels.

const LIFELINES = { old: 52, manager: 180, new: 308 };
const HOW = { descriptor: "descriptors", copy: "copied", stream: "stream" };

/** A line for each thing from whoever has it to whoever gets it, below three heads, as in a sequence diagram. */
function travelDrawing(design) {
  const paths = list(design.paths).map(record);
  const height = 44 + paths.length * 38;
  const head = (x, words) => [drawing("rect", { x: x - 46, y: 1, width: 92, height: 24, rx: 5, class: "head" }), drawing("text", { x, y: 17, "text-anchor": "middle", class: "name" }, words)];
  const nodes = [];
  for (const x of Object.values(LIFELINES)) nodes.push(drawing("line", { x1: x, x2: x, y1: 26, y2: height - 4, class: "life" }));
  nodes.push(...head(LIFELINES.old, "old QEMU"), ...head(LIFELINES.manager, "manager"), ...head(LIFELINES.new, "new QEMU"));
  if (design.sameProcess === true)
    nodes.push(drawing("path", { d: `M${LIFELINES.old} 1 V-6 H${LIFELINES.new} V1`, class: "life" }), drawing("text", { x: 180, y: -9, "text-anchor": "middle" }, "one process"));
  paths.forEach((path, index) => {
    const y = 58 + index * 38;
    const line = (from, to) => {
      const step = to > from ? 1 : -1;
      nodes.push(drawing("line", { x1: from + 2 * step, x2: to - 9 * step, y1: y, y2: y, class: `path ${path.how}` }), drawing("path", { d: `M${to - 11 * step} ${y - 5} ${to - 2 * step} ${y} ${to - 11 * step} ${y + 5}z`, class: `head ${path.how}` }));
    };
    if (path.from === "manager") {
      [LIFELINES.old, LIFELINES.new].forEach((to) => line(LIFELINES.manager, to));
      nodes.push(drawing("circle", { cx: LIFELINES.manager, cy: y, r: 4, class: "source" }));
    } else line(LIFELINES.old, LIFELINES.new);
    if (path.through === "manager") nodes.push(drawing("circle", { cx: LIFELINES.manager, cy: y, r: 6, class: "check" }));
    if (path.through === "file") nodes.push(drawing("rect", { x: LIFELINES.manager + 54, y: y - 8, width: 14, height: 16, class: "file" }));
    const way = { manager: ", checked on the way", file: ", by way of a file", exec: ", kept by the process" }[path.through] ?? "";
    nodes.push(drawing("text", { x: 180, y: y - 11, "text-anchor": "middle", class: "label" }, `${text(path.what)}: ${HOW[path.how] ?? text(path.how)}${way}`));
  });
  return drawing("svg", { viewBox: `0 ${design.sameProcess === true ? -22 : 0} 360 ${height + (design.sameProcess === true ? 22 : 0)}`, class: "travel", role: "img",
    "aria-label": `${design.name}: ${paths.map((path) => `${path.what}, ${HOW[path.how]}, from ${path.from === "manager" ? "the manager to both" : "old to new"}`).join("; ")}` }, ...nodes);
}

/** Of the first cell in which it was looked at. */
function measuredWords(name) {
  const found = cells.flatMap((cell) => cell.series).find((series) => series.design === name && list(record(series.inspection).descriptors).length);
  if (!found) return null;
  const descriptors = list(found.inspection.descriptors).map(record);
  const by = countBy(descriptors, (one) => text(one.createdBy)).map(([who, count]) => (who === "new VMM" ? `${count} that it made itself` : `${count} of the ${who.replace("VMM", "QEMU")}'s`));
  return `Seen in a handover: the new QEMU had ${plural(descriptors.length, "open descriptor")}, ${listed(by)}.`;
}

function travelFigures() {
  return element("div", { class: "travels" }, DESIGNS.filter((design) => list(design.paths).length && (designsPresent.length === 0 || designsPresent.includes(design.name))).map((design) =>
    element("figure", { "data-travel": design.name }, element("figcaption", {}, element("h3", {}, designLabel(design.name), kindOf(design) ? element("span", { class: "small" }, ` (${kindOf(design)})`) : null)), travelDrawing(design),
      measuredWords(design.name) ? element("p", { class: "read" }, measuredWords(design.name)) : null)));
}
