#!/usr/bin/env python3
"""Hands VMs over with every design, and writes where the pause went inside QEMU (pause-parts.json).

usage: tests/results/pause_parts.py BUILD [--rounds 12] [--only ACCELERATOR/DEVICES,...] [--output FILE] [--check]

As root, with the QEMU and the Linux guest of scripts/setup; a few minutes, on a machine that does nothing else. It goes into a network namespace
of its own, for a bridge. Under TCG the guest is Linux, which has a driver for every device; under KVM it is the bare guest, which uses a disk and
a serial port. --check: one handover of each design, of a small VM, from the older QEMU first; says whether it can be taken apart.

Stock QEMUs say by themselves where they are: trace events of the `log` backend, on standard error, dated by the wall clock that both share
(-msg timestamp=on). A script in the place of the binary switches them on and keeps what each process says.

Theory of the parts. The pause is cut at events of both processes, each later than the one before, so the parts of one handover add up to STOP to
RESUME as the events have it. The manager's own figure comes another way, from what both monitors tell: a handover where the two are not the same
is not counted.
"""
import argparse, datetime, json, os, re, shutil, statistics, sys, time

from question_runs import HERE, OWNERS, Bench, compact, run

# By owner of guest RAM, for a VM has one: each is handed over by all of these, in turn.
SETS = {owner: [design for design in ("relayed", "manager-owned", "copy", "vmm-owned", "vmm-exec") if OWNERS[design] == owner] for owner in ("manager", "vmm")}
EVENTS = ["vmstate_downtime_*", "vm_state_notify", "monitor_protocol_event_queue", "migrate_set_state", "qmp_enter_migrate_incoming",
          "qmp_enter_cont", "qmp_exit_cont"]
MANY = 8
# What both sides say of one moment: the monitor's events have whole microseconds of the same clock.
TOLERANCE_MS = 0.1


def installed(variable, file):
    """What scripts/setup has made, and scripts/test says where."""
    cache = os.environ.get("VIRT_HANDOVER_CACHE", "/var/cache/virt-handover")
    return os.environ.get(variable, os.path.join(cache, file))


class Unclear(Exception):
    """What the processes said is not what a handover says."""


def said_by(path):
    """(milliseconds, event, what it says): `PID@SECONDS:EVENT ...` until QEMU 10.0, `DATE EVENT ...` in 11.1 (scripts/tracetool/backend/log.py)."""
    found = []
    with open(path, errors="replace") as file:
        for line in file:
            if old := re.match(r"\d+@(\d+)\.(\d{6}):(\w+) ?(.*)", line):
                found.append((int(old.group(1)) * 1e3 + int(old.group(2)) / 1e3, old.group(3), old.group(4)))
            elif new := re.match(r"(\d{4}-\d\d-\d\dT[\d:]+)\.(\d{6})Z (\w+) ?(.*)", line):
                whole = datetime.datetime.fromisoformat(new.group(1) + "+00:00").timestamp()
                found.append((whole * 1e3 + int(new.group(2)) / 1e3, new.group(3), new.group(4)))
    return found


def first(lines, event, text="", after=0.0):
    for at, name, said in lines:
        if name == event and text in said and at >= after:
            return at
    raise Unclear(f"there is no {event} '{text}'")


def devices_of(lines, event, since):
    """Kind of device -> microseconds, all of that kind together: `0000:00:03.0/virtio-net` is of the kind `virtio-net`."""
    kinds = {}
    for at, name, said in lines:
        match = re.match(r"type=\S+ idstr=(\S+) instance_id=\d+ downtime=(\d+)", said)
        if name == event and at >= since and match:
            one = kinds.setdefault(match.group(1).rsplit("/", 1)[-1], [0, 0])
            one[0] += 1
            one[1] += int(match.group(2))
    return kinds


def parts_of(old, new):
    """What one handover's two processes (or one, of vmm-exec: the same list twice) said, as parts that follow one another, in milliseconds."""
    begun = [at for at, name, said in old if name == "vmstate_downtime_checkpoint" and said == "src-downtime-start"]
    if not begun:
        raise Unclear("the old VMM did not stop its guest")
    begin = begun[-1]
    old, new = [line for line in old if line[0] >= begin], [line for line in new if line[0] >= begin]

    def checkpoint(lines, name):
        return first(lines, "vmstate_downtime_checkpoint", name)

    # system/cpus.c: do_vm_stop says STOP when the vCPUs have stopped and every device was told, and then drains; vm_prepare_start says RESUME
    # before devices are told and vCPUs go on. Both are told to the monitor, by numbers that differ between releases.
    stop = first(old, "monitor_protocol_event_queue", after=first(old, "vm_state_notify", "running 0"))
    told = first(new, "qmp_enter_cont")
    notified = first(new, "vm_state_notify", "running 1", after=told)
    resumed = [at for at, name, _ in new if name == "monitor_protocol_event_queue" and told <= at <= notified]
    if not resumed:
        raise Unclear("the new VMM did not say RESUME")
    stopped, saved = checkpoint(old, "src-vm-stopped"), checkpoint(old, "src-non-iterable-saved")
    held = checkpoint(new, "dst-precopy-bh-vm-started")

    def state(lines, name, otherwise):
        """When a migration came to be so after that moment; a stream is `active` before the guest stops."""
        return next((at for at, event, said in lines if event == "migrate_set_state" and said == "new state " + name and at >= otherwise), otherwise)

    cuts = [("stop", stop), ("drain", stopped), ("set up", min(state(old, "active", stopped), checkpoint(old, "src-iterable-saved"))),
            ("save RAM", checkpoint(old, "src-iterable-saved")), ("save devices", saved)]
    if old == new:
        cuts.append(("execute", first(new, "qmp_enter_migrate_incoming", after=saved)))
    cuts += [("load", checkpoint(new, "dst-precopy-loadvm-completed")), ("hold", held), ("old completes", min(state(old, "completed", held), told)),
             ("manager", told), ("activate", resumed[-1])]
    for before, after in zip(cuts, cuts[1:]):
        if after[1] < before[1]:
            raise Unclear(f"'{after[0]}' ended before '{before[0]}'")
    parts = {name: round(at - cuts[i][1], 3) for i, (name, at) in enumerate(cuts[1:])}
    return {"parts": parts, "total": round(sum(parts.values()), 3),
            # Not in STOP to RESUME, and the guest stands still all the same.
            "before STOP": round(stop - begin, 3), "after RESUME": round(first(new, "qmp_exit_cont") - resumed[-1], 3),
            "saving": devices_of(old, "vmstate_downtime_save", begin), "loading": devices_of(new, "vmstate_downtime_load", begin)}


class Parts(Bench):
    def watched(self, name, qemu):
        """A QEMU that says where it is, into a file named after its process."""
        self.said = self.path("said")
        os.makedirs(self.said, exist_ok=True)
        os.chmod(self.said, 0o777)
        switched_on = " ".join(f"-trace '{event}'" for event in EVENTS)
        return self.program(name, f"exec {qemu} \"$@\" -msg timestamp=on {switched_on} 2>>{self.said}/$$")

    def definition(self, accelerator, devices, owner, binary):
        number = MANY if devices == "many" else 1
        disks = [self.path(f"disk{i}.img") for i in range(number)]
        for disk in disks:
            with open(disk, "wb") as file:
                file.truncate(64 << 20)
        ports = [word for i in range(1, MANY + 1) for word in ("-device", f"pcie-root-port,id=port{i},chassis={i}", "-device", f"virtio-rng-pci,bus=port{i}")]
        boot = {"kernel": installed("VH_GUEST_KERNEL", "guest/vmlinuz"), "initrd": installed("VH_GUEST_INITRAMFS", "guest/initramfs.gz"), "cmdline":
                "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off clearcpuid=erms cryptomgr.notests "
                "probe.ram_mib=64 probe.rate_mib_s=4 probe.disk_per_s=5 probe.ip=192.168.77.2"}
        if accelerator == "kvm" or self.options.check:
            boot = {"kernel": self.path("bare-guest.elf"), "firmware": self.path("bare-firmware.bin"), "cmdline": "bare probe.ram_mib=64"}
        vm = {"name": "p", "machine": "pc-q35-10.0", "accelerator": accelerator, "memory": {"size": "256MiB", "owner": owner}, "boot": boot,
              "disks": [{"id": f"disk{i}", "file": disk} for i, disk in enumerate(disks)],
              "networks": [{"id": f"net{i}", "type": "tap", "bridge": "vhq0"} for i in range(number)],
              "heartbeat": True, "vmm": {"binary": binary, "sandbox": False, "arguments": ports if devices == "many" else []},
              "handover": {"pause_budget": "60s", "deadlines": {step: "60s" for step in ("launch", "exchange", "verify", "retire")}}}
        if accelerator == "kvm":
            vm["cpu"] = {"model": "kvm64"}
        path = self.path("p.yaml")
        with open(path, "w") as file:
            json.dump(vm, file)  # Which is YAML.
        return path

    def handover(self, design, binary):
        old_pid = self.manager("show", "p")[1]["pid"]
        code, report = self.manager("upgrade", "p", "--to", binary, "--design", design)
        if code != 0:
            raise SystemExit(f"{design}: {report.get('outcome', 'refused')}: {report.get('cause', report.get('error', ''))}")
        new_pid = report["new"]["pid"]
        old = said_by(os.path.join(self.said, str(old_pid)))
        one = parts_of(old, old if new_pid == old_pid else said_by(os.path.join(self.said, str(new_pid))))
        told = report["vmm"]["stopToResumeMs"]
        if told is None or abs(one["total"] - told) > TOLERANCE_MS:
            raise Unclear(f"STOP to RESUME took {one['total']} ms by the trace and {told} by what the monitors tell")
        one["sent bytes"] = report["bytesSent"]
        return one

    def counted(self, design, binary):
        """A handover that can be taken apart. Between what the monitor and what the trace is told a process may lose its CPU."""
        for _ in range(3):
            try:
                return self.handover(design, binary)
            except Unclear as error:
                print(f"not counted: {design}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(f"{design}: three handovers after another could not be taken apart")

    def cell(self, accelerator, devices, owner):
        """Design -> its handovers. The first handover of each VM, from the QEMU that it was started with, is not counted."""
        first, binary = self.watched("first", self.options.first), self.watched("next", self.options.qemu)
        code, started = self.manager("start", self.definition(accelerator, devices, owner, first), "--wait-heartbeat", "120s")
        if code != 0:
            raise SystemExit(f"{accelerator}, {devices}: the VM did not start: {started.get('error', started)}")
        found = {design: [] for design in SETS[owner]}
        try:
            time.sleep(3)  # The guest fills its memory.
            self.counted(SETS[owner][0], binary)
            for _ in range(self.options.rounds):
                for design in found:
                    found[design].append(self.counted(design, binary))
        finally:
            self.manager("destroy", "p")
        return found


def dearest(rounds, which):
    """The five kinds of devices with the greatest medians: [kind, how many, median of microseconds]; then all together."""
    kinds = {kind for one in rounds for kind in one[which]}
    medians = [[kind, max(one[which].get(kind, [0])[0] for one in rounds), statistics.median(one[which].get(kind, [0, 0])[1] for one in rounds)] for kind in kinds]
    return sorted(medians, key=lambda one: (-one[2], one[0]))[:5], statistics.median(sum(us for _, us in one[which].values()) for one in rounds)


def summed_up(rounds):
    value = {"parts": {name: [one["parts"][name] for one in rounds] for name in rounds[0]["parts"]}}
    for name in ("total", "before STOP", "after RESUME", "sent bytes"):
        value[name] = [one[name] for one in rounds]
    for which in ("saving", "loading"):
        value[which], value["all " + which] = dearest(rounds, which)
    return value


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("build")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", default="kvm/few,kvm/many,tcg/few,tcg/many")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", default=os.path.join(HERE, "pause-parts.json"))
    options = parser.parse_args()
    options.cli, options.guest = (os.path.join(os.path.abspath(options.build), part) for part in ("manager/virt-handover", "tests/bare-guest"))
    options.qemu = options.first = installed("VH_QEMU_NEW", "bin/qemu-11.1")
    if options.check:
        options.first, options.rounds, options.only = installed("VH_QEMU_OLD", "bin/qemu-10.0"), 1, "tcg/few"
    if os.geteuid() != 0:
        print("skipped: taps and bridges are root's to make")
        return 77
    if not options.inside:
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv, "--inside"])
    found = {"about": {"qemu": run(options.qemu, "--version").stdout.split()[3], "rounds": options.rounds, "kernel": os.uname().release,
                       "CPUs": os.cpu_count(), "load before": round(os.getloadavg()[0], 2)}, "cells": {}}
    bench = Parts(options)
    try:
        for name in options.only.split(","):
            cell = found["cells"][name] = {}
            for owner in SETS:
                for design, rounds in bench.cell(*name.split("/"), owner).items():
                    cell[design] = summed_up(rounds)
                    print(name, design, {part: statistics.median(values) for part, values in cell[design]["parts"].items()}, flush=True)
    finally:
        shutil.rmtree(bench.directory, ignore_errors=True)
    if not options.check:
        with open(options.output, "w") as file:
            file.write(compact(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
