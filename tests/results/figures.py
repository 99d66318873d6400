#!/usr/bin/env python3
"""usage: tests/results/figures.py [--check] [RESULTS.json]

Makes every figure and verdict of a comparison again from its rounds, as manager/compare/README.md says how, in code that shares nothing with
the product's, and compares them with the file's `summary`, with the sentences of its answer and with what its page shows. Then writes the
tables and sentences (sentences.py) of README.md beside it, between the marks `<!-- figures: NAME -->` and `<!-- end -->`; with --check says
where README.md has others. Exits with 1 when anything differs.
"""
import json, math, os, re, sys

import sentences
from sentences import BY_HAND, OWNERS, TITLES

HERE = os.path.dirname(os.path.abspath(__file__))
OPEN = math.inf  # What is only known to be longer has no upper end.
FEW = 12
BELOW, ABOVE = 1 - 1e-9, 1 + 1e-9  # Ratios of which no more is known.
SPAN_MS = 100  # For so long a guest has to write fast enough to be back at speed.
CONTRAST_METRICS = ["stopToResumeMs", "guestPauseMs", "workLostMs", "brownOutMs", "networkGapMs", "totalMs"]
# Where a round has it; whether it is only a bound is said of brown-out, with it of work lost, and of the network gap.
POINTERS = {
    "stopToResumeMs": "/stopToResumeMs", "qemuDowntimeMs": "/qemuDowntimeMs", "guestPauseMs": "/guestPauseMs",
    "workLostMs": "/writeRate/workLostMs", "brownOutMs": "/writeRate/brownOutMs", "networkGapMs": "/network/longestGapMs",
    "networkLost": "/network/lost", "totalMs": "/totalMs", "preparationMs": "/preparationMs", "noWayBackMs": "/noWayBackMs",
    "cpuManagerMs": "/cpuMs/manager", "cpuOldMs": "/cpuMs/old", "cpuNewMs": "/cpuMs/new", "prepareMs": "/phasesMs/prepare",
    "launchMs": "/phasesMs/launch", "exchangeMs": "/phasesMs/exchange", "verifyMs": "/phasesMs/verify",
    "pausePhaseMs": "/phasesMs/pause", "confirmMs": "/phasesMs/confirm", "retireMs": "/phasesMs/retire",
    "beatP99BeforeMs": "/beats/before/p99Ms", "beatP99DuringMs": "/beats/during/p99Ms", "beatP99AfterMs": "/beats/after/p99Ms", "bytesSent": "/bytesSent",
    "ramCopiedBytes": "/ramCopiedBytes", "minorFaults": "/pageFaults/minor",
}


def primary_metrics(settings):
    """What the comparison is for; a file says itself what was named before it was measured."""
    usual = ["stopToResumeMs", "guestPauseMs"] + (["workLostMs"] if settings["beforeMs"] >= 1000 else [])
    return settings.get("primaryMetrics") or usual


# A round's figure: (least, most), or None.

def member(round_, *path):
    for name in path:
        round_ = None if round_ is None else round_.get(name)
    return round_


def figure(round_, metric, pointer):
    if metric == "brownOutMs":
        rate = round_.get("writeRate")
        if not rate or rate.get("beforePagesPerSecond") is None:
            return None
        if rate.get("brownOutMs") is not None:
            return rate["brownOutMs"], rate["brownOutMs"]
        bins = [rate["firstBinMs"] + rate["binMs"] * (place + 1) for place, percent in enumerate(rate["curvePercent"]) if percent is not None]
        return (max(bins[-1] - SPAN_MS, 0), OPEN) if bins and bins[-1] > 0 else None
    if metric == "workLostMs":
        lost = member(round_, "writeRate", "workLostMs")
        return None if lost is None else (lost, OPEN if round_["writeRate"].get("brownOutMs") is None else lost)
    if metric == "networkGapMs":
        gap = member(round_, "network", "longestGapMs")
        return None if gap is None else (gap, OPEN if round_["network"].get("notBack") else gap)
    value = member(round_, *pointer.strip("/").split("/"))
    return None if value is None else (value, value)


# Statistics.

def median(values):
    ordered = sorted(values)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    low, high = ordered[half - 1], ordered[half]
    return low if low == high else (low + high) / 2


def at_least(n, k, chance):
    """That of n draws at least k succeed."""
    return sum(math.comb(n, i) * chance**i * (1 - chance)**(n - i) for i in range(k, n + 1))


def bootstrap_medians(values):
    """[(value, chance)] of the median of as many draws from these."""
    ordered, n = sorted(values), len(values)
    if n % 2:
        upto = [at_least(n, n // 2 + 1, i / n) for i in range(n + 1)]
        return [(ordered[i], upto[i + 1] - upto[i]) for i in range(n)]
    half, found = n // 2, []
    upto = [at_least(n, half, i / n) for i in range(n + 1)]  # The lower of the two in the middle is of rank i or below.
    for i in range(n):
        alike = upto[i + 1] - upto[i]
        lower = ((i + 1) / n)**half - (i / n)**half
        for j in range(i + 1, n):
            chance = math.comb(n, half) * lower * (((n - j) / n)**half - ((n - j - 1) / n)**half)
            middle = OPEN if ordered[j] == OPEN else ordered[i] + (ordered[j] - ordered[i]) / 2
            found.append((middle, chance))
            alike -= chance
        found.append((ordered[i], alike))
    return sorted(found)


def interval(values, confidence):
    tail = (1 - confidence) / 2 - 1e-9
    medians = bootstrap_medians(values)
    ends = []
    for one_side in (medians, medians[::-1]):
        total = 0
        for value, chance in one_side:
            total += chance
            if total >= tail:
                ends.append(value)
                break
    return ends


def sign_test(greater, smaller, tied):
    n, fewer = greater + smaller + tied, min(greater, smaller) + -(-tied // 2)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(fewer + 1)) / 2**n)


def holm(chances):
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    corrected, greatest = [0.0] * len(chances), 0.0
    for place, i in enumerate(order):
        greatest = max(greatest, min(1.0, (len(chances) - place) * chances[i]))
        corrected[i] = greatest
    return corrected


# What is compared.

class Values(dict):
    """(round, VM) -> (least, most)."""

    def rounds(self, end):
        by_round = {}
        for (round_, _), value in self.items():
            by_round.setdefault(round_, []).append(value[end])
        return [median(values) for _, values in sorted(by_round.items())]


def values_of(series, metric, pointer):
    values = Values()
    for round_ in series["rounds"]:
        if round_["outcome"] == "upgraded" and not round_.get("disturbed"):
            value = figure(round_, metric, pointer)
            if value is not None:
                values[round_["round"], round_["vm"]] = value
    return values


def is_too_disturbed(several):
    upgraded = [round_ for series in several for round_ in series["rounds"] if round_["outcome"] == "upgraded"]
    return sum(bool(round_.get("disturbed")) for round_ in upgraded) * 5 > len(upgraded)


def spread(rounds):
    return interval(rounds, 0.95) if len(rounds) >= FEW else [min(rounds), max(rounds)]


def metric_summary(values):
    result = {"count": len(values), "median": None, "low": None, "high": None, "min": None, "max": None, "p99": None, "longer": 0, "atLeast": set()}
    if not values:
        return result
    singles = [[value[end] for value in values.values()] for end in (0, 1)]
    rounds = [values.rounds(end) for end in (0, 1)]
    result["longer"] = sum(value == OPEN for value in singles[1])
    result["minMax"] = len(rounds[0]) < FEW
    found = []
    for end in (0, 1):
        its = {"median": median(rounds[end]), "min": min(singles[end]), "max": max(singles[end])}
        its["low"], its["high"] = spread(rounds[end])
        if len(values) >= 100:
            its["p99"] = sorted(singles[end])[math.ceil(0.99 * len(values) - 1e-9) - 1]
        found.append(its)
    result.update(found[0])
    result["atLeast"] = {name for name, value in found[1].items() if value != found[0][name]}
    return result


def contrasts(designs):
    found = [OWNERS] if set(OWNERS) <= set(designs) else []
    found += [pair for pair in BY_HAND if set(pair) <= set(designs)]
    reference = "relayed" if "relayed" in designs else designs[0] if designs else None
    return found + [(design, reference) for design in designs
                    if design != reference and not {(design, reference), (reference, design)} & set(found)]


def pairs_of(values, references):
    ratios = Values()
    for key, value in values.items():
        other = references.get(key)
        if other is None:
            continue
        if min(value[0], other[0]) > 0:
            ratios[key] = (0 if other[1] == OPEN else value[0] / other[1], OPEN if value[1] == OPEN else value[1] / other[0])
        else:  # None was lost, or less than none: only which is more is known.
            ratios[key] = (ABOVE, OPEN) if value[0] > other[1] else (0, BELOW) if value[1] < other[0] else (0, OPEN)
    return ratios


def known(low, high):
    return low if low > 0 else None, high if high != OPEN else None


def ratio_of(least, most, count, too_disturbed, with_intervals=True):
    """`least` and `most` are each round's."""
    result = {"count": count, "rounds": len(least), "median": None, "low": None, "high": None, "low90": None, "high90": None, "p": None, "pHolm": None, "tests": None,
              "greater": sum(value > 1 for value in least), "smaller": sum(value < 1 for value in most)}
    result["tied"] = len(least) - result["greater"] - result["smaller"]
    if least and with_intervals:
        result["low"], result["high"] = known(spread(least)[0], spread(most)[1])
        if median(least) == median(most):
            result["median"] = median(least)
        result["minMax"] = len(least) < FEW
        if len(least) >= FEW:
            result["low90"], result["high90"] = known(interval(least, 0.9)[0], interval(most, 0.9)[1])
    if too_disturbed:
        result["verdict"] = "host too busy to say"
    elif len(least) < FEW:
        result["verdict"] = "too few rounds to say"
    else:
        result["p"] = sign_test(result["greater"], result["smaller"], result["tied"])
    return result


def decide(ratios, margin):
    tested = [ratio for ratio in ratios if ratio["p"] is not None]
    for ratio, corrected in zip(tested, holm([ratio["p"] for ratio in tested])):
        ratio["pHolm"], ratio["tests"] = corrected, len(tested)
        if corrected < 0.05:
            ratio["verdict"] = "larger" if ratio["greater"] > ratio["smaller"] else "smaller"
        elif None not in (ratio["low90"], ratio["high90"]) and ratio["low90"] > 1 / (1 + margin) and ratio["high90"] < 1 + margin:
            ratio["verdict"] = "equivalent"
        else:
            ratio["verdict"] = "no difference shown"


def pool(parts, named, margin, without=None):
    """The ratios of all cells of an accelerator together; the intervals are of no interest where one is left out."""
    together = {}
    for key, cell, *part in parts:
        if cell != without:
            together.setdefault(key, []).append(part)
    pooled = []
    for (metric, design, reference, accelerator), its in together.items():
        rounds = [sum((part[end] for part in its), []) for end in (0, 1)]
        disturbed = any(is_too_disturbed([part[side] for part in its]) for side in (3, 4))
        ratio = ratio_of(*rounds, sum(part[2] for part in its), disturbed, without is None)
        pooled.append({**ratio, "metric": metric, "design": design, "reference": reference, "accelerator": accelerator, "cells": len(its),
                       "primary": (design, reference) == OWNERS and metric in named})
    for primary in (True, False):
        decide([ratio for ratio in pooled if ratio["primary"] == primary], margin)
    return pooled


def key_of(ratio):
    return ratio["metric"], ratio["design"], ratio["reference"], ratio.get("accelerator", "")


def recompute(results, pointers):
    margin = results["settings"].get("equivalenceMarginPercent", 10) / 100
    cells, parts = [], []
    for cell in results["cells"]:
        samples = {series["design"]: {name: values_of(series, name, pointer) for name, pointer in pointers.items()} for series in cell["series"]}
        by_name = {series["design"]: series for series in cell["series"]}
        ran = [series["design"] for series in cell["series"] if series["rounds"]]
        made = {"id": cell["id"], "series": [], "ratios": []}
        for series in cell["series"]:
            upgraded = [round_ for round_ in series["rounds"] if round_["outcome"] == "upgraded"]
            disturbed = sum(bool(round_.get("disturbed")) for round_ in upgraded)
            made["series"].append({"design": series["design"], "rounds": len(upgraded) - disturbed, "failed": len(series["rounds"]) - len(upgraded),
                                   "disturbed": disturbed, "metrics": {name: metric_summary(values) for name, values in samples[series["design"]].items()}})
        for metric in CONTRAST_METRICS:
            for design, reference in contrasts(ran):
                values, references = samples[design][metric], samples[reference][metric]
                if not values and not references:
                    continue
                ratios = pairs_of(values, references)
                least, most = ratios.rounds(0), ratios.rounds(1)
                ratio = ratio_of(least, most, len(ratios), is_too_disturbed([by_name[design]]) or is_too_disturbed([by_name[reference]]))
                ratio.update(metric=metric, design=design, reference=reference)
                made["ratios"].append(ratio)
                accelerator = cell.get("accelerator") or results["host"]["accelerator"]
                parts.append(((metric, design, reference, accelerator), cell["id"], least, most, len(ratios), by_name[design], by_name[reference]))
        cells.append(made)
    decide([ratio for cell in cells for ratio in cell["ratios"]], margin)
    named = primary_metrics(results["settings"])
    pooled = pool(parts, named, margin)
    for ratio in pooled:
        ratio["restsOn"] = [] if ratio["verdict"] in sentences.CLAIMS and ratio["cells"] > 1 else None
    for cell in cells:
        others = {key_of(ratio): ratio["verdict"] for ratio in pool(parts, named, margin, cell["id"])}
        has = {key for key, its, *_ in parts if its == cell["id"]}
        for ratio in pooled:
            if ratio["restsOn"] is not None and key_of(ratio) in has and others.get(key_of(ratio)) != ratio["verdict"]:
                ratio["restsOn"].append(cell["id"])
    return {"cells": cells, "pooled": pooled}


# Comparison with what is published.

class Differences:
    def __init__(self):
        self.found, self.compared = [], 0

    def same(self, where, published, made):
        self.compared += 1
        if isinstance(published, float) or isinstance(made, float):
            alike = published is not None and made is not None and math.isclose(published, made, rel_tol=1e-9, abs_tol=1e-12)
        else:
            alike = published == made
        if not alike:
            self.found.append(f"{where}: published {published}, made again {made}")


def compare_ratio(differences, where, published, made):
    for name in ("count", "rounds", "median", "low", "high", "low90", "high90", "greater", "smaller", "tied", "p", "pHolm", "tests", "verdict"):
        differences.same(f"{where}: {name}", published.get(name), made[name])
    differences.same(f"{where}: minMax", published.get("minMax", False), made.get("minMax", False))
    differences.same(f"{where}: restsOn", published.get("restsOn"), made.get("restsOn"))
    differences.same(f"{where}: cells", published.get("cells"), made.get("cells"))
    differences.same(f"{where}: primary", published.get("primary", False), made.get("primary", False))


def compare_ratios(differences, where, published, made):
    keys = [[key_of(ratio) for ratio in ratios] for ratios in (published, made)]
    differences.same(f"{where}: contrasts", sorted(keys[0]), sorted(keys[1]))
    by_key = dict(zip(keys[1], made))
    for key, ratio in zip(keys[0], published):
        if key in by_key:
            compare_ratio(differences, f"{where}: {key[1]} / {key[2]}: {key[3]}: {key[0]}", ratio, by_key[key])


def compare(differences, published, made):
    differences.same("cells", [cell["id"] for cell in published["cells"]], [cell["id"] for cell in made["cells"]])
    for cell, other in zip(published["cells"], made["cells"]):
        for series, its in zip(cell["series"], other["series"]):
            where = f"{cell['id']}: {series['design']}"
            for name in ("design", "rounds", "failed", "disturbed"):
                differences.same(f"{where}: {name}", series[name], its[name])
            for metric, summary in series["metrics"].items():
                again = its["metrics"][metric]
                for name in ("count", "median", "low", "high", "min", "max", "p99"):
                    differences.same(f"{where}: {metric}: {name}", summary[name], again[name])
                differences.same(f"{where}: {metric}: longer", summary.get("longer", 0), again["longer"])
                differences.same(f"{where}: {metric}: atLeast", set(summary.get("atLeast", [])), again["atLeast"])
                differences.same(f"{where}: {metric}: minMax", summary.get("minMax", False), again.get("minMax", False))
        compare_ratios(differences, cell["id"], cell["ratios"], other["ratios"])
    compare_ratios(differences, "pooled", published["pooled"], made["pooled"])


def compare_page(differences, results, page):
    """The page shows what it has embedded: that has to be these results."""
    with open(page) as file:
        embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', file.read(), re.S)
    shown = json.loads(embedded.group(1).replace("\\u003c", "<"))["results"]
    for name in ("cells", "summary"):
        differences.same(f"{os.path.basename(page)}: {name}", shown[name] == results[name], True)


# README.

def shown(value, bound=False, digits=None):
    if value is None:
        return "-"
    if digits is None:
        digits = 1 if abs(value) < 100 else 0
    return ("over " if bound else "") + f"{value:.{digits}f}"


def shown_metric(summary):
    if summary["median"] is None:
        return "-"
    parts = {name: shown(summary[name], name in summary["atLeast"]) for name in ("median", "low", "high")}
    longer = f", {summary['longer']} of {summary['count']} longer" if summary["longer"] else ""
    if summary.get("minMax"):
        return f"{parts['median']} (min {parts['low']}, max {parts['high']}{longer})"
    return f"{parts['median']} ({parts['low']} - {parts['high']}{longer})"


def cells_table(results, made):
    metrics = ["stopToResumeMs", "guestPauseMs", "workLostMs", "networkGapMs", "networkLost", "totalMs"]
    lines = ["| guest, QEMU | design | rounds | " + " | ".join(TITLES[metric] + ("" if metric == "networkLost" else ", ms") for metric in metrics) + " | 99 of 100 beats before within, ms |",
             "|---" * (4 + len(metrics)) + "|"]
    for cell, summary in zip(results["cells"], made["cells"]):
        title = cell["title"]
        for series in summary["series"]:
            if not series["rounds"] and not series["failed"]:
                continue
            failed = f" ({series['failed']} failed)" if series["failed"] else ""
            lines.append(f"| {title} | `{series['design']}` | {series['rounds']}{failed} | " +
                         " | ".join(shown_metric(series["metrics"][metric]) for metric in metrics) +
                         f" | {shown(series['metrics']['beatP99BeforeMs']['median'])} |")
            title = ""
    return lines


def pooled_table(results, made):
    lines = ["| designs | | ratio | 95 % | in rounds of | longer in | corrected | verdict |", "|---" * 8 + "|"]
    last, primary = None, " (primary)" if results["settings"].get("primaryMetrics") else " (primary, as named afterwards)"
    names = [(*pair, accelerator) for pair in sentences.contrasts_of(made) for accelerator in sentences.accelerators_of(made)]
    for name in names:
        for ratio in made["pooled"]:
            if (ratio["design"], ratio["reference"], ratio["accelerator"]) != name:
                continue
            title = f"`{name[0]}` / `{name[1]}` under {sentences.accelerator(name[2], results['host'])}" if name != last else ""
            last = name
            few = ratio.get("minMax", False)
            low, high = (None if ratio[end] is None else shown(ratio[end], digits=2) for end in ("low", "high"))
            spread_text = (f"{low} - {high}" if low and high else f"{low} or more" if low else f"{high} or less" if high else "open") + (" (min, max)" if few else "")
            lines.append(f"| {title} | {TITLES[ratio['metric']]} | {shown(ratio['median'], digits=2)} | {spread_text} | {ratio['rounds']} | {ratio['greater']} | "
                         f"{sentences.chance(ratio['pHolm']) or '-'}{primary if ratio['primary'] else ''} | {ratio['verdict']}{sentences.sureness(ratio)} |")
    return lines


def setup(results, made):
    with open(os.path.join(HERE, "full.yaml")) as file:
        return sentences.setup(results, made, file.read())


PARTS = {"cells": cells_table, "pooled": pooled_table, "setup": setup, "answer": sentences.answer, "says": sentences.says}


def with_parts(text, results, made):
    def replaced(found):
        return f"{found.group(1)}\n" + "\n".join(PARTS[found.group(2)](results, made)) + "\n" + found.group(3)
    return re.sub(r"(<!-- figures: (\w+) -->)\n.*?(<!-- end -->)", replaced, text, flags=re.S)


def main(arguments):
    check = "--check" in arguments
    files = [argument for argument in arguments if not argument.startswith("-")]
    path = files[0] if files else os.path.join(HERE, "results.json")
    directory = os.path.dirname(os.path.abspath(path))
    with open(path) as file:
        results = json.load(file)
    made, differences = recompute(results, POINTERS), Differences()
    compare(differences, results["summary"], made)
    for missing in sentences.missing_from_answer(results, made):
        differences.same(missing, False, True)
    page, readme = os.path.join(directory, "report.html"), os.path.join(directory, "README.md")
    if os.path.exists(page):
        compare_page(differences, results, page)
    if os.path.exists(readme):
        with open(readme) as file:
            text = file.read()
        wanted = with_parts(text, results, made)
        if check:
            differences.same("README.md: its tables and sentences", text == wanted, True)
        elif text != wanted:
            with open(readme, "w") as file:
                file.write(wanted)
    # One that cannot find a difference would find none here either.
    if made["pooled"]:
        made["pooled"][0]["greater"] += 1
        probe = Differences()
        compare_ratios(probe, "", results["summary"]["pooled"], made["pooled"])
        differences.same("a wrong figure is noticed", len(probe.found), 1)
        said = results["summary"].get("answer") or [""]
        altered = {**results, "summary": {**results["summary"], "answer": ["The VMM should own guest RAM" + said[0][said[0].find(":"):], *said[1:]]}}
        differences.same("a wrong lead is noticed", bool(sentences.missing_from_answer(altered, made)), True)
        for ratio in made["pooled"]:
            ratio["median"] = 1000.5
        differences.same("a wrong figure of the answer is noticed", bool(sentences.missing_from_answer(results, made)), True)
    for line in differences.found[:50]:
        print(line)
    print(f"{differences.compared} figures made again, {len(differences.found)} differ")
    return 1 if differences.found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
