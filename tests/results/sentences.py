"""What README.md says in words of a comparison: which words follows from the verdicts, and every figure is made again by figures.py.

`results` is the results file, `made` its summary as figures.recompute() makes it. A sentence that has nothing to say is left out, so
that any result has true ones.
"""
import math, os, re, statistics, sys
from collections import Counter

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
from designs import ALL as DESIGNS, BY_HAND  # In the order that the answer has them in.

TITLES = {"stopToResumeMs": "STOP to RESUME", "guestPauseMs": "guest pause (heartbeats)", "workLostMs": "guest work lost",
          "brownOutMs": "brown-out", "networkGapMs": "longest network gap", "networkLost": "echo requests lost", "totalMs": "whole handover"}
OWNERS = ("manager-owned", "vmm-owned")
CLAIMS = ("larger", "smaller")
VERDICTS = (*CLAIMS, "equivalent", "no difference shown", "too few rounds to say", "host too busy to say")
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
    """The interval; of what is equivalent, the one that decides it."""
    sure = "90" if ratio["verdict"] == "equivalent" else "95"
    low, high = (None if ratio[name] is None else shown(ratio[name]) for name in (("low90", "high90") if sure == "90" else ("low", "high")))
    if low is None and high is None:
        return "95 % open"
    if ratio.get("minMax") and low and high:
        return f"few rounds: min {low}, max {high}"
    return f"{sure} % " + (f"{high} or less" if low is None else f"{low} or more" if high is None else f"{low} - {high}")


def chance(value):
    return "" if value is None else "p < 0.0001" if value < 0.0001 else f"p = {value:.{4 if value < 0.01 else 3 if value < 0.1 else 2}f}"


def sureness(ratio):
    """What makes a verdict one, and whether that rests on one cell."""
    if ratio["verdict"] == "equivalent":
        return f" (90 % {three_digits(ratio['low90'])} - {three_digits(ratio['high90'])})"
    if ratio.get("restsOn") is None:
        return ""
    stands = ratio["cells"] - len(ratio["restsOn"])
    return f" (stands {'when any one cell is' if stands == ratio['cells'] else f'in {stands} of ' + str(ratio['cells']) + ' when one cell is'} left out)"


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
    lines += [line for line in (resolution(results, made), work_resolution(results)) if line]
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


def work_resolution(results):
    """How much the rate before varies, in parts of which the work that was lost is told."""
    found = {}
    for cell in results["cells"]:
        for series in cell["series"]:
            rates = [round_["writeRate"]["beforePagesPerSecond"] for round_ in series["rounds"]
                     if counts(round_) and round_.get("writeRate") and round_["writeRate"].get("beforePagesPerSecond")]
            found.setdefault(cell.get("accelerator") or results["host"]["accelerator"], []).extend(100 * abs(rate / statistics.median(rates) - 1) for rate in rates)
    within = {name: sorted(off)[math.ceil(0.9 * len(off)) - 1] for name, off in found.items() if off}
    parts = [f"{three_digits(off)} % under {accelerator(name, results['host'])}" for name, off in within.items()]
    return (f"Guest work lost is known no better than the rate before: in 9 of 10 handovers that was within {together(parts)} of the median of its design and cell, "
            f"which over a second is {span([10 * off for off in within.values()])} ms. So it can be below 0, and where the window ended first it is a bound no surer than that.") if parts else None


def counts(round_):
    return round_["outcome"] == "upgraded" and not round_.get("disturbed")


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
                       f"{', ' + chance(ratio['pHolm']) if verdict in CLAIMS else ''}){sureness(ratio) if verdict in CLAIMS else ''}" for ratio in of)
            parts.append(f"{verdict}{f' within {margin} %' if verdict == 'equivalent' else ''} in {together(figures)}")
    return ", ".join(parts)


def single_cells(made):
    ratios = [ratio for cell in made["cells"] for ratio in cell["ratios"]]
    tested = sum(ratio["pHolm"] is not None for ratio in ratios)
    if len(made["cells"]) < 2 or not tested:
        return None
    all_of = Counter((ratio["design"], ratio["reference"]) for ratio in ratios if ratio["pHolm"] is not None)
    claims = Counter((ratio["design"], ratio["reference"], ratio["verdict"]) for ratio in ratios if ratio["verdict"] in CLAIMS)
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
            if counts(round_) and round_.get("network") and round_["network"].get("sent")]
    alone = networked(results, made)
    lead = ("Every design loses packets" if all(min(values) > 0 for values in lost.values()) else
            "Packets are lost" if any(max(values) > 0 for values in lost.values()) else "As a rule no packet is lost")
    of = f" of {span(sent, whole_or_half)} in a round" if sent else ""
    return f"**{lead}**{f' under {alone}, where alone the guest has a network' if alone else ''}: of echo requests,{of}, medians of cells are {together(f'{span(values, whole_or_half)} with `{design}`' for design, values in lost.items())}."


def networked(results, made):
    """The accelerators whose guests have a network, where others have none."""
    of = [(accelerator(cell.get("accelerator") or results["host"]["accelerator"], results["host"]), series) for cell, summary in zip(results["cells"], made["cells"]) for series in summary["series"]]
    every = {name for name, series in of if series["rounds"]}
    with_one = list(dict.fromkeys(name for name, series in of if series["metrics"]["networkLost"]["median"] is not None))
    return "" if len(with_one) == len(every) else together(with_one)


def slow_guest(made, metric, what):
    medians = medians_of(made, metric)
    if not medians:
        return None
    parts = []
    for design, values in medians.items():
        of = [series["metrics"][metric] for series in series_of(made) if series["design"] == design]
        longer, count = sum(one["longer"] for one in of), sum(one["count"] for one in of)
        bound = "at least " if any("median" in one["atLeast"] for one in of) else ""
        if metric == "workLostMs":  # Nothing that noise takes below 0 is the least of anything.
            parts.append(f"{span(values)} with `{design}`" + (f" ({longer} of {count} not back at speed when the window ended, and lost more after it)" if longer else ""))
        else:
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
    under = {}
    for cell in results["cells"]:
        for series in cell["series"]:
            ioctls = (series.get("inspection") or {}).get("ioctls")
            if ioctls is not None:
                under.setdefault(cell.get("accelerator") or results["host"]["accelerator"], {}).setdefault(series["design"], []).append(ioctls)
    parts = []
    for name, found in under.items():
        words = {}
        for design, all_of in found.items():
            classes = [one for one in dict.fromkeys(name for ioctls in all_of for name in ioctls) if any(ioctls.get(one) for ioctls in all_of)]
            said = together(f"{span([ioctls.get(one, 0) for ioctls in all_of], whole_or_half)} of {one}" for one in classes) or "none"
            words.setdefault(said, []).append(f"`{design}`")
        parts.append(f"under {accelerator(name, results['host'])} " + "; ".join(f"{said} with {together(designs)}" for said, designs in words.items()))
    return "**What the kernel was told again**, ioctls by class, of cells with whatever devices: " + ". ".join(part[0].upper() + part[1:] if i else part for i, part in enumerate(parts)) + "." if parts else None


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

def answered(ratio):
    """`0.92 times`, and what stands in brackets behind it."""
    median = "an unknown number of times" if ratio["median"] is None else f"{three_digits(ratio['median'])} times"
    sure = "" if ratio["pHolm"] is None or ratio["verdict"] == "equivalent" else ", " + chance(ratio["pHolm"])
    needed = len(ratio["restsOn"] or [])
    rests = f", not without {'' if needed == 1 else 'each of '}{needed} of its {ratio['cells']} cells" if needed else ""
    return median, f"({ends(ratio)}{sure}{rests})"


def answer(results, _):
    return ["- " + sentence for sentence in results["summary"].get("answer", [])]


def pause_metric(name, results, made):
    """What a guest feels, where it beats evenly."""
    felt = any(ratio["metric"] == "guestPauseMs" and ratio["accelerator"] == name for ratio in made["pooled"])
    return "guestPauseMs" if felt and "(nested)" not in accelerator(name, results["host"]) else "stopToResumeMs"


def of_pauses(results, made):
    """The ratios of the answer's second sentence: of few rounds where there are no others."""
    of = [ratio for ratio in made["pooled"] if ratio["metric"] == pause_metric(ratio["accelerator"], results, made) and (ratio["design"], ratio["reference"]) != OWNERS
          and not {ratio["design"], ratio["reference"]} & {one for _, one in BY_HAND}]
    enough = {ratio["reference"] for ratio in of if ratio["verdict"] != "too few rounds to say"}
    return [ratio for ratio in of if ratio["verdict"] != "too few rounds to say" or ratio["reference"] not in enough]


def of_owners(made):
    """The ratios of its first sentence, by metric."""
    primary = [ratio for ratio in made["pooled"] if ratio["primary"]] or [ratio for ratio in made["pooled"] if (ratio["design"], ratio["reference"]) == OWNERS][:1]
    return sorted(primary, key=lambda ratio: list(TITLES).index(ratio["metric"]))


def owners_lead(results, made):
    """What the first sentence says before its figures."""
    ratios, who = of_owners(made), "who should own guest RAM, the manager or the VMM"
    said = {ratio["verdict"] for ratio in ratios}
    claims = said & set(CLAIMS)
    margin = results["settings"].get("equivalenceMarginPercent", 10)
    if claims and not results["settings"].get("primaryMetrics"):
        return f"Nothing is claimed of {who}, as its tests were chosen after the rounds"
    if len(claims) == 2:
        return f"W{who[1:]}, depends on what counts"
    if claims:
        by = []
        for metric in dict.fromkeys(ratio["metric"] for ratio in ratios):
            of = [ratio for ratio in ratios if ratio["metric"] == metric]
            under = [accelerator(ratio["accelerator"], results["host"]) for ratio in of if ratio["verdict"] in CLAIMS]
            if under:
                by.append(TITLES[metric] + (f" under {together(under)}" if len(under) < len(of) else ""))
        return f"By {together(by)} the guest loses less time when the {'manager' if claims == {'smaller'} else 'VMM'} owns its RAM"
    if said == {"equivalent"}:
        return f"To the guest it makes no difference beyond {margin} % who owns its RAM, the manager or the VMM"
    if said & {"equivalent", "no difference shown"}:
        return "No difference is shown between guest RAM that the manager owns and guest RAM that the VMM owns"
    return ("The host was too busy to say " if "host too busy to say" in said else "Too few rounds to say ") + who


def wrong_of_owners(results, made, sentence):
    ratios = of_owners(made)
    ran = {series["design"] for series in series_of(made) if series["rounds"]}
    if not ran:
        return []  # Nothing can be said.
    lead, _, figures = sentence.partition(": ")
    if len(ran) == 1:
        wanted = f"Only {min(ran)} has handovers that count, so no designs are compared."
        return [] if sentence == wanted else [f"the answer does not begin with '{wanted}'"]
    if not ratios:
        return [] if "is not answered here" in lead else ["the answer does not say that no two designs that differ in who owns guest RAM were measured"]
    wrong = [] if lead == owners_lead(results, made) else [f"the answer does not begin with '{owners_lead(results, made)}'"]
    afterwards, claims = not results["settings"].get("primaryMetrics"), any(ratio["verdict"] in CLAIMS for ratio in ratios)
    if not any(ratio["rounds"] for ratio in ratios):
        return wrong
    if claims and not afterwards:
        told = {ratio["metric"] for ratio in ratios if ratio["verdict"] in CLAIMS}
    else:
        told = {ratio["metric"] for ratio in ratios if all(one["verdict"] == "equivalent" for one in ratios) or ratio["metric"] == ratios[0]["metric"]}
    clauses = re.split(r"; (?=by )", figures.replace(f" as long as {OWNERS[1]}", "").replace(f" {OWNERS[0]} takes ", " "))
    for ratio in ratios:
        where = accelerator(ratio["accelerator"], results["host"])
        figure = f"{' under '.join([answered(ratio)[0], where])} {answered(ratio)[1]}"
        if ratio["metric"] in told and not any(clause.startswith(f"by {TITLES[ratio['metric']]} ") and figure in clause for clause in clauses):
            wrong.append(f"the answer does not say '{figure}' by {TITLES[ratio['metric']]}")
    wrong += wrong_of_correction([ratio for ratio in ratios if ratio["metric"] in told], sentence)
    if afterwards and "its tests were chosen after the rounds" not in sentence:
        wrong.append("the answer does not say that its tests were chosen after the rounds")
    return wrong


def wrong_of_correction(told, sentence):
    tests = {ratio["tests"] for ratio in told if ratio["pHolm"] is not None and ratio["verdict"] != "equivalent"}
    return [f"the answer does not say that p is corrected for {count} tests" for count in tests if not re.search(f"p corrected for {count} tests?\\b", sentence)]


def wrong_of_pauses(results, made, sentence):
    pauses, wrong = of_pauses(results, made), []
    clauses = re.split(r"; (?=under )|(?<=: )(?=under )", sentence.replace(" times as long", " times"))
    claimed = {ratio["reference"] for ratio in pauses if ratio["verdict"] in CLAIMS}
    told = [ratio for ratio in pauses if ratio["verdict"] in CLAIMS or ratio["reference"] not in claimed]
    for ratio in told:
        where, by = accelerator(ratio["accelerator"], results["host"]), "by heartbeats" if ratio["metric"] == "guestPauseMs" else "by STOP to RESUME"
        median, sure = answered(ratio)
        figure = f"{median} with {ratio['design']} {sure}"
        if not any(clause.startswith((f"under {where} {by} ", f"under {where}, where beats come too unevenly, {by} ")) and figure in clause for clause in clauses):
            wrong.append(f"the answer does not say '{figure}' {by} of what is under {where}")
    wrong += wrong_of_correction(told, sentence)
    rest = " ".join(re.findall(r"no difference is shown with ([^.]*)", sentence))
    for ratio in pauses:
        if ratio not in told and ratio["pHolm"] is not None and ratio["design"] not in rest:
            wrong.append(f"the answer does not say that no difference is shown with {ratio['design']}")
    leads = re.findall(r"(?:^|\. )([^:]*): under ", sentence)
    for verdict, words in (("larger", " longer "), ("smaller", " shorter time ")):
        claims = any(ratio["verdict"] == verdict for ratio in pauses)
        if any(words in lead + " " and " pause" in lead.split(words)[0] and not lead.startswith(("No design", "Too few", "The host")) for lead in leads) != claims:
            wrong.append(f"whether a pause is {verdict} the answer says otherwise than the rounds")
    return wrong


def missing_from_answer(results, made):
    """Every figure that the answer must have, as made again, and is not in it."""
    sentences_ = results["summary"].get("answer", [])
    if not sentences_:
        return ["an answer"]
    text, wanted = " ".join(sentences_), []
    wrong = wrong_of_owners(results, made, sentences_[0]) + (wrong_of_pauses(results, made, sentences_[1]) if len(sentences_) == 3 else [])
    lost = {}
    for design, values in medians_of(made, "networkLost").items():
        lost.setdefault(span(values, whole_or_half), []).append(design)
    wanted += [f"{values} with " + ("all others" if values == "0" and len(lost) > 1 else together(sorted(designs, key=DESIGNS.index)))
               for values, designs in lost.items()]
    if lost and networked(results, made):
        wanted.append(f"Under {networked(results, made)}, where alone the guest has a network, ")
    every = [series for cell in results["cells"] for series in cell["series"]]
    outlasting = sum(1 for series in every for round_ in series["rounds"] if counts(round_) and outlasts(round_))
    failed, disturbed = (sum(series[member] for series in series_of(made)) for member in ("failed", "disturbed"))
    if made["cells"]:
        wanted += [f"of {sum(len(series['rounds']) for series in every)} handover", f" {failed} failed, {disturbed} ", f", and after {outlasting} the guest or its network was not back"]
    return wrong + [f"the answer does not say '{one}'" for one in wanted if one not in text]


def outlasts(round_):
    rate, network = round_.get("writeRate"), round_.get("network")
    # Heard after the switch, and not back at speed.
    slow = rate and rate.get("beforePagesPerSecond") is not None and rate.get("brownOutMs") is None and any(
        percent is not None for percent in rate["curvePercent"][max(0, math.ceil(-rate["firstBinMs"] / rate["binMs"])):])
    return bool(slow or (network and network.get("longestGapMs") is not None and network.get("notBack")))
