#!/usr/bin/env python3
"""usage: tests/results/check_other_results.py VIRT_HANDOVER

Makes other results of the published ones, has the product draw them, and lets figures.py write and check a README of each: whatever a
result is, its answer, tables and sentences have to be those of its rounds, and to be written without anybody's help.
"""
import copy, json, os, subprocess, sys, tempfile

sys.dont_write_bytecode = True
from figures import primary_metrics

HERE = os.path.dirname(os.path.abspath(__file__))
README = "".join(f"<!-- figures: {name} -->\n<!-- end -->\n" for name in ("setup", "answer", "cells", "pooled", "says"))


def rounds_of(results):
    return [(series, round_) for cell in results["cells"] for series in cell["series"] for round_ in series["rounds"]]


def keep(results, rounds=None, designs=None, cells=None):
    before = json.dumps(results)
    results["cells"] = results["cells"][:cells]
    for cell in results["cells"]:
        cell["series"] = [series for series in cell["series"] if designs is None or series["design"] in designs]
        for series in cell["series"]:
            series["rounds"] = [round_ for round_ in series["rounds"] if rounds is None or round_["round"] <= rounds]
    if json.dumps(results) == before:
        sys.exit(f"the published results have nothing that is left out with rounds={rounds}, designs={designs}, cells={cells}")


def fail(results):
    for series, round_ in rounds_of(results):
        round_.update(outcome="rolled back", cause="it was said to")


def disturb(results):
    for series, round_ in rounds_of(results):
        round_["disturbed"] = series["design"] == "vmm-owned" and round_["round"] % 2 == 0


def slow_down(results):
    results["settings"]["primaryMetrics"] = primary_metrics(results["settings"])  # Else nothing is claimed by them.
    for series, round_ in rounds_of(results):
        if series["design"] == "manager-owned":
            round_.update(stopToResumeMs=round_["stopToResumeMs"] * 3, guestPauseMs=round_["guestPauseMs"] and round_["guestPauseMs"] * 2)


def make_alike(results):
    for series, round_ in rounds_of(results):
        round_["stopToResumeMs"] = round_["guestPauseMs"] = 40 + round_["round"] % 7 + (round_["round"] % 3 - 1) * len(series["design"]) / 40
        if round_["writeRate"]:
            round_["writeRate"].update(brownOutMs=50, workLostMs=round_["stopToResumeMs"])


def silence(results):
    for _, round_ in rounds_of(results):
        round_.update(guestPauseMs=None, writeRate=None, network=None, beats=None)


def cut_off(results):
    results["settings"]["primaryMetrics"] = ["workLostMs"]
    for _, round_ in rounds_of(results):
        if round_["network"] and round_["round"] % 2:
            round_["network"]["notBack"] = True
        if round_["writeRate"]:
            round_["writeRate"].update(brownOutMs=None, workLostMs=100 + round_["round"])


def lose_nothing(results):
    for _, round_ in rounds_of(results):
        if round_["network"]:
            round_["network"]["lost"] = 0


OTHERS = {
    "fewer rounds": (lambda results: keep(results, rounds=7), None),
    "few rounds": (lambda results: keep(results, rounds=5, cells=1), "Too few rounds to say who should own guest RAM"),
    "one design": (lambda results: keep(results, designs=["vmm-owned"]), "Only vmm-owned has handovers that count"),
    "no owners": (lambda results: keep(results, designs=["relayed", "copy"]), "is not answered here"),
    "one cell": (lambda results: keep(results, cells=1), None),
    "all failed": (lambda results: (keep(results, rounds=3), fail(results)), "none can be counted"),
    "no cell": (lambda results: keep(results, cells=0), "There is no handover yet"),
    "a busy host": (disturb, "The host was too busy to say who should own guest RAM"),
    "the other way round": (slow_down, "the guest loses less time when the VMM owns its RAM"),
    "alike": (make_alike, "it makes no difference beyond 10 % who owns its RAM"),
    "a silent guest": (silence, "What the network lost was not measured"),
    "cut off": (cut_off, "by guest work lost manager-owned takes an unknown number of times as long as vmm-owned"),
    "no packet lost": (lose_nothing, "where alone the guest has a network, as a rule no packet is lost"),
}


def main(program):
    with open(os.path.join(HERE, "results.json")) as file:
        published = json.load(file)
    failed = []
    for name, (change, wanted) in OTHERS.items():
        with tempfile.TemporaryDirectory(prefix="other-results-") as directory:
            results = copy.deepcopy(published)
            change(results)
            path = os.path.join(directory, "results.json")
            with open(path, "w") as file:
                json.dump(results, file)
            with open(os.path.join(directory, "README.md"), "w") as file:
                file.write(README)
            steps = [[program, "compare", "--resume", directory], [sys.executable, "-B", os.path.join(HERE, "figures.py"), path],
                     [sys.executable, "-B", os.path.join(HERE, "figures.py"), "--check", path]]
            problem = ""
            for step in steps if results["cells"] else steps[:1]:
                done = subprocess.run(step, capture_output=True, text=True)
                if done.returncode != (0 if results["cells"] else 2):  # Nothing was measured.
                    problem = f"{' '.join(step)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
                    break
            with open(path) as file:
                answer = " ".join((json.load(file)["summary"] or {}).get("answer", []))
            if not problem and wanted and wanted not in answer:
                problem = f"the answer does not say '{wanted}': {answer}"
            print(f"{name}: {problem or 'ok'}", flush=True)
            failed += [name] if problem else []
            if "--show" in sys.argv:
                with open(os.path.join(directory, "README.md")) as file:
                    print(file.read())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if len(sys.argv) > 1 else __doc__)
