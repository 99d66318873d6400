#!/usr/bin/env python3
"""Whether `virt-handover compare --check` can be relied on: quiet where nothing changed, loud where something did.

Pairs of whole comparisons of the same two binaries, one after the other: what --check calls a regression there is a false alarm. Then what
it must find, done to the reference VMM: a guest that does not run on, a handover that fails after its way back is gone, and a stop that
takes half as long again. The exit status is 1 when any of them was judged wrongly, or could not be judged.

VH_CLI, VH_REFERENCE_VMM, VH_BARE_GUEST and VH_BARE_FIRMWARE (set by meson) and VH_QEMU_NEW (scripts/lib.sh) say what to measure.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True  # No __pycache__ in the source tree.
from handover_benchmark import Workspace, run, say

DESIGNS = ("relayed", "manager-owned", "vmm-owned")
STOP_MS, LONGER = 20, 1.5
BUSY_ATTEMPTS, BUSY_SECONDS = 10, 30
FAULTS = {  # What a new reference VMM does: name -> its fault, and the figure by which it must be found.
    "a guest that does not run on": ("cont=lie", "failures"),
    "a way back that is lost": ("cont=die", "wayBack"),
    f"a stop {LONGER} times as long": (f"stream-end=slow:{STOP_MS * LONGER:.0f}", "stopToResumeMs"),
}


def command(*arguments):
    return subprocess.run([os.environ["VH_CLI"], "compare", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)


class Comparisons:
    def __init__(self, workspace, rounds):
        self.path, self.rounds, self.count = workspace.path, rounds, 0

    def measured(self, old, new, keys, *options):
        """The results.json of one comparison."""
        self.count += 1
        plan, output = f"{self.path}/plan.yaml", f"{self.path}/{self.count}"
        with open(plan, "w") as file:
            file.write(f"pairs: [{{old: {old}, new: {new}}}]\nrounds: {self.rounds}\nseed: {self.count}\n{keys}")
        # What disturbs a moment before a comparison begins is waited for, and told: a run takes most of an hour.
        for attempt in range(BUSY_ATTEMPTS):
            made = command("--plan", plan, "--output", output, *options)
            if "too busy to measure" not in made.stderr or attempt == BUSY_ATTEMPTS - 1:
                break
            say(f"comparison {self.count}: {made.stderr.strip().splitlines()[-1]}")
            time.sleep(BUSY_SECONDS)
        if made.returncode != 0:
            raise RuntimeError(f"the comparison ended with {made.returncode}: {made.stderr.strip()[-500:]}")
        return f"{output}/results.json"

    def of_qemu(self):
        qemu = os.environ["VH_QEMU_NEW"]
        return self.measured(qemu, qemu, f"bare_guest: {{kernel: {self.path}/bare-guest.elf, firmware: {self.path}/bare-firmware.bin}}\n"
                             "accelerators: [kvm]\nram: [{size: 256MiB, touched: 128MiB}]\ndevices: [disk]\nloads: [memory]\n"
                             "warm_up_rounds: 1\nbefore: 300ms\nafter: 600ms\n", *(f"--design={design}" for design in DESIGNS))

    def of_reference_vmm(self, fault):
        vmm = os.environ["VH_REFERENCE_VMM"]
        faulty = f"{self.path}/new-{self.count}"
        with open(faulty, "w") as file:
            file.write(f'#!/bin/sh\nexec {vmm} "$@" --fault {fault}\n')
        os.chmod(faulty, 0o755)
        return self.measured(vmm, faulty, "ram: [{size: 192MiB, touched: 16MiB}]\ndevices: [none]\nloads: [idle]\nwarm_up_rounds: 0\n"
                             "after: 500ms\n", "--kernel", "/dev/null", "--initrd", "/dev/null", "--design", "relayed", "--even-if-busy")


def checked(before, now):
    """Which figures are worse, in words, and how many could be compared."""
    answer = command("--check", before, "--with", now, "--json")
    said = json.loads(answer.stdout)
    return {finding["figure"]: finding["text"] for finding in said["found"]["regressions"]}, said


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of comparisons of the same binaries (20)")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of each comparison (12)")
    chosen = parser.parse_args()
    needed = ("VH_CLI", "VH_REFERENCE_VMM", "VH_BARE_GUEST", "VH_BARE_FIRMWARE", "VH_QEMU_NEW")
    if missing := [name for name in needed if not os.environ.get(name)]:
        parser.exit(1, f"{', '.join(missing)} must be set: see scripts/lib.sh\n")
    wrong = 0
    with Workspace() as workspace:
        for name, variable in (("bare-guest.elf", "VH_BARE_GUEST"), ("bare-firmware.bin", "VH_BARE_FIRMWARE")):
            shutil.copy(os.environ[variable], f"{workspace.path}/{name}")  # Where the VMMs' user can read them.
        comparisons = Comparisons(workspace, chosen.rounds)
        baseline = comparisons.of_reference_vmm(f"stream-end=slow:{STOP_MS}")
        for title, (fault, figure) in FAULTS.items():
            found, _ = checked(baseline, comparisons.of_reference_vmm(fault))
            wrong += figure not in found
            print(f"{title}: {'found: ' + found[figure] if figure in found else f'NOT FOUND by {figure}: {sorted(found)}'}", flush=True)
        quiet = compared = 0
        for pair in range(chosen.pairs):
            say(f"pair {pair + 1} of {chosen.pairs}")
            found, said = checked(comparisons.of_qemu(), comparisons.of_qemu())
            judged = said["comparisons"] >= 3 * len(DESIGNS)  # STOP to RESUME, the guest's pause and the whole handover at least.
            compared += said["comparisons"]
            quiet += judged and not found
            for text in [*found.values(), *([] if judged else said["notCompared"])]:
                print(f"pair {pair + 1}: {'false alarm' if found else 'not judged'}: {text}", flush=True)
        wrong += chosen.pairs - quiet
        print(f"the same binaries: quiet in {quiet} of {chosen.pairs} pairs, in all {compared} comparisons of figures", flush=True)
    return wrong > 0


if __name__ == "__main__":
    run(main)
