#!/usr/bin/env python3
"""What a handover costs a guest under KVM, beside the same guest under TCG: by design and by size of RAM.

The guest is the bare one (tests/bare-guest), which both run on any host that has a KVM at all; its README says what of these figures
holds on real hardware. All series are measured in one run, in rounds, in random order within a round (see handover_benchmark.py); those
with RAM of the manager's share a VM. Sizes that do not fit into this host's memory with all others are left out, and named.

VH_CLI, VH_BARE_GUEST and VH_BARE_FIRMWARE (set by meson) and VH_QEMU_NEW (scripts/lib.sh) say what to measure. The exit status is 77
where there is no KVM.
"""

import argparse
import contextlib
import os
import platform
import random
import shutil
import signal
import subprocess
import sys

sys.dont_write_bytecode = True  # No __pycache__ in the source tree.
from handover_benchmark import OWNERS, CannotRun, ManagedVm, Results, Workspace, available_mib, interrupt, measure, run, say

SIZES_MIB = (128, 512, 2048, 8192)  # Of RAM that is touched.
UNTOUCHED_MIB = 64
HOST_MIB = 2048
SETS = {owner: [design for design in ("relayed", "manager-owned", "vmm-owned") if OWNERS[design] == owner] for owner in ("manager", "vmm")}
ACCELERATORS = ("kvm", "tcg")


class BareVm(ManagedVm):
    def settle(self):
        for patience_s in (1, 4):  # A port may stay silent for a new listener, for ever, and speak to the next one.
            with contextlib.suppress(TimeoutError):
                return super().settle(patience_s)
        return super().settle()


def guest(workspace, accelerator, size):
    return {"accelerator": accelerator, "cpu": "kvm64", "tag": accelerator[0], "boot": f"""
  kernel: {workspace.path}/bare-guest.elf
  firmware: {workspace.path}/bare-firmware.bin
  cmdline: "bare probe.write_mib={min(16, size // 8)}"""}


def fitting(sizes, results):
    left, fit = available_mib() - HOST_MIB, []
    for size in sizes:
        needed = size * len(ACCELERATORS) * len(SETS)
        if needed <= left:
            fit.append(size)
            left -= needed
        else:
            results.not_measured.append(f"{size} MiB: {needed} MiB of memory are needed beside the smaller ones, {left} MiB are left")
    return fit


def measure_all(workspace, results, sizes, rounds, warm_ups):
    for name, variable in (("bare-guest.elf", "VH_BARE_GUEST"), ("bare-firmware.bin", "VH_BARE_FIRMWARE")):
        shutil.copy(os.environ[variable], f"{workspace.path}/{name}")  # Where the VMMs' user can read them.
    sizes = fitting(sizes, results)
    with contextlib.ExitStack() as vms:
        series = {}
        for accelerator in ACCELERATORS:
            for size in sizes:
                for owner, designs in SETS.items():
                    say(f"{accelerator}: a guest of {size} MiB with RAM of the {owner}'s fills it")
                    touched = size - min(16, size // 8)
                    vm = vms.enter_context(BareVm(workspace, designs[0], size + UNTOUCHED_MIB, touched,
                                                     guest=guest(workspace, accelerator, size)))
                    vm.monitor("stop")
                    series |= {f"{accelerator} {size} MiB {design}": (vm, {"design": design}) for design in designs}
        results.add("kvm", measure("kvm", series, rounds, warm_ups, results.random))
    for metric in ("stopToResumeMs", "pauseMs"):
        for accelerator in ACCELERATORS:
            for size in sizes:
                for design in ("manager-owned", "vmm-owned"):
                    results.compare("kvm", f"{accelerator} {size} MiB {design}", f"{accelerator} {size} MiB relayed", metric)
            for design in sum(SETS.values(), []):
                if len(sizes) > 1:
                    results.compare("kvm", f"{accelerator} {sizes[-1]} MiB {design}", f"{accelerator} {sizes[0]} MiB {design}", metric)
        for design in sum(SETS.values(), []):
            results.compare("kvm", f"kvm {sizes[0]} MiB {design}", f"tcg {sizes[0]} MiB {design}", metric)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="rounds to measure, after one to warm up (12)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES_MIB, metavar="MIB", help="of RAM that is touched (128 512 2048 8192)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of the order and the intervals")
    chosen = parser.parse_args()
    if missing := [name for name in ("VH_CLI", "VH_BARE_GUEST", "VH_BARE_FIRMWARE", "VH_QEMU_NEW") if not os.environ.get(name)]:
        parser.exit(1, f"{', '.join(missing)} must be set: see scripts/lib.sh\n")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        parser.exit(77, "'/dev/kvm' is not there, or not ours to use\n")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    print(f"seed {chosen.seed}, {chosen.rounds} rounds, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, kernel {platform.release()}", flush=True)
    results, status = Results(chosen.seed), 0
    with Workspace() as workspace:
        try:
            measure_all(workspace, results, sorted(chosen.sizes), chosen.rounds, 1)
        except (CannotRun, OSError, RuntimeError, ValueError, StopIteration, subprocess.CalledProcessError) as problem:
            results.not_measured.append(f"could not be run: {problem}")
            status = 1
    print(f"\n{results.text()}\n")
    return status


if __name__ == "__main__":
    run(main)
