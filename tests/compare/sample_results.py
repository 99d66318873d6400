#!/usr/bin/env python3
"""Writes a made-up, plausible results.json (manager/compare/README.md) to standard output, for tests of what is made from one.

    sample_results.py [--variant full|one-cell|one-design|no-round|nulls|many|bare]

full        2 pairs, 3 sizes of RAM, 8 designs, 30 rounds, with failed and disturbed rounds and hostile text
one-cell    one cell, 12 rounds          one-design  one cell, `relayed` alone, 3 rounds, interrupted
no-round    no round succeeded           nulls       whatever may be null is
many        12 cells, 100 rounds         bare        an object without any member
"""

import argparse
import json
import math
import os
import random
import statistics
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
from designs import ALL as DESIGNS, BASELINES, BY_HAND

MIB = 1 << 20
PHASES = ["prepare", "launch", "exchange", "verify", "pause", "confirm", "retire"]
METRICS = {  # Those of manager/compare/summary.h that the pages of these tests show.
    "stopToResumeMs": "stopToResumeMs", "guestPauseMs": "guestPauseMs", "workLostMs": "writeRate.workLostMs", "brownOutMs": "writeRate.brownOutMs",
    "networkGapMs": "network.longestGapMs", "networkLost": "network.lost", "totalMs": "totalMs", "prepareMs": "phasesMs.prepare",
    "launchMs": "phasesMs.launch", "exchangeMs": "phasesMs.exchange", "verifyMs": "phasesMs.verify", "pausePhaseMs": "phasesMs.pause",
    "confirmMs": "phasesMs.confirm", "retireMs": "phasesMs.retire", "beatP99AfterMs": "beats.after.p99Ms", "bytesSent": "bytesSent",
    "ramCopiedBytes": "ramCopiedBytes", "minorFaults": "pageFaults.minor",
}
PRIMARY = ["stopToResumeMs", "guestPauseMs", "workLostMs"]
COMPARED = ["stopToResumeMs", "guestPauseMs", "workLostMs", "brownOutMs", "networkGapMs", "totalMs"]
HOSTILE = [
    '</script><script>document.title = "broken out"</script>', "<!--<script>", "<img src=x onerror=alert(1)>", "line\u2028separator\u2029here",
    "{{data}} {{script}} R\"page(", "'\"&lt;\\u003c", "x" * 400, "\u202eright to left \U0001f4a5 \x00\x07",
]


def noisy(random_, middle, spread=0.15):
    return round(middle * math.exp(random_.gauss(0, spread)), 3)


def median_interval(random_, values):
    if not values:
        return {"median": None, "low": None, "high": None}
    if len(values) < 12:
        return {"median": statistics.median(values), "low": min(values), "high": max(values), "minMax": True}
    medians = sorted(statistics.median(random_.choices(values, k=len(values))) for _ in range(200))
    return {"median": statistics.median(values), "low": medians[5], "high": medians[194]}


def a_round(random_, design, cell, number, order, disturbed):
    ram_mib = cell["touchedBytes"] / MIB
    baseline = design in BASELINES
    pause = {"relayed": 12, "manager-owned": 11, "vmm-owned": 12.5, "vmm-exec": 30, "copy": 190, "save-restore": 2.0 * ram_mib, "cpr-transfer": 9, "x-ignore-shared": 8}[design]
    pause = noisy(random_, pause * (1.7 if disturbed else 1))
    guest = pause + noisy(random_, 32)
    phases = {
        "prepare": noisy(random_, 100), "launch": noisy(random_, 47), "exchange": noisy(random_, 55 if not baseline else 6),
        "verify": noisy(random_, 13), "pause": pause + (0.9 * ram_mib if design == "copy" else 0), "confirm": noisy(random_, 4), "retire": noisy(random_, 60),
    }
    brown_out = noisy(random_, 120 if baseline else 60, 0.4) if random_.random() > 0.05 else None
    bins, first, width = 120, -500, 25
    curve = []
    for index in range(bins):
        time = first + index * width
        level = 100 if time < -guest else 0 if time < 0 else 100 * (1 - 0.75 * math.exp(-(time + 12) / ((brown_out or 400) / 1.6)))
        curve.append(None if random_.random() < 0.03 else round(max(0, random_.gauss(level, 3)), 1))
    sent = 167 * 1024 if not baseline else int(ram_mib * MIB)
    return {
        "round": number, "vm": 1, "order": order, "outcome": "upgraded", "cause": "", "stealPercent": 11.5 if disturbed else round(random_.random(), 2),
        "disturbed": disturbed, "disturbedBy": "steal: 11.5 %, more than 5 %; before the handover some task waited for a CPU for 30.0 % of the time, more than 25 % of the time" if disturbed else "", "startedAt": "2026-03-02T08:20:00.123Z", "phasesMs": phases, "totalMs": sum(phases.values()), "stopToResumeMs": pause, "guestPauseMs": guest,
        "beats": {"before": {"medianMs": 1.0, "p99Ms": 1.6, "longestMs": 4.2}, "after": {"medianMs": 1.0, "p99Ms": noisy(random_, 2.4), "longestMs": 6.1}, "lost": 0, "repeated": 0},
        "writeRate": {"beforePagesPerSecond": 91000, "brownOutMs": brown_out, "binMs": width, "firstBinMs": first, "curvePercent": curve} if cell["load"] == "memory" else None,
        "network": {"sent": 2500, "lost": random_.choice([0, 0, 0, 1, 2]) if design != "save-restore" else 40, "longestGapMs": guest + noisy(random_, 3)} if "network" in cell["devices"] else None,
        "bytesSent": sent, "ramCopiedBytes": sent if baseline else 0, "pageFaults": {"minor": int(noisy(random_, 9000)), "major": 0},
        "patterns": {"intact": True, "pagesChecked": 65000, "mismatches": 0},
    }


def an_inspection(random_, design, cell):
    made_by = {"relayed": ("manager", "inherited"), "manager-owned": ("manager", "inherited"), "vmm-owned": ("old VMM", "CPR channel"), "vmm-exec": ("old VMM", "exec"), "copy": ("new VMM", ""), "save-restore": ("new VMM", ""), "cpr-transfer": ("old VMM", "CPR channel"), "x-ignore-shared": ("manager", "inherited")}[design]
    names = [(f"{name}", *made_by) for name in ("web1/ram0", "web1/net0")]
    if design == "relayed":
        names += [(name, "old VMM", "relay") for name in ("pc.bios", "vga.vram", "/rom@etc/acpi/tables")]
    names += [(name, "new VMM", "") for name in ("anon_inode:[eventpoll]", "socket:monitor", "/dev/urandom")]
    extra = {"copy": cell["ramBytes"], "save-restore": 30 * MIB}.get(design, 42 * MIB)
    traced = design != "vmm-exec"
    return {
        "memoryOldBytes": cell["touchedBytes"] + 90 * MIB, "memoryBothBytes": cell["touchedBytes"] + 90 * MIB + extra,
        "memoryPeakBytes": cell["touchedBytes"] + 92 * MIB + extra, "memorySamples": 40, "extraMemoryBytes": int(noisy(random_, extra, 0.05)),
        "descriptors": [{"name": name, "createdBy": created, "passedBy": passed} for name, created, passed in names],
        "ioctls": {"KVM": 0, "VFIO": 0, "iommufd": 0, "vhost": 0, "tap": 4, "other": 9} if traced else None, "memfds": 3 if traced else None,
        "untraced": "" if traced else "exec replaces the traced process",
    }


def value_of(round_, path):
    value = round_
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def ratio_of(random_, metric, design, reference, paired):
    ratio = median_interval(random_, paired)
    greater = sum(one > 1 for one in paired)
    p = min(1, 2 * sum(math.comb(len(paired), k) for k in range(min(greater, len(paired) - greater) + 1)) / 2 ** len(paired)) if len(paired) >= 12 else None
    verdict = "too few rounds to say" if p is None else "no difference shown" if p > 0.001 else "larger" if greater > len(paired) / 2 else "smaller"
    if verdict == "no difference shown" and ratio["low"] > 1 / 1.1 and ratio["high"] < 1.1:
        verdict = "equivalent"
    return {"metric": metric, "design": design, "reference": reference, "count": len(paired), "rounds": len(paired), **ratio, "p": p, "pHolm": p, "verdict": verdict}


def summarize(random_, cells):
    """As plain as it can be; the product's own is manager/compare/summary.cpp."""
    summary, pooled = [], {}
    for cell in cells:
        values, series_summaries, ratios = {}, [], []
        for series in cell["series"]:
            counted = [one for one in series["rounds"] if one["outcome"] == "upgraded" and not one["disturbed"]]
            metrics = {}
            for name, path in METRICS.items():
                by_round = {one["round"]: value for one in counted if (value := value_of(one, path)) is not None}
                values[series["design"], name] = by_round
                flat = sorted(by_round.values())
                metrics[name] = {**median_interval(random_, flat), "count": len(flat), "min": flat[0] if flat else None, "max": flat[-1] if flat else None, "p99": flat[int(len(flat) * 0.99)] if len(flat) >= 90 else None}
            upgraded = sum(one["outcome"] == "upgraded" for one in series["rounds"])
            series_summaries.append({"design": series["design"], "rounds": len(counted), "failed": len(series["rounds"]) - upgraded, "disturbed": upgraded - len(counted), "metrics": metrics})
        designs = [series["design"] for series in cell["series"] if series["rounds"]]
        contrasts = [(one, "relayed") for one in designs if one != "relayed" and "relayed" in designs]
        if "manager-owned" in designs and "vmm-owned" in designs:
            contrasts.insert(0, ("manager-owned", "vmm-owned"))
        contrasts += [pair for pair in BY_HAND if set(pair) <= set(designs)]
        for metric in COMPARED:
            for design, reference in contrasts:
                a, b = values[design, metric], values[reference, metric]
                if not a and not b:
                    continue
                paired = [a[key] / b[key] for key in a if key in b]
                pooled.setdefault((metric, design, reference, cell["accelerator"]), []).append(paired)
                ratios.append(ratio_of(random_, metric, design, reference, paired))
        summary.append({"id": cell["id"], "series": series_summaries, "ratios": ratios})
    answer = ["Who should own guest RAM is not known: these rounds were made up, manager-owned / vmm-owned is 1.02 (95 % 0.90 - 1.10).", "Every design loses packets: 1 in each handover.", HOSTILE[0]]
    return {"cells": summary, "answer": answer, "pooled": [{**ratio_of(random_, *key, sum(of_cells, [])), "accelerator": accelerator, "cells": len(of_cells), **({"primary": True} if key[0] in PRIMARY and key[1:] == ("manager-owned", "vmm-owned") else {})}
                                                              for (*parts, accelerator), of_cells in pooled.items() for key in [tuple(parts)]]}


def results_of(seed, pairs, sizes, designs, rounds, loads=("memory",), devices=(("disk", "network"),), hostile=True, failures=True):
    random_ = random.Random(seed)
    cells = []
    for load in loads:
        for device_set in devices:
            for old, new in pairs:
                for size in sizes:
                    cell = {
                        "id": f"{size}MiB-{load}-{'+'.join(device_set)}-{old}-{new}", "title": "", "old": old, "new": new, "ramBytes": size * MIB, "touchedBytes": size * MIB // 2,
                        "pageSizeBytes": 4096, "vcpus": 1, "devices": list(device_set), "load": load, "vms": 1, "accelerator": "kvm" if load == "idle" else "tcg", "series": [],
                    }
                    for design in designs:
                        not_run = "QEMU 10.0.2 has no cpr-exec: it came with 10.2" if design == "vmm-exec" and old == 0 else ""
                        cell["series"].append({"design": design, "notRun": not_run, "rounds": [], "inspection": None if not_run else an_inspection(random_, design, cell)})
                    for number in range(1, rounds + 1):
                        running = [series for series in cell["series"] if not series["notRun"]]
                        random_.shuffle(running)
                        for order, series in enumerate(running, 1):
                            series["rounds"].append(a_round(random_, series["design"], cell, number, order, failures and random_.random() < 0.04))
                    cells.append(cell)
    if failures:
        for index, cell in enumerate(cells):
            for series in cell["series"][:3]:
                if len(series["rounds"]) > 9:
                    bad = series["rounds"][(index * 3 + 4) % 10]
                    bad.update({"outcome": "rolled back", "cause": "the new VMM exited with status 1: VQ 0 vring.num 1024 exceeds allocated max 128", "stopToResumeMs": None, "guestPauseMs": None, "network": None, "writeRate": None})
    if hostile:
        cells[0]["title"] = HOSTILE[0]
        for text, one in zip(HOSTILE, cells[-1]["series"][-1]["rounds"][:len(HOSTILE)]):
            one.update({"outcome": "refused", "cause": text})
        cells[0]["series"][0]["inspection"]["descriptors"].append({"name": HOSTILE[0], "createdBy": HOSTILE[2], "passedBy": HOSTILE[1]})
    return {
        "format": "virt-handover-compare/1", "version": "0.1.0", "command": ["virt-handover", "compare", "--pair", "qemu-10.0,qemu-11.1", "--rounds", str(rounds), "it's"],
        "startedAt": "2026-03-02T08:15:00Z", "finishedAt": "2026-03-02T10:07:30Z", "seed": seed,
        "settings": {"plan": f"rounds: {rounds}\nram:\n  - size: 512MiB\n", "definition": None, "bootWaitMs": 0, "rounds": rounds, "warmUpRounds": 1, "beforeMs": 1000, "afterMs": 1500, "stealLimitPercent": 5, "equivalenceMarginPercent": 10, "primaryMetrics": PRIMARY},
        "host": {"cpu": "AMD EPYC 9R14", "cpus": 2, "memoryBytes": 24 << 30, "kernel": "6.18.0", "os": "Debian GNU/Linux 12 (bookworm)", "pageSizeBytes": 4096, "accelerator": "tcg", "virtualized": True, "loadAverage1": 0.31, "stealPercent": 0.4, "runQueue": 0.5},
        "vmms": [{"binary": "/opt/old/bin/qemu-system-x86_64", "version": "10.0.2", "buildId": "8f1c2ad0"}, {"binary": "/opt/new/bin/qemu-system-x86_64", "version": "11.1.3", "buildId": ""}],
        "sittings": [{"startedAt": "2026-03-02T08:15:00.123Z", "finishedAt": None, "command": ["virt-handover", "compare"], "evenIfBusy": False}, {"startedAt": "2026-03-02T09:15:00.123Z", "finishedAt": "2026-03-02T10:07:30.123Z", "command": ["virt-handover", "compare", "--resume", "it's"], "evenIfBusy": True}],
        "cells": cells, "summary": summarize(random_, cells),
        "notes": ["There is no usable KVM on this host: all figures are from TCG, which translates the guest's code anew in each QEMU process."] + (HOSTILE if hostile else []),
    }


def without_values(value, depth=0):
    """Every value that may be null, null: what the page has to stand."""
    if isinstance(value, dict):
        kept = ("id", "design", "name", "outcome", "round", "metric", "reference")
        return {key: (item if key in kept else without_values(item, depth + 1)) for key, item in value.items()}
    if isinstance(value, list):
        return [without_values(item, depth + 1) for item in value]
    return None


def make(variant):
    pairs, sizes = [(0, 1), (1, 1)], [512, 2048, 8192]
    if variant == "full":
        return results_of(7, pairs, sizes, DESIGNS, 30)
    if variant == "one-cell":
        return results_of(7, [(1, 1)], [512], DESIGNS, 12, hostile=False, failures=False)
    if variant == "one-design":
        results = results_of(7, [(0, 1)], [512], ["relayed"], 3, loads=("idle",), devices=((),), hostile=False, failures=False)
        results["finishedAt"] = None
        return results
    if variant == "no-round":
        results = results_of(7, [(0, 1)], [512], DESIGNS, 2, failures=False)
        for series in results["cells"][0]["series"]:
            series["inspection"] = None
            for one in series["rounds"]:
                one.update({"outcome": "lost", "cause": "both VMMs died", "stopToResumeMs": None, "guestPauseMs": None})
        results["summary"] = summarize(random.Random(1), results["cells"])
        return results
    if variant == "nulls":
        return without_values(results_of(7, [(0, 1)], [512, 1024], DESIGNS, 2))
    if variant == "many":
        return results_of(7, pairs, sizes, DESIGNS, 100, loads=("memory", "idle"))
    return {}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="full", choices=["full", "one-cell", "one-design", "no-round", "nulls", "many", "bare"])
    json.dump(make(parser.parse_args().variant), sys.stdout)
