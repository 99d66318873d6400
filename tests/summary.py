#!/usr/bin/env python3
"""usage: tests/summary.py BUILD STEP=SECONDS... [failed=STEP]...

What scripts/test says at its end: what the failed tests said, what took how long, what was skipped and what failed, and how many single
cases there were. The shorter, the later: of a long log, readers often get the end alone.

Counts cases, not programs. Meson's testlog.json says how each program ended; its JUnit file has the cases of those GoogleTest programs
that lived to write them. A program that failed without a failed case (crash, time-out), or that passed without running any case, counts as
one failure.
"""
import json, os, subprocess, sys
import xml.etree.ElementTree as ElementTree

build, arguments = sys.argv[1], [argument.split("=", 1) for argument in sys.argv[2:]]
steps = {name: int(value) for name, value in arguments if name != "failed"}
failed_before_tests = [value for name, value in arguments if name == "failed" and not value.startswith("meson-test")]
failed_as_a_whole = [f"meson test ended with status {value.split(':')[1]}" for name, value in arguments if value.startswith("meson-test:")]
logs = os.path.join(build, "meson-logs")
log_names = ("testlog", "testlog-hosts")  # See run.py.
passed, failed, skipped = 0, [], []
what_they_said = {}  # By the titles in `failed`.

def shortened(text, lines=25, width=500):
    kept = [line[:width] for line in text.strip().splitlines()]
    return kept if len(kept) <= lines else kept[:lines] + [f"... and {len(kept) - lines} lines more"]

def last_words(program):
    """Of one that was lost it is its standard error that says why."""
    said = [(program.get(stream) or "").strip().splitlines()[-45:] for stream in ("stdout", "stderr")]
    return shortened("\n".join(line for lines in said for line in lines), lines=90)

def programs():
    found = []
    for name in log_names:
        try:
            with open(os.path.join(logs, name + ".json")) as log:
                found += [json.loads(line) for line in log]
        except FileNotFoundError:
            pass
    return found

def cases(program):
    """The <testcase> elements of one GoogleTest program; meson names its suites PROJECT.PROGRAM.SUITE, with the log's name for
    the program: `virt-handover:unit / bytes`."""
    prefix = f"{project}.{program['name']}."
    return [case for suite in suites if suite.get("name", "").startswith(prefix) for case in suite.iter("testcase")]

suites = []
for log_name in log_names:
    try:
        suites += ElementTree.parse(os.path.join(logs, log_name + ".junit.xml")).getroot().iter("testsuite")
    except (FileNotFoundError, ElementTree.ParseError):
        pass

introspected = subprocess.run(["meson", "introspect", build, "--tests"], check=True, capture_output=True, text=True).stdout
gtest_programs = {test["name"] for test in json.loads(introspected) if test["protocol"] == "gtest"}
introspected = subprocess.run(["meson", "introspect", build, "--projectinfo"], check=True, capture_output=True, text=True).stdout
project = json.loads(introspected)["descriptive_name"]

for program in programs():
    name, result = program["name"].rsplit(" / ", 1)[-1], program["result"]
    good = result in ("OK", "EXPECTEDFAIL")
    if name not in gtest_programs:
        if result == "SKIP":
            skipped.append((name, (program.get("stdout") or "").strip().rpartition("\n")[2] or "no reason given"))
        elif good:
            passed += 1
        else:
            failed.append(f"{name}: {result}")
            what_they_said[failed[-1]] = last_words(program)
        continue
    failed_before, ran = len(failed), 0
    for case in cases(program):
        title = f"{name}: {case.get('classname')}.{case.get('name')}"
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(title)
            problems = [*case.iter("failure"), *case.iter("error")]
            what_they_said[title] = shortened("\n".join(problem.get("message") or problem.text or "" for problem in problems))
        elif skip is not None:
            # GoogleTest puts FILE:LINE before the reason.
            reason = (skip.get("message") or skip.text or "").strip().split("\n")
            skipped.append((title, " ".join(reason[1:] or reason).strip() or "no reason given"))
        elif case.get("status") != "notrun":
            passed += 1
        else:
            continue  # DISABLED_ by its author.
        ran += 1
    if not good and len(failed) == failed_before:
        failed.append(f"{name}: {result} (exit status {program.get('returncode')})")
        what_they_said[failed[-1]] = last_words(program)
    elif good and ran == 0:
        failed.append(f"{name}: no test in it ran")

failed += failed_before_tests
if not failed:
    failed += failed_as_a_whole
if passed == 0 and not failed:
    failed.append("no test ran")


def print_times():
    """Against the budgets, for steps and programs; what has none (unit tests) is one row. Programs run side by side, so their sum is more
    than what the tests took."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "budgets.json")) as file:
        budgets = json.load(file)
    rows, others = [(name, seconds, budgets["steps"].get(name)) for name, seconds in steps.items()], 0
    rows.append(("all", sum(steps.values()), budgets["steps"]["all"]))
    for program in sorted(programs(), key=lambda program: -program["duration"]):
        name = program["name"].rsplit(" / ", 1)[-1]
        if name in budgets["programs"]:
            rows.append(("  " + name, program["duration"], budgets["programs"][name]))
        else:
            others += program["duration"]
    if others:
        rows.append(("  all others", others, budgets["others"]))
    print(f"{'':24}{'seconds':>8}{'budget':>8}")
    for name, seconds, budget in rows:
        over = "" if budget is None or seconds <= budget else "  over its budget"
        print(f"{name:24}{seconds:8.0f}{'-' if budget is None else budget:>8}{over}")


for title, lines in what_they_said.items():
    print(f"\n{title} said:")
    for line in lines:
        print(f"         {line}")
print()
print_times()
print()
for title, reason in skipped:
    print(f"skipped  {title}: {reason}")
for title in failed:
    print(f"FAILED   {title}")
if failed:
    print(f"Next: read what the failed tests said, above or in {logs}/testlog.txt; "
          f"scripts/test NAME runs one test program alone.")
elif skipped:
    print("Next: the reasons above say what the skipped tests need; scripts/demo shows a handover.")
else:
    print("Next: scripts/demo shows handovers of a real guest.")
print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
sys.exit(1 if failed else 0)
