"""What README.md says in words of a comparison: which words follows from the verdicts, and every figure is made again by figures.py.

`results` is the results file, `made` its summary as figures.recompute() makes it. A sentence that has nothing to say is left out, so
that any result has true ones.
"""
import os, re, sys
from collections import Counter

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
from designs import ALL as DESIGNS, BY_HAND  # In the order that the answer has them in.

TITLES = {"stopToResumeMs": "STOP to RESUME", "guestPauseMs": "guest pause (heartbeats)", "workLostMs": "guest work lost",
          "brownOutMs": "brown-out", "networkGapMs": "longest network gap", "networkLost": "echo requests lost", "totalMs": "whole handover"}
OWNERS = ("manager-owned", "vmm-owned")
VERDICTS = ("larger", "smaller", "equivalent", "no difference shown", "too few rounds to say", "host too busy to say")
# What a cell is made of: name, members that vary together, and how a value is shown.
FACTORS = [
    ("RAM touched", ("ramBytes", "touchedBytes"), lambda cell: size(cell["touchedBytes"])),
    ("memory written again and again", ("hotSetBytes",), lambda cell: size(cell["hotSetBytes"]) if cell.get("hotSetBytes") is not None else "?"),
    ("pages", ("pageSizeBytes", "transparentHuge"), lambda cell: "transparent huge" if cell.get("transparentHuge") else size(cell["pageSizeBytes"])),
    ("virtual CPUs", ("vcpus",), lambda cell: str(cell["vcpus"])),
    ("devices", ("devices",), lambda cell: "+".join(cell["devices"]) or "none"),
    ("load", ("load",), lambda cell: cell["load"]),
    ("VMs at once", ("vms",), lambda cell: str(cell["vms"])),
    ("accelerator", ("accelerator", "guest"), lambda cell: (cell.get("accelerator") or "?").upper() + (f" ({cell['guest']} guest)" if cell.get("guest") else "")),
]
MEMBERS = sorted({"old", "new"}.union(*(members for _, members, _ in FACTORS)))


def size(value):
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.{0 if value >= 100 else 3}{'f' if value >= 100 else 'g'}} {unit}"
        value /= 1024


def three_digits(value):
    return f"{value:.{0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2}f}"


def whole_or_half(value):
    return f"{value:.{0 if value == int(value) else 1}f}"


def together(items):
    items = list(items)
    return ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 1 else "".join(items)


def span(values, shown=three_digits, between=" - "):
    least, most = shown(min(values)), shown(max(values))
    return least if least == most else least + between + most


def ends(ratio, shown=three_digits):
    low, high = (None if ratio[name] is None else shown(ratio[name]) for name in ("low", "high"))
    if low is None and high is None:
        return "95 % open"
    if ratio.get("minMax") and low and high:
        return f"few rounds: min {low}, max {high}"
    return "95 % " + (f"{high} or less" if low is None else f"{low} or more" if high is None else f"{low} - {high}")


def chance(value):
    return "" if value is None else ", p < 0.0001" if value < 0.0001 else f", p = {value:.2g}"


def series_of(made):
    return [series for cell in made["cells"] for series in cell["series"]]


def designs_of(made):
    return list(dict.fromkeys(series["design"] for series in series_of(made) if series["rounds"] or series["failed"] or series["disturbed"]))


def medians_of(made, metric):
    """Of each design the medians of its cells."""
    found = {}
    for series in series_of(made):
        if series["metrics"][metric]["median"] is not None:
            found.setdefault(series["design"], []).append(series["metrics"][metric]["median"])
    return found


def accelerator(name, host):
    return name.upper() + (" (nested)" if name == "kvm" and host.get("virtualized") else "")


def accelerators_of(made):
    return list(dict.fromkeys(ratio["accelerator"] for ratio in made["pooled"]))


def contrasts_of(made):
    return list(dict.fromkeys((ratio["design"], ratio["reference"]) for ratio in made["pooled"]))


# How it was measured.

def setup(results, made, next_plan):
    settings, host = results["settings"], results["host"]
    rounds = [round_ for cell in results["cells"] for series in cell["series"] for round_ in series["rounds"]]
    accelerators = sorted({cell.get("accelerator") or host["accelerator"] for cell in results["cells"]})
    versions = list(dict.fromkeys(f"{results['vmms'][cell['old']]['version']} -> {results['vmms'][cell['new']]['version']}" for cell in results["cells"]))
    baselines = settings.get("baselineRounds")
    few = f" ({baselines} of baselines)" if baselines not in (None, settings.get("rounds")) else ""
    lines = [f"{settings.get('rounds', '?')} rounds of each design{few} in each of {len(results['cells'])} cells, {len(rounds)} handovers in all; QEMU {together(versions)}; "
             f"{together(accelerator(one, host) for one in accelerators)}, on {host['cpus']} CPUs ({host['cpu']}{', itself a virtual machine' if host.get('virtualized') else ''}), Linux {host['kernel']}."]
    lines.append("Its plan is `tests/results/full.yaml`." if settings["plan"] and seed_of(settings["plan"]) == seed_of(next_plan) else
                 "Its plan is in it (`settings.plan`); `tests/results/full.yaml` is another one, and not yet run.")
    if not any(sitting.get("commit") for sitting in results.get("sittings", [])):
        lines.append("Which commit of virt-handover measured it is not in the file.")
    if resolution(results, made):
        lines.append(resolution(results, made))
    if host.get("virtualized") and "kvm" in accelerators:
        lines.append("What of figures under KVM (nested) holds on real hardware says [a table](../bare-guest/README.md#what-such-a-hosts-figures-say-of-real-hardware): ratios of designs and the order "
                     "of STOP to RESUME, with care; no millisecond, and not the pause that the guest feels.")
    if not any("disturbance" in round_ for round_ in rounds):
        lines.append("Its rounds are older than what is judged by them now: nothing but steal was looked at to find a busy host, and their order was drawn and not balanced.")
    if settings.get("equivalenceMarginPercent") is None:
        lines.append("The margin of 10 % was named after they were measured.")
    if not settings.get("primaryMetrics"):
        lines.append("Which tests are primary was named after they were measured and seen: a later run is the first that it is named before.")
    return lines


def resolution(results, made):
    """How evenly beats come where nothing is handed over, which is as well as a pause by heartbeats can be known."""
    found = {}
    for cell, summary in zip(results["cells"], made["cells"]):
        medians = [series["metrics"]["beatP99BeforeMs"]["median"] for series in summary["series"]]
        found.setdefault(cell.get("accelerator") or results["host"]["accelerator"], []).extend(value for value in medians if value is not None)
    parts = [f"{span(values)} ms under {accelerator(name, results['host'])}" for name, values in found.items() if values]
    return f"The guest's pause by heartbeats is known no better than beats come by themselves: before the handovers 99 of 100 were within {together(parts)} of the one before (medians of each design and cell)." if parts else None


def seed_of(plan):
    return next((line.split(":")[1].strip() for line in plan.splitlines() if line.startswith("seed:")), None)


# What it says.

def contrast(made, design, reference, margin, host):
    under = [(one, verdicts(made, (design, reference, one), margin)) for one in accelerators_of(made)]
    return f"**`{design}` / `{reference}`**, " + "; ".join(f"under {accelerator(one, host)} {said}" for one, said in under if said) + "."


def verdicts(made, contrast_, margin):
    """What all cells of an accelerator together show."""
    parts = []
    for verdict in VERDICTS:
        of = [ratio for ratio in made["pooled"] if (ratio["design"], ratio["reference"], ratio["accelerator"], ratio["verdict"]) == (*contrast_, verdict)]
        if of and verdict in VERDICTS[-2:]:
            parts.append(f"{verdict} in {together(TITLES[ratio['metric']] for ratio in of)}")
        elif of:
            figures = (f"{TITLES[ratio['metric']]} ({'' if ratio['median'] is None else three_digits(ratio['median']) + ', '}{ends(ratio)}"
                       f"{chance(ratio['pHolm']) if verdict in VERDICTS[:2] else ''})" for ratio in of)
            parts.append(f"{verdict}{f' within {margin} %' if verdict == 'equivalent' else ''} in {together(figures)}")
    return ", ".join(parts)


def single_cells(made):
    ratios = [ratio for cell in made["cells"] for ratio in cell["ratios"]]
    tested = sum(ratio["pHolm"] is not None for ratio in ratios)
    if len(made["cells"]) < 2 or not tested:
        return None
    all_of = Counter((ratio["design"], ratio["reference"]) for ratio in ratios if ratio["pHolm"] is not None)
    claims = Counter((ratio["design"], ratio["reference"], ratio["verdict"]) for ratio in ratios if ratio["verdict"] in VERDICTS[:2])
    found = [f"`{design}` / `{reference}` {verdict} in {count} of {all_of[design, reference]}" for (design, reference, verdict), count in sorted(claims.items(), key=lambda item: -item[1])]
    without = [f"`{design}` / `{reference}`" for design, reference in all_of if not any(key[:2] == (design, reference) for key in claims)]
    most = max(ratio["rounds"] for ratio in ratios)
    if not found and min(1, 2 * 0.5 ** most * tested) >= 0.05:
        return f"**Single cells** cannot show a difference: of {most} rounds at most, corrected for all {tested} comparisons of them, not even one that is there in each is beyond chance."
    return (f"**Single cells**, corrected for all {tested} comparisons of them, show {together(found) if found else 'no difference'}"
            + (f"; of {together(without)} no single cell shows one" if found and without else "") + ".")


def factor(results, made, name, members, shown):
    """The medians of cells that differ in nothing but this."""
    groups = {}
    for cell, summary in zip(results["cells"], made["cells"]):
        key = repr([cell.get(member) for member in MEMBERS if member not in members])
        groups.setdefault(key, []).append((cell, summary))
    parts = {}
    values = {}
    for group in groups.values():
        if len({shown(cell) for cell, _ in group}) < 2:
            continue
        for cell, summary in group:
            values.setdefault(shown(cell), tuple(repr(cell.get(member)) if not isinstance(cell.get(member), (int, float)) else cell[member] for member in members[:1]))
        for design in designs_of(made):
            medians = [series["metrics"]["stopToResumeMs"]["median"] for _, summary in group for series in summary["series"] if series["design"] == design]
            medians = [median for median in medians if median is not None]
            if len(medians) > 1:
                parts.setdefault(design, []).append((min(medians), max(medians)))
    if not parts:
        return None
    differ = [f"`{design}` {' and '.join(span(pair) for pair in pairs)}" for design, pairs in parts.items()]
    return f"**By {name}** ({together(values)}; cells that differ in nothing else), medians of STOP to RESUME in ms: {together(differ)}."


def packets(results, made):
    lost = medians_of(made, "networkLost")
    if not lost:
        return None
    sent = [round_["network"]["sent"] for cell in results["cells"] for series in cell["series"] for round_ in series["rounds"]
            if round_["outcome"] == "upgraded" and not round_.get("disturbed") and round_.get("network") and round_["network"].get("sent")]
    lead = ("Every design loses packets" if all(min(values) > 0 for values in lost.values()) else
            "Packets are lost" if any(max(values) > 0 for values in lost.values()) else "As a rule no packet is lost")
    of = f" of {span(sent, whole_or_half)} in a round" if sent else ""
    return f"**{lead}**: of echo requests,{of}, medians of cells are {together(f'{span(values, whole_or_half)} with `{design}`' for design, values in lost.items())}."


def slow_guest(made, metric, what):
    medians = medians_of(made, metric)
    if not medians:
        return None
    parts = []
    for design, values in medians.items():
        of = [series["metrics"][metric] for series in series_of(made) if series["design"] == design]
        longer, count = sum(one["longer"] for one in of), sum(one["count"] for one in of)
        bound = "at least " if any("median" in one["atLeast"] for one in of) else ""
        parts.append(f"{bound}{span(values)} with `{design}`" + (f" ({longer} of {count} longer than was looked)" if longer else ""))
    return f"**{TITLES[metric][0].upper()}{TITLES[metric][1:]}** ({what}), medians of cells in ms: {together(parts)}."


def handed_over(results):
    by_design = {}
    for cell in results["cells"]:
        for series in cell["series"]:
            if series.get("inspection") and series["inspection"]["descriptors"]:
                by_design.setdefault(series["design"], []).append(Counter((one["createdBy"], one["passedBy"]) for one in series["inspection"]["descriptors"]))
    if not by_design:
        return None
    parts = []
    for design, counts in by_design.items():
        kinds = dict.fromkeys(kind for count in counts for kind in count)
        parts.append(f"`{design}` " + together(f"{span([count[kind] for count in counts], whole_or_half)} of the {kind[0]}'s" + (f" ({kind[1]})" if kind[1] else "") for kind in kinds))
    return "**What the new VMM holds**, descriptors by who made them and how they came: " + "; ".join(parts) + "."


def told_again(results):
    found = {}
    for cell in results["cells"]:
        for series in cell["series"]:
            ioctls = (series.get("inspection") or {}).get("ioctls")
            if ioctls is not None:
                found.setdefault(series["design"], []).append(ioctls)
    if not found:
        return None
    words = {}
    for design, all_of in found.items():
        classes = [one for one in dict.fromkeys(name for ioctls in all_of for name in ioctls) if any(ioctls.get(one) for ioctls in all_of)]
        said = together(f"{span([ioctls.get(one, 0) for ioctls in all_of], whole_or_half)} of {one}" for one in classes) or "none"
        words.setdefault(said, []).append(f"`{design}`")
    return "**What the kernel was told again**, ioctls by class: " + "; ".join(f"{said} with {together(designs)}" for said, designs in words.items()) + "."


def exceptions(results, made):
    parts = []
    for title, member in (("failed", "failed"), ("were left out, since the host was disturbed", "disturbed")):
        count = Counter()
        for series in series_of(made):
            count[series["design"]] += series[member]
        found = [f"{number} of `{design}`" for design, number in count.items() if number]
        parts.append(f"{together(found) if found else 'none'} {title}")
    without = Counter(series["design"] for cell in results["cells"] for series in cell["series"] if series["notRun"])
    if without:
        parts.append("not run, or not to the end, were " + together(f"`{design}` in {count} of {len(results['cells'])} cells" for design, count in without.items()))
    checked = [round_["patterns"]["intact"] for cell in results["cells"] for series in cell["series"] for round_ in series["rounds"]
               if round_.get("patterns") and round_["patterns"].get("intact") is not None]
    if checked:
        parts.append(f"the guest's memory, disk and beats were wrong after {checked.count(False)} of the {len(checked)} in which they were looked at")
    return f"**Of {sum(len(series['rounds']) for cell in results['cells'] for series in cell['series'])} handovers** " + "; ".join(parts) + "."


def says(results, made):
    margin = results["settings"].get("equivalenceMarginPercent", 10)
    sentences = [contrast(made, *pair, margin, results["host"]) for pair in contrasts_of(made)]
    sentences += [single_cells(made)] + [factor(results, made, *one) for one in FACTORS]
    sentences += [packets(results, made), slow_guest(made, "brownOutMs", "until the guest writes memory at 95 % of its rate before"),
                  slow_guest(made, "workLostMs", "what an ordinary thread did not do, as time at its speed before"), handed_over(results),
                  told_again(results), exceptions(results, made)]
    return ["- " + sentence for sentence in sentences if sentence]


# The answer that the file and its page have.

def answered(ratio, is_said):
    """What stands in brackets behind a ratio, as far as the verdict's first words."""
    few = ratio["verdict"] == "too few rounds to say" and ratio.get("minMax")
    return f"({ends(ratio)}" + (")" if few or is_said else f", {ratio['verdict']}")


def answer(results, _):
    return ["- " + sentence for sentence in results["summary"].get("answer", [])]


def of_pauses(made, metric):
    """The ratios of the answer's second sentence: of few rounds where there are no others."""
    of = [ratio for ratio in made["pooled"] if ratio["metric"] == metric and (ratio["design"], ratio["reference"]) != OWNERS
          and not {ratio["design"], ratio["reference"]} & {one for _, one in BY_HAND}]
    enough = {ratio["reference"] for ratio in of if ratio["verdict"] != "too few rounds to say"}
    return [ratio for ratio in of if ratio["verdict"] != "too few rounds to say" or ratio["reference"] not in enough]


def said_under(where, sentence):
    """What a sentence of the answer says of an accelerator."""
    clauses = re.split(r"; (?=under )", sentence.partition(": ")[2].replace(" times as long", ""))
    return " ".join(clause for clause in clauses if f"under {where} " in clause)


def missing_from_answer(results, made):
    """Every figure that the answer must have, as made again, and is not in it."""
    text = " ".join(results["summary"].get("answer", [])).replace(" times as long", "")
    wanted, wrong = [], []
    if not text:
        return ["an answer"]
    metric = "guestPauseMs" if medians_of(made, "guestPauseMs") else "stopToResumeMs"
    pauses = of_pauses(made, metric)
    for ratio in made["pooled"]:
        where = accelerator(ratio["accelerator"], results["host"])
        if ratio["primary"]:
            median = "not known" if ratio["median"] is None else three_digits(ratio["median"])
            figure, place = f"{median} by {TITLES[ratio['metric']]} {answered(ratio, False)}", 0
        elif any(ratio is one for one in pauses):
            median = "not known how much longer" if ratio["median"] is None else three_digits(ratio["median"])
            figure, place = f"{median} with {ratio['design']} {answered(ratio, ratio['verdict'] in VERDICTS[:2])}", 1
        else:
            continue
        if figure not in said_under(where, results["summary"]["answer"][place]):
            wrong.append(f"the answer does not say '{figure}' of what is under {where}")
    lost = {}
    for design, values in medians_of(made, "networkLost").items():
        lost.setdefault(span(values, whole_or_half), []).append(design)
    wanted += [f"{values} with " + ("all others" if values == "0" and len(lost) > 1 else together(sorted(designs, key=DESIGNS.index)))
               for values, designs in lost.items()]
    every = [series for cell in results["cells"] for series in cell["series"]]
    outlasting = sum(1 for series in every for round_ in series["rounds"] if round_["outcome"] == "upgraded" and not round_.get("disturbed") and outlasts(round_))
    failed, disturbed = (sum(series[member] for series in series_of(made)) for member in ("failed", "disturbed"))
    if made["cells"]:
        wanted += [f"of {sum(len(series['rounds']) for series in every)} handover", f" {failed} failed, {disturbed} ", f", and after {outlasting} the guest or its network was not back"]
    wrong += [f"the answer does not say '{one}'" for one in wanted if one not in text]
    second = next((one for one in results["summary"]["answer"] if "its pause is" in one), "")
    leads = re.findall(r"(?:^|\. )([^:]*): by [^:]* its pause is ", second)
    for verdict, words in (("larger", " longer "), ("smaller", " shorter time ")):
        claimed = any(ratio["verdict"] == verdict for ratio in pauses)
        if any(words in lead + " " and " pause" in lead.split(words)[0] and not lead.startswith(("No design", "Too few", "The host")) for lead in leads) != claimed:
            wrong.append(f"whether a pause is {verdict} the answer says otherwise than the rounds")
    return wrong


def outlasts(round_):
    rate, network = round_.get("writeRate"), round_.get("network")
    slow = rate and rate.get("beforePagesPerSecond") is not None and rate.get("brownOutMs") is None and rate["firstBinMs"] + rate["binMs"] * len(rate["curvePercent"]) > 0
    return bool(slow or (network and network.get("longestGapMs") is not None and network.get("notBack")))
