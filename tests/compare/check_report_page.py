#!/usr/bin/env python3
"""Opens report pages in a headless Chromium, as a desktop and as a phone, light and dark, and looks for what is wrong with them.

    check_report_page.py PAGE...                 checks these pages
    check_report_page.py --make MAKE_PAGE        checks pages made from every variant of sample_results.py by that program
        --screenshots DIRECTORY                  leaves a picture of each page in each form there, one of each chart, and a PDF
        --variant NAME                           with --make: this one only

Wrong is: an error or exception on the console, a request to anywhere, a page wider than its window, text that its background swallows, an
answer that is not on the first screen, an empty chart, a chart that is missing, a baseline that is shown unasked or cannot be shown, text
of the results that became markup, a cell that cannot be chosen, results that cannot be downloaded; and beside a results.json, a ratio, a
verdict or a median in words that is not what its summary has. Exit status: 0 all is well; 1 it is not; 77 there is no browser, so nothing
was checked.
"""

import argparse
import base64
import collections
import contextlib
import decimal
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

FORMS = {"desktop": (1280, 900, 1, False), "phone": (390, 844, 2, True)}  # Width, height, pixels to a CSS pixel, is mobile.
SCHEMES = ("light", "dark")
CELLS_LOOKED_AT = 5  # At least, of a page with more: each draws all charts anew.
PATIENCE_S = 60
ALWAYS_THERE = ("stopToResumeMs", "guestPauseMs", "phases", "brownout", "memory", "networkGapMs", "networkLost")
LEAST_CONTRAST = 4.5  # WCAG 2.1, level AA, for text of any size.
VARIANTS = {  # How many charts must really be drawn; the others must say why they are not.
    "full": 11, "many": 11, "one-cell": 7, "one-design": 4, "no-round": 0, "nulls": 0, "bare": 0,
}
DESIGNS_TOLD_OF = {"full": 8, "one-design": 6}  # What is driven by hand is told of where it was measured.
SKIPPED = 77

LOOK = """(() => {
  const blank = [];
  for (const canvas of document.querySelectorAll("figure canvas")) {
    const name = canvas.closest("figure").dataset.chart;
    const {width, height} = canvas;
    if (width < 100 || height < 100) { blank.push(`${name} (${width}x${height})`); continue; }
    const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, width, height).data.buffer);
    const colours = new Set();
    let painted = 0;
    for (const pixel of pixels) if (pixel !== 0) { ++painted; if (colours.size < 64) colours.add(pixel); }
    if (painted < pixels.length / 200 || colours.size < 8) blank.push(`${name} (${painted} pixels of ${pixels.length}, ${colours.size} colours)`);
  }
  const wide = [...document.querySelectorAll("body *")].filter((node) => !node.closest(".scroll *") && node.getBoundingClientRect().right > WIDTH + 1)
    .map((node) => node.tagName + "." + node.className);
  const rgba = (colour) => { const parts = (colour.match(/[\d.]+/g) ?? []).map(Number); return parts.length === 3 ? [...parts, 1] : parts; };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const backgroundOf = (node) => {
    const layers = [];
    for (let one = node; one; one = one.parentElement) layers.push(rgba(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const luminance = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, part, i) => { const c = colour[i] / 255; return sum + part * (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4); }, 0);
  const faint = new Map();
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || node.closest("script, style, noscript, option") || !node.getClientRects().length) continue;
    ++texts;
    const style = getComputedStyle(node), background = backgroundOf(node);
    const levels = [luminance(over(rgba(node.namespaceURI.endsWith("svg") ? style.fill : style.color), background)), luminance(background)].sort((a, b) => b - a);
    const contrast = (levels[0] + 0.05) / (levels[1] + 0.05);
    if (contrast < CONTRAST) faint.set(`${node.tagName}.${node.getAttribute("class") ?? ""}`, `${contrast.toFixed(2)} '${walker.currentNode.data.trim().slice(0, 30)}'`);
  }
  const place = (selector) => { const node = document.querySelector(selector); return node ? node.getBoundingClientRect() : null; };
  return {
    texts, faint: [...faint].slice(0, 5).map((one) => one.join(": ")), answer: place(".answer")?.bottom + scrollY, forest: place("#forest")?.top + scrollY, travels: document.querySelectorAll("[data-travel] svg").length,
    names: [...document.querySelectorAll("#verdict details[data-key=medians] tbody th")].map((node) => node.textContent), options: [...document.querySelectorAll("#cell-select option")].map((node) => node.textContent),
    chips: [...document.querySelectorAll(".chip")].map((node) => [node.textContent, node.querySelector("input").checked]), points: document.querySelectorAll("#forest .point").length,
    blank, wide: wide.slice(0, 5), pageWidth: document.documentElement.scrollWidth,
    figures: [...document.querySelectorAll("figure[data-chart]")].map((node) => [node.dataset.chart, node.querySelector("canvas") ? "drawn" : node.querySelector(".none")?.textContent ?? ""]),
    title: document.title, strange: document.querySelectorAll("img, iframe, object, embed, link").length, scripts: document.scripts.length,
    headings: document.querySelectorAll("h2").length, verdict: document.getElementById("verdict-body").textContent.length,
    designs: [...document.querySelectorAll("#designs-body tbody tr")].map((row) => row.cells[0].textContent),
    byHand: [...document.querySelectorAll("#controls .chip")].map((chip) => chip.textContent).filter((words) => words.endsWith("(by hand)")),
    paper: getComputedStyle(document.body).backgroundColor, cells: document.querySelectorAll("#cell-select option").length,
  };
})()"""

# What a reader is told in figures: of the forest plot [designs, figure, ratio, verdict] a row, of the overview [cell, design, title of the figure, text].
FIGURES = """(() => {
  const words = (node) => node.textContent.replaceAll("\u00a0", " ").trim();
  const forest = [...document.querySelectorAll("#forest tbody")].flatMap((group) => [...group.querySelectorAll("tr:not(.pair)")]
    .map((row) => [words(group.querySelector("tr.pair th")), words(row.querySelector("th")), words(row.querySelector("td.ratio")), words(row.querySelector("td.said")).replace(/\\s+/g, " ")]));
  const overview = document.querySelector("#verdict details[data-key=medians] table"), titles = overview ? [...overview.querySelectorAll("thead th")].map(words) : [];
  const medians = overview ? [...overview.querySelectorAll("tbody tr")].flatMap((row) => [...row.cells].slice(3).map((cell, i) => [words(row.cells[0]), words(row.cells[1]), titles[i + 3], words(cell)])) : [];
  return {forest, medians};
})()"""
FOREST_METRICS = ("stopToResumeMs", "guestPauseMs", "workLostMs", "networkGapMs")
UNITS = {"networkLost": ""}  # Of what is in the overview; the others are milliseconds.


class Failed(Exception):
    pass


class Browser:
    """Chromium, spoken to through a pipe: no port that another process could use, and nothing left when we end."""

    def __init__(self, program, directory):
        to_read, self.out = os.pipe()
        self.back, to_write = os.pipe()

        def take_places():
            # Above 9 first, so that neither lies in the other's place.
            reading, writing = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_read, to_write))
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        self.log = open(directory / "browser.log", "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={directory / 'profile'}",
             "--remote-debugging-pipe", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, preexec_fn=take_places, pass_fds=(3, 4), start_new_session=True,
            env={**os.environ, "HOME": str(directory), "TZ": "UTC"},
        )
        os.close(to_read)
        os.close(to_write)
        self.pending = b""
        self.last_id = 0
        self.session = None
        self.events = []

    def close(self):
        with contextlib.suppress(Exception):
            self.session = None
            self.call("Browser.close")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for fd in (self.out, self.back):
            os.close(fd)
        self.log.close()

    def message(self, deadline):
        while b"\0" not in self.pending:
            if not select.select([self.back], [], [], max(0, deadline - time.monotonic()))[0]:
                raise Failed(f"the browser did not answer within {PATIENCE_S} s")
            part = os.read(self.back, 1 << 20)
            if not part:
                self.log.seek(0)
                raise Failed(f"the browser ended: {self.log.read()[-2000:]}")
            self.pending += part
        text, _, self.pending = self.pending.partition(b"\0")
        return json.loads(text)

    def call(self, method, **parameters):
        self.last_id += 1
        request = {"id": self.last_id, "method": method, "params": parameters}
        if self.session:
            request["sessionId"] = self.session
        data = json.dumps(request).encode() + b"\0"
        while data:
            data = data[os.write(self.out, data):]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            message = self.message(deadline)
            if message.get("id") == self.last_id:
                if "error" in message:
                    raise Failed(f"{method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message)

    def wait_for(self, method):
        deadline = time.monotonic() + PATIENCE_S
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.message(deadline))

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise Failed(f"exception: {result['exceptionDetails'].get('exception', {}).get('description', result['exceptionDetails'])}")
        return result["result"].get("value")

    def open_tab(self):
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.events.clear()
        return target

    def close_tab(self, target):
        self.session = None
        self.call("Target.closeTarget", targetId=target)

    def complaints(self):
        for event in self.events:
            method, what = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                details = what["exceptionDetails"]
                yield "exception: " + details.get("exception", {}).get("description", details.get("text", "?"))
            elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "assert", "warning"):
                yield f"console {what['type']}: " + " ".join(str(one.get("value", one.get("description"))) for one in what["args"])
            elif method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
                yield f"log {what['entry']['level']}: {what['entry']['text']}"
            elif method == "Network.requestWillBeSent" and what["request"]["url"].split(":")[0] not in ("file", "data", "blob", "about"):
                yield f"request to {what['request']['url']}"


def settled(browser):
    """Two frames after the last change everything that draws has drawn."""
    browser.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def picture(browser, path):
    size = browser.call("Page.getLayoutMetrics")["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    shot = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    path.write_bytes(base64.b64decode(shot["data"]))


def pictures_of_charts(browser, start):
    figures = browser.evaluate("""[...document.querySelectorAll("figure[data-chart], .travels, #forest")].map((node) => {
      const box = node.getBoundingClientRect();
      return [node.dataset.chart ?? (node.id || node.className), {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height, scale: 1}];
    })""")
    for name, clip in figures:
        shot = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        pathlib.Path(f"{start}-{name}.png").write_bytes(base64.b64decode(shot["data"]))


def look(browser, width):
    """The width that was asked for counts: a phone makes its window as wide as a page that is too wide."""
    return {**browser.evaluate(LOOK.replace("WIDTH", str(width)).replace("CONTRAST", str(LEAST_CONTRAST))), "windowWidth": width}


def wrong_with(seen, expected_charts):
    if seen["pageWidth"] > seen["windowWidth"]:
        yield f"the page is {seen['pageWidth']} px wide in a window of {seen['windowWidth']} px: {', '.join(seen['wide'])}"
    if seen["texts"] < 50:
        yield f"only {seen['texts']} texts were looked at"
    for text in seen["faint"]:
        yield f"text cannot be read on its background: {text}"
    if seen["travels"] == 0:
        yield "there is no picture of what travels"
    if set(seen["names"]) - set(seen["options"]):
        yield f"a cell has two names: {set(seen['names']) - set(seen['options'])}"
    for name in seen["blank"]:
        yield f"chart {name} is empty"
    shown = dict(seen["figures"])
    for name in ALWAYS_THERE if expected_charts is None or expected_charts else ():
        if name not in shown:
            yield f"chart {name} is missing"
    for name, state in shown.items():
        if not state:
            yield f"chart {name} is neither drawn nor explained"
    drawn = sum(state == "drawn" for state in shown.values())
    if expected_charts is not None and drawn != expected_charts:
        yield f"{drawn} charts are drawn, expected {expected_charts}: {shown}"
    if seen["strange"] or seen["scripts"] != 3 or not seen["title"].startswith("virt-handover"):
        yield f"text became markup: title '{seen['title']}', {seen['strange']} strange elements, {seen['scripts']} scripts"
    if seen["headings"] != 5 or seen["verdict"] < 40:
        yield "sections are missing"


def check_first_screen(seen, height):
    """Before anything is touched: the answer and where its picture begins, and the designs that can be told apart."""
    if not 0 < (seen["answer"] or 0) <= height:
        yield f"the answer ends at {seen['answer']} px of a screen of {height} px"
    if seen["forest"] is not None and seen["windowWidth"] > 1000 and seen["forest"] > height * 0.7:
        yield f"the forest plot begins at {seen['forest']} px of a screen of {height} px"
    for name, checked in seen["chips"]:
        if checked == ("baseline" in name):
            yield f"{name} is {'shown' if checked else 'hidden'} at first"


def check_baselines(browser, seen, results):
    """They come when they are asked for, everywhere, and go again."""
    if not any("baseline" in name for name, _ in seen["chips"]):
        return
    click = "document.querySelector('#verdict .baselines').click()"
    browser.evaluate(click)
    settled(browser)
    again = look(browser, seen["windowWidth"])
    yield from (f"with baselines: {problem}" for problem in wrong_with(again, None))
    yield from (f"with baselines: {problem}" for problem in (check_figures(browser, results) if results else ()))
    if not all(checked for _, checked in again["chips"]) or again["points"] <= seen["points"] > 0:
        yield f"baselines cannot be shown: {again['chips']}, {seen['points']} points before and {again['points']} with them"
    browser.evaluate(click)
    settled(browser)
    if look(browser, seen["windowWidth"])["chips"] != seen["chips"]:
        yield "baselines cannot be hidden again"
def wrong_with_designs(seen, variant):
    told_of = DESIGNS_TOLD_OF.get(variant)
    if told_of is None:
        return
    if len(seen["designs"]) != told_of:
        yield f"the page tells of {len(seen['designs'])} designs, expected {told_of}: {seen['designs']}"
    by_hand = [words for words in seen["designs"] if "by hand" in words]
    if len(by_hand) != told_of - 6 or len(seen["byHand"]) != told_of - 6:
        yield f"what is driven by hand is not called so: {seen['designs']}, {seen['byHand']}"


def check_choosing_cells(browser, seen):
    for index in range(0, seen["cells"], max(1, seen["cells"] // CELLS_LOOKED_AT)):
        browser.evaluate(f"(() => {{ const s = document.getElementById('cell-select'); s.value = '{index}'; s.dispatchEvent(new Event('change')); }})()")
        settled(browser)
        again = look(browser, seen["windowWidth"])
        yield from (f"cell {index}: {problem}" for problem in wrong_with(again, None))
    if seen["cells"]:
        browser.evaluate("(() => { const s = document.getElementById('cell-select'); s.value = '0'; s.dispatchEvent(new Event('change')); })()")


def check_download(browser, directory):
    session, browser.session = browser.session, None
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(directory))
    browser.session = session
    file = directory / "results.json"
    file.unlink(missing_ok=True)
    browser.evaluate("document.querySelector('#method button').click()")
    deadline = time.monotonic() + PATIENCE_S
    while not file.exists() and time.monotonic() < deadline:
        browser.evaluate("new Promise((done) => setTimeout(done, 50))")
    if not file.exists():
        yield "the results cannot be downloaded"
    elif json.loads(file.read_text(encoding="utf-8")) != browser.evaluate("JSON.parse(document.getElementById('data').textContent).results"):
        yield "the downloaded results are not those of the page"


def rounded(value, digits):
    """As a browser does: halves away from zero, of the shortest decimal that is the value."""
    number = decimal.Decimal(repr(float(value))).quantize(decimal.Decimal(1).scaleb(-digits), decimal.ROUND_HALF_UP)
    return f"{number:,f}".replace(",", " ")


def significant(value):
    size = abs(value)
    return rounded(value, 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 or size == 0 else 3)


def plain(value):
    return rounded(value, 0 if value == int(value) or abs(value) >= 100 else 1 if abs(value) >= 1 else 2)


def ratio_words(ratio):
    low, high = (None if ratio[end] is None else significant(ratio[end]) for end in ("low", "high"))
    spread = (f"min {low}, max {high}" if ratio.get("minMax") else f"{low} – {high}") if low and high else f"{low} or more" if low else f"{high} or less" if high else "–"
    return f"{'open' if ratio['median'] is None else significant(ratio['median'])} ({spread})"


def verdict_words(ratio):
    if ratio["verdict"] == "equivalent" and None not in (ratio.get("low90"), ratio.get("high90")):
        return f"equivalent 90 %: {significant(ratio['low90'])} – {significant(ratio['high90'])}"
    if ratio.get("restsOn") is None:
        return ratio["verdict"]
    stands, cells = ratio["cells"] - len(ratio["restsOn"]), ratio["cells"]
    return f"{ratio['verdict']} stands {'when any one cell is' if stands == cells else f'in {stands} of {cells} when one cell is'} left out"


def wrong_figures(shown, results, titles, hidden):
    """`shown` is what FIGURES finds. Of what the page says beside a figure only how it begins is asked."""
    pooled = [ratio for ratio in results["summary"]["pooled"] if ratio["metric"] in FOREST_METRICS and not {ratio["design"], ratio["reference"]} & hidden]
    rows = collections.Counter()
    for designs, figure, ratio, verdict in shown["forest"]:
        pair = next((f"{one['design']} / {one['reference']}" for one in pooled if (designs + " ").startswith(f"{one['design']} / {one['reference']} ")), designs)
        rows[pair, next((titles[metric] for metric in FOREST_METRICS if figure.startswith(titles[metric])), figure), ratio, verdict] += 1
    wanted = collections.Counter((f"{one['design']} / {one['reference']}", titles[one["metric"]], ratio_words(one), verdict_words(one)) for one in pooled)
    yield from (f"the forest plot has a ratio that results.json has not: {row}" for row in rows - wanted)
    yield from (f"the forest plot lacks a ratio of results.json: {row}" for row in wanted - rows)
    series = {(cell["id"], one["design"]): one["metrics"] for cell in results["summary"]["cells"] for one in cell["series"]}
    names = {cell["title"]: cell["id"] for cell in results["cells"]}
    by_title = {title: metric for metric, title in titles.items()}
    for cell, design, title, words in shown["medians"]:
        metric = by_title[title]
        summary = series[names.get(cell, cell), design][metric]
        unit = UNITS.get(metric, " ms")
        median = "–" if summary["median"] is None else ("> " if "median" in summary.get("atLeast", []) else "") + plain(summary["median"]) + unit
        if not words.startswith(median):
            yield f"the overview has '{words}' for {title} with {design} in {cell}, results.json {median}"
    if len(shown["medians"]) < len([one for cell in results["summary"]["cells"] for one in cell["series"] if one["design"] not in hidden]):
        yield f"the overview has only {len(shown['medians'])} figures"


def check_figures(browser, results):
    shown = browser.evaluate(FIGURES)
    titles = browser.evaluate("Object.fromEntries(JSON.parse(document.getElementById('data').textContent).metrics.map((metric) => [metric.name, metric.title]))")
    unchecked = browser.evaluate("[...document.querySelectorAll('#controls .chip')].filter((chip) => !chip.querySelector('input').checked).map((chip) => chip.textContent.trim())")
    hidden = {series["design"] for cell in results["cells"] for series in cell["series"] if any((chip + " ").startswith(series["design"] + " ") for chip in unchecked)}
    yield from wrong_figures(shown, results, titles, hidden)
    # One that cannot find a difference would find none here either.
    for name, place in (("forest", 2), ("medians", 3)):
        if shown[name]:
            kept, shown[name][0][place] = shown[name][0][place], "1.005"
            if not list(wrong_figures(shown, results, titles, hidden)):
                yield f"a wrong figure is not noticed ({name})"
            shown[name][0][place] = kept
        else:
            yield f"there are no figures to compare ({name})"


def check(browser, page, expected_charts, downloads, screenshots):
    beside = page.with_name("results.json")
    results = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else None
    for form, (width, height, density, mobile) in FORMS.items():
        for scheme in SCHEMES:
            target = browser.open_tab()
            browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=density, mobile=mobile)
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            browser.call("Page.navigate", url=page.resolve().as_uri())
            browser.wait_for("Page.loadEventFired")
            settled(browser)
            seen = look(browser, width)
            problems = [*wrong_with(seen, expected_charts), *check_first_screen(seen, height), *wrong_with_designs(seen, page.stem)]
            if screenshots:
                picture(browser, screenshots / f"{page.stem}-{form}-{scheme}.png")
            if (form, scheme) == ("desktop", "light"):
                if screenshots:
                    pictures_of_charts(browser, screenshots / page.stem)
                problems += check_figures(browser, results) if results else []
                problems += check_baselines(browser, seen, results)
                problems += check_choosing_cells(browser, seen)
                problems += check_download(browser, downloads)
                browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
                settled(browser)
                if look(browser, width)["paper"] == seen["paper"]:
                    problems.append("the page does not turn dark")
                pdf = base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"])
                if screenshots:
                    (screenshots / f"{page.stem}.pdf").write_bytes(pdf)
                settled(browser)
                problems += [f"after printing: {problem}" for problem in wrong_with(look(browser, width), None if seen["cells"] > 1 else expected_charts)]
            problems += browser.complaints()
            browser.close_tab(target)
            yield from (f"{page.name}, {form}, {scheme}: {problem}" for problem in problems)


def made_pages(program, directory, only):
    samples = pathlib.Path(__file__).with_name("sample_results.py")
    for variant, charts in VARIANTS.items():
        if only and variant != only:
            continue
        results = subprocess.run([sys.executable, samples, "--variant", variant], check=True, capture_output=True).stdout
        page = directory / f"{variant}.html"
        page.write_bytes(subprocess.run([program], input=results, check=True, capture_output=True).stdout)
        yield page, charts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=pathlib.Path)
    parser.add_argument("--make", metavar="MAKE_PAGE")
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--screenshots", type=pathlib.Path)
    arguments = parser.parse_args()
    if not arguments.pages and not arguments.make:
        parser.error("name a page, or --make")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        print("skipped: there is no Chromium; apt-get install --no-install-recommends chromium fonts-dejavu-core brings one")
        return SKIPPED
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    problems = []
    with tempfile.TemporaryDirectory(prefix="report-page-", ignore_cleanup_errors=True) as name:
        directory = pathlib.Path(name)
        pages = [(page, None) for page in arguments.pages]
        if arguments.make:
            pages += made_pages(arguments.make, directory, arguments.variant)
        downloads = directory / "downloads"
        downloads.mkdir()
        browser = Browser(program, directory)
        try:
            for page, charts in pages:
                found = list(check(browser, page, charts, downloads, arguments.screenshots))
                print("\n".join(found) if found else f"ok: {page.name}", flush=True)
                problems += found
        except Failed as failure:
            print(failure)
            problems.append(str(failure))
        finally:
            browser.close()
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
