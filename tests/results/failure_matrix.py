#!/usr/bin/env python3
"""usage: tests/results/failure_matrix.py [--check]

Writes failure-matrix.md, the readers' form of failure-matrix.json; with --check says whether it is that, and exits with 1 if not.
"""
import json, os, sys

from published import HERE, publish

STATES = ["preflight", "launching", "exchanging", "verifying", "standing by", "switching", "proving", "confirming", "retiring"]
STEPS = ["start", "monitor", "verify", "verify@2", "incoming", "cpr-sent", "cpr-received", "hang-up", "migrate", "stream-begin", "stream-middle",
         "stream-end", "cont", "quit"]
HEAD = """# What becomes of a handover in which something fails

Made from `failure-matrix.json` by `failure_matrix.py`. Every line was seen by a test and is seen by it again in every run, which fails when it
sees otherwise: failures of a VMM with the reference VMM (`tests/system/faults_test.cpp`, whose guest notices memory that is not as it left it and
any second that it ran twice), the manager's death with real QEMUs (`host_test.cpp`, `vmm_exec_test.cpp`).

- *rolled back*: the guest runs on the old VMM as before; *never stopped*: it did not pause for it. Else it stood still from STOP on the old VMM until it ran there again: *before any deadline*: until the
  failure was seen, which ended it and not a deadline; *at a deadline*: until that of the step or the pause budget (`handover.deadlines`, `handover.pause_budget` of the definition), since a VMM that hangs tells of nothing. How many
  milliseconds that is, no test asserts: it is the machine's
- *upgraded*: the failure came too late to matter
- *refused*: nothing had been begun
- *silent*: the new VMM said that it runs the guest, and the guest was not heard; the report says so
- *lost*: no VMM that is left can be shown to have the guest; nothing is ended, and the report says where to look
- *on the old VMM*, *on the new VMM*: where the guest runs once the next manager, or any verb, has recovered it
- *-*: not tried, or not possible with this design. VMMs that hang take their deadlines' time, and so do it at every step with the default design only

Where is the rest? `vmm-exec` replaces the program of one process, which the reference VMM cannot do: what becomes of failures of its VMM is in `vmm_exec_test.cpp`, one by one (before the exec it goes back, after it
the guest is lost or where it is). `copy` and `save-restore` are baselines, tried in `host_test.cpp` with a new VMM that cannot load the guest and one that dies with the guest stopped: both go back.
"""


def ordered(names, order):
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def table(matrix, victim, order, title):
    designs = [design for design in matrix if victim in matrix[design]]
    rows = {}
    for design in designs:
        for step, kinds in matrix[design][victim].items():
            for kind, outcome in kinds.items():
                rows.setdefault((step, kind), {})[design] = outcome
    lines = [f"## {title}", "", f"| at | it | {' | '.join(f'`{design}`' for design in designs)} |", "|---|---|" + "---|" * len(designs)]
    for step in ordered({step for step, _ in rows}, order):
        kinds = {}  # By what becomes of them.
        for kind in sorted(kind for other, kind in rows if other == step):
            kinds.setdefault(tuple(rows[step, kind].get(design, "-") for design in designs), []).append(f"`{kind}`")
        for outcomes, its in kinds.items():
            lines.append(f"| {step} | {', '.join(its)} | {' | '.join(outcomes)} |")
    return "\n".join(lines) + "\n"


def main():
    with open(os.path.join(HERE, "failure-matrix.json")) as file:
        matrix = json.load(file)
    text = "\n".join([HEAD, table(matrix, "manager", STATES, "The manager dies (SIGKILL)"),
                      table(matrix, "new VMM", STEPS, "The new VMM fails"), table(matrix, "old VMM", STEPS, "The old VMM fails")])
    return publish("failure-matrix", text, "failure-matrix.json")


sys.exit(main())
