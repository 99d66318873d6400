#!/usr/bin/env python3
"""What a handover costs the guest, and what the daemon costs the host: each figure beside its target.

Five parts, one after the other:
  yardstick  cpr-transfer by hand (yardstick.py) against relayed, vmm-owned and manager-owned, at 512 MiB
  ram        512 MiB against 8 GiB of touched RAM, for vmm-owned and for manager-owned
  daemon     memory and idle CPU time of virt-handoverd with a running VM
  shim       the CPR state of a running QEMU captured, and what the guest feels of that; streams of 1 MB decoded
  fleet      200 reference VMs handed over at once

What is compared is measured in one run, in rounds, in random order within a round, so that whatever else the machine does falls on
all alike; a ratio is the median of the rounds' ratios. One guest runs at a time: the others are stopped through their monitors, and
each one's turn begins with some hundred heartbeats. Two pauses are told apart: QEMU's own STOP to RESUME, and the guest's last
heartbeat on the old VMM to its first on the new one. The exit status is 0 whatever the figures are, and 1 when something could not be run.

VH_CLI, VH_DAEMON, VH_SHIM, VH_REFERENCE_VMM, VH_FLEET and VH_DECODE (set by meson), VH_QEMU_NEW, VH_GUEST_KERNEL and VH_GUEST_INITRAMFS (scripts/lib.sh) say what to measure.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True  # No __pycache__ in the source tree.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
from designs import OWNERS
from yardstick import Qmp, Yardstick

PARTS = ("yardstick", "ram", "daemon", "shim", "fleet")
METRICS = {"stopToResumeMs": "STOP to RESUME", "pauseMs": "heartbeats"}
SETTLING_BEATS = 500
BOOT_PATIENCE_S = 900  # Without KVM and on a busy machine 8 GiB are filled at some 100 MiB/s or less.
SMALL_MIB, LARGE_MIB, LARGE_TOUCHED_MIB = 512, 9 * 1024, 8 * 1024
LARGE_NEEDS_MIB = LARGE_MIB + SMALL_MIB + 1024  # With something for the VMMs and the host.
IDLE_S = 10
ENOUGH_ROUNDS = 6  # With fewer, not even all from the smallest to the largest is a 95 % interval of the median (1 - 2/2^n).


class CannotRun(Exception):
    pass


def say(text):
    print(text, file=sys.stderr, flush=True)


class Workspace:
    """A directory whose name is in the command line of every process that is started here: whatever ends us, none of them is left."""

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix=f"vhb{os.getpid()}-", dir="/tmp")  # Short: there are sockets in it.
        os.chmod(self.path, 0o755)  # The VMMs run as nobody when we are root.
        self.tag = os.path.basename(self.path).replace("_", "-")
        return self

    def __exit__(self, *_):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        deadline = time.monotonic() + 10
        while (pids := self.processes()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        shutil.rmtree(self.path, ignore_errors=True)

    def processes(self):
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line, pid = entry.read_bytes().decode(errors="replace"), int(entry.parent.name)
                if pid != os.getpid() and (self.tag in line or self.path in line):
                    found.append(pid)
        return found


class ManagedVm:
    """A VM of virt-handover, with the Linux guest under TCG unless `guest` says another `accelerator` and `boot`, with a `tag`."""

    def __init__(self, workspace, design, memory_mib=SMALL_MIB, touched_mib=None, runtime=None, guest=None):
        guest = guest or {"accelerator": "tcg", "cpu": "max", "tag": "", "boot": f"""
  kernel: "{os.environ["VH_GUEST_KERNEL"]}"
  initrd: "{os.environ["VH_GUEST_INITRAMFS"]}"
  cmdline: "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off clearcpuid=erms"""}
        self.touched_mib = touched_mib or memory_mib // 2
        self.name = f"{workspace.tag}-{design[0]}{memory_mib}{guest['tag']}"  # At most 32 characters.
        self.definition = f"{workspace.path}/{self.name}.yaml"
        # With a runtime directory of a daemon, that does the work; without, the command itself.
        self.command = [os.environ["VH_CLI"], "--json", "--runtime-dir", runtime or f"{workspace.path}/run"] + ["--embed"] * (not runtime)
        disk = f"{workspace.path}/{self.name}.img"
        with open(disk, "wb") as file:
            file.truncate(64 << 20)
        pathlib.Path(self.definition).write_text(f"""
name: {self.name}
machine: pc-q35-10.0
accelerator: {guest["accelerator"]}
cpu: {{model: {guest["cpu"]}}}
memory: {{size: {memory_mib}MiB, owner: {OWNERS[design]}}}
boot:{guest["boot"]}{
      f" probe.ram_mib={touched_mib}" if touched_mib else ""}"
disks: [{{id: root, file: "{disk}"}}]
heartbeat: true
vmm: {{binary: "{os.environ["VH_QEMU_NEW"]}"}}
handover: {{design: {design}}}
""")

    def __enter__(self):
        self.run("start", self.definition, "--wait-heartbeat", f"{BOOT_PATIENCE_S}s")
        self.directory = self.run("show", self.name)["directory"]
        return self

    def __exit__(self, *_):
        with contextlib.suppress(CannotRun):  # The workspace ends what is left.
            self.run("destroy", self.name)

    def run(self, *arguments):
        # In a session of its own, for Ctrl-C is ours to handle: the command is then asked to end, and cleans up.
        process = subprocess.Popen([*self.command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            output, problem = process.communicate()
        except BaseException:
            process.terminate()
            process.wait(30)
            raise
        if process.returncode != 0:
            raise CannotRun(f"virt-handover {arguments[0]}: exit status {process.returncode}: {(problem or output).strip()}")
        return json.loads(output or "{}")

    def monitor(self, command):
        qmp = Qmp(f"{self.directory}/qmp.sock")
        qmp.execute(command)
        qmp.file.close()

    def settle(self, patience_s=60):
        beats, status = 0, {}
        with socket.socket(socket.AF_UNIX) as port:
            port.settimeout(patience_s)
            port.connect(f"{self.directory}/heartbeat.sock")
            with port.makefile() as lines:
                next(lines)  # May be the rest of one.
                while beats < SETTLING_BEATS or not status:
                    line = next(lines)
                    beats += line.startswith("B ")
                    if line.startswith("S "):
                        status = {key: int(value) for key, value in (field.split("=") for field in line[2:].split())}
        if status["ram_mib"] < self.touched_mib or status["mismatches"]:
            raise CannotRun(f"vm '{self.name}': the guest is not as it should be: {status}")

    def handover(self, design=None):
        report = self.run("upgrade", self.name, "--to", os.environ["VH_QEMU_NEW"], *(["--design", design] if design else []))
        self.directory = self.run("show", self.name)["directory"]
        guest = report["guest"]
        if report["outcome"] != "upgraded" or guest["lost"] or guest["repeated"] or guest["errors"] or guest["pauseMs"] is None:
            raise CannotRun(f"vm '{self.name}': not a good handover: {report}")
        return {
            "stopToResumeMs": report["vmm"]["stopToResumeMs"],
            "pauseMs": guest["pauseMs"],
            "bytesSent": report["bytesSent"],
            "totalMs": report["totalMs"],
            "stepsMs": {step["state"]: step["durationMs"] for step in report["steps"]},
        }


class YardstickVm:
    """The yardstick's VM, with somebody who reads its heartbeats as the manager does."""

    def __init__(self, workspace):
        self.directory, self.filled, self.ports = f"{workspace.path}/yardstick", threading.Event(), []
        os.mkdir(self.directory)

    def __enter__(self):
        self.yardstick = Yardstick(self.directory, self.listen)
        if not self.filled.wait(BOOT_PATIENCE_S):
            raise CannotRun("yardstick: the guest has not filled its RAM")
        return self

    def __exit__(self, *_):
        for process in self.yardstick.processes:
            process.kill()
            process.wait()

    def listen(self, path):
        port, arrivals = socket.socket(socket.AF_UNIX), []
        port.connect(path)
        self.ports = [*self.ports[-1:], arrivals]  # The old VMM's and the new one's.

        def read():
            with port:
                while data := port.recv(16384):
                    arrivals.append(time.monotonic())
                    if b"ram_filled=1" in data:
                        self.filled.set()

        threading.Thread(target=read, daemon=True).start()

    def monitor(self, command):
        self.yardstick.monitor.execute(command)

    def await_beats(self, count):
        deadline = time.monotonic() + 60
        while len(self.ports[-1]) < count:
            if time.monotonic() > deadline:
                raise CannotRun("yardstick: the guest is silent")
            time.sleep(0.01)

    def settle(self):
        self.await_beats(len(self.ports[-1]) + SETTLING_BEATS)

    def handover(self, hold=False):
        stop_to_resume_ms = self.yardstick.handover(hold)
        self.await_beats(1)
        old, new = self.ports
        return {"stopToResumeMs": stop_to_resume_ms, "pauseMs": (new[0] - old[-1]) * 1000}


class Results:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.samples, self.rows, self.comparisons, self.not_measured = {}, [], [], []

    def interval(self, values):
        """The 95 % bootstrap interval of the median."""
        medians = sorted(statistics.median(self.random.choices(values, k=len(values))) for _ in range(10_000))
        return medians[250], medians[-251]

    def add(self, part, samples):
        self.samples[part] = samples
        for metric in METRICS:
            for name, series in samples.items():
                values = [sample[metric] for sample in series]
                low, high = self.interval(values)
                self.rows.append({"part": part, "series": name, "metric": metric, "median": statistics.median(values), "low": low,
                                  "high": high, "min": min(values), "max": max(values)})

    def compare(self, part, name, reference, metric, target=None):
        pairs = zip(self.samples[part][name], self.samples[part][reference])
        ratios = [one[metric] / other[metric] for one, other in pairs]
        low, high = self.interval(ratios)
        verdict = "" if target is None else "met" if high <= target else "not met" if low > target else "no difference shown"
        if target is not None and len(ratios) < ENOUGH_ROUNDS:
            verdict = "too few rounds to say"
        self.comparisons.append({"name": f"{name} / {reference}, {METRICS[metric]}", "value": statistics.median(ratios), "unit": "x",
                                 "low": low, "high": high, "target": target, "verdict": verdict})

    def state(self, name, value, unit, target=None):
        verdict = "" if target is None else "met" if value <= target else "not met"
        self.comparisons.append({"name": name, "value": value, "unit": unit, "target": target, "verdict": verdict})

    def text(self):
        figures = [("", "pause in ms", "median", "95 %", "min", "max")]
        figures += [(row["series"], METRICS[row["metric"]], f"{row['median']:.2f}", f"{row['low']:.2f} - {row['high']:.2f}",
                     f"{row['min']:.2f}", f"{row['max']:.2f}") for row in self.rows]
        targets = [("", "", "95 %", "target", "")]
        for one in self.comparisons:
            interval = f"{one['low']:.2f} - {one['high']:.2f}" if "low" in one else ""
            target = "" if one["target"] is None else f"<= {one['target']:g} {one['unit']}" if one["target"] else "0"
            targets.append((one["name"], f"{one['value']:.2f} {one['unit']}", interval, target, one["verdict"]))
        blocks = [table(block) for block in (figures, targets) if len(block) > 1]
        blocks.append("met, not met: the whole interval is on that side of the target; no difference shown: the target is in the interval.")
        blocks += [f"Not measured: {reason}" for reason in self.not_measured]
        return "\n\n".join(blocks)


def table(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def measure(part, series, rounds, warm_ups, order):
    """series: name -> (vm, options of its handover). All vms run at the start, and none but the one whose turn it is from then on."""
    vms = {id(vm): vm for vm, _ in series.values()}.values()
    for vm in vms:
        vm.monitor("stop")
    samples = {name: [] for name in series}
    for number in range(-warm_ups, rounds):
        for name in order.sample(list(series), len(series)):
            vm, options = series[name]
            vm.monitor("cont")
            vm.settle()
            sample = vm.handover(**options)
            vm.monitor("stop")
            if number >= 0:
                samples[name].append(sample)
        say(f"{part}: " + (f"round {number + 1} of {rounds}" if number >= 0 else "warm-up"))
    return samples


def measure_against_yardstick(workspace, results, rounds, warm_ups):
    with contextlib.ExitStack() as vms:
        by_hand = vms.enter_context(YardstickVm(workspace))
        by_hand.monitor("stop")
        series = {"yardstick": (by_hand, {}), "yardstick with -S and cont": (by_hand, {"hold": True})}
        for design in ("relayed", "vmm-owned", "manager-owned"):
            vm = vms.enter_context(ManagedVm(workspace, design))
            vm.monitor("stop")
            series[design] = (vm, {})
        results.add("yardstick", measure("yardstick", series, rounds, warm_ups, results.random))
    for design in ("vmm-owned", "manager-owned"):
        results.compare("yardstick", design, "yardstick", "stopToResumeMs", 1.2)
    results.compare("yardstick", "relayed", "vmm-owned", "stopToResumeMs", 1.15)
    results.compare("yardstick", "vmm-owned", "yardstick with -S and cont", "stopToResumeMs")
    results.compare("yardstick", "manager-owned", "vmm-owned", "stopToResumeMs")


def available_mib():
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("MemAvailable:"))


def measure_ram_sizes(workspace, results, rounds, warm_ups):
    for design in ("vmm-owned", "manager-owned"):
        if (available := available_mib()) < LARGE_NEEDS_MIB:
            results.not_measured.append(f"{design} at 8 GiB: {LARGE_NEEDS_MIB} MiB of memory are needed, {available} MiB are available")
            continue
        small, large = f"{design} 512 MiB", f"{design} 8 GiB"
        with contextlib.ExitStack() as vms:
            series = {}
            for name, size in ((small, (SMALL_MIB,)), (large, (LARGE_MIB, LARGE_TOUCHED_MIB))):
                say(f"ram: a guest for {name} fills its RAM")
                vm = vms.enter_context(ManagedVm(workspace, design, *size))
                vm.monitor("stop")
                series[name] = (vm, {})
            results.add(f"ram {design}", measure("ram", series, rounds, warm_ups, results.random))
        for metric in METRICS:
            results.compare(f"ram {design}", large, small, metric, 1.3)


def cpu_time_ns(pid):
    return sum(int(task.read_text().split()[0]) for task in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"))


def measure_daemon(workspace, results):
    runtime = f"{workspace.path}/daemon"
    with open(f"{workspace.path}/daemon.log", "w", encoding="utf-8") as log:
        daemon = subprocess.Popen([os.environ["VH_DAEMON"], "--runtime-dir", runtime], stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while "ready" not in pathlib.Path(log.name).read_text():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise CannotRun(f"virt-handoverd: {pathlib.Path(log.name).read_text()}")
            time.sleep(0.05)
        with ManagedVm(workspace, "vmm-owned", runtime=runtime) as vm:
            vm.handover()  # With what it allocates for its main work.
            time.sleep(2)
            before = cpu_time_ns(daemon.pid)
            time.sleep(IDLE_S)
            idle_ms = (cpu_time_ns(daemon.pid) - before) / 1e6
            memory = pathlib.Path(f"/proc/{daemon.pid}/smaps_rollup").read_text().splitlines()
            rss, pss = (next(int(line.split()[1]) * 1024 / 1e6 for line in memory if line.startswith(key)) for key in ("Rss:", "Pss:"))
    finally:
        daemon.terminate()
        daemon.wait(30)
    results.state("virt-handoverd with a VM, after a handover, RSS", rss, "MB", 30)
    results.state("virt-handoverd with a VM, after a handover, PSS", pss, "MB")
    results.state(f"virt-handoverd's CPU time in {IDLE_S} idle seconds", idle_ms, "ms", 0)


class BeatWatch:
    """The longest silence between two heartbeats of a running VM, from begin to end of the block."""

    def __init__(self, vm):
        self.port, self.arrivals = socket.socket(socket.AF_UNIX), []
        self.port.connect(f"{vm.directory}/heartbeat.sock")
        self.thread = threading.Thread(target=self.read, daemon=True)

    def read(self):
        while self.port.recv(16384):
            self.arrivals.append(time.monotonic())

    def __enter__(self):
        self.thread.start()
        while len(self.arrivals) < 50:
            time.sleep(0.01)
        del self.arrivals[:]
        return self

    def __exit__(self, *_):
        self.port.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.longest_gap_ms = max(after - before for before, after in zip(self.arrivals, self.arrivals[1:])) * 1000


def measure_shim(workspace, results, rounds):
    capture_ms, with_capture, without, gap_ratios = [], [], [], []
    with ManagedVm(workspace, "relayed") as vm:
        def capture():
            output = subprocess.run([os.environ["VH_SHIM"], "capture", "--json", f"{vm.directory}/qmp.sock"], check=True, capture_output=True, text=True).stdout
            capture_ms.append(json.loads(output)["takenMs"])

        for _ in range(rounds):
            pair = {}
            for what in results.random.sample(["capture", "nothing"], 2):
                with BeatWatch(vm) as watch:
                    if what == "capture":
                        capture()
                    else:  # What starting a program costs is not the capture's.
                        subprocess.run([os.environ["VH_SHIM"], "--version"], check=True, capture_output=True)
                    time.sleep(0.3)
                pair[what] = watch.longest_gap_ms
            with_capture.append(pair["capture"])
            without.append(pair["nothing"])
            gap_ratios.append(pair["capture"] / pair["nothing"])
    results.samples["shim"] = {"captureMs": capture_ms, "longestGapMsWithCapture": with_capture, "longestGapMsWithout": without}
    results.state("capture of a running QEMU, migrate to cancelled, median", statistics.median(capture_ms), "ms", 10)
    results.state("capture of a running QEMU, longest", max(capture_ms), "ms")
    low, high = results.interval(gap_ratios)
    results.state("longest heartbeat gap with a capture, median", statistics.median(with_capture), "ms")
    results.state("longest heartbeat gap without, median", statistics.median(without), "ms")
    results.comparisons.append({"name": "longest heartbeat gap with a capture / without", "value": statistics.median(gap_ratios), "unit": "x",
                                "low": low, "high": high, "target": None, "verdict": "no difference shown" if low <= 1 <= high else "a difference"})
    for name, value in json.loads(subprocess.run([os.environ["VH_DECODE"]], check=True, capture_output=True, text=True).stdout).items():
        results.state(f"decode {name}, median of 100", value, "ms", 5)


def measure_fleet(results):
    output = subprocess.run([os.environ["VH_FLEET"], os.environ["VH_REFERENCE_VMM"], "200"], capture_output=True, text=True, check=False)
    if output.returncode != 0:
        raise CannotRun((output.stderr or output.stdout).strip()[:300])
    fleet = json.loads(output.stdout)
    results.samples["fleet"] = fleet
    results.state("200 reference VMs handed over at once", fleet["seconds"], "s", 20)
    results.state("heartbeats lost or repeated among them", fleet["lost"] + fleet["repeated"], "beats", 0)
    results.state("longest pause among them", fleet["longestPauseMs"], "ms")


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds to measure, after two to warm up (20)")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; may be given more than once")
    parser.add_argument("--quick", action="store_true", help="to try it: 3 rounds, one to warm up, and nothing at 8 GiB")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of the order and the intervals")
    parser.add_argument("--output", metavar="FILE", help="all samples and results, as JSON")
    chosen = parser.parse_args()
    if chosen.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if missing := [name for name in ("VH_CLI", "VH_DAEMON", "VH_SHIM", "VH_REFERENCE_VMM", "VH_FLEET", "VH_DECODE", "VH_QEMU_NEW", "VH_GUEST_KERNEL", "VH_GUEST_INITRAMFS") if not os.environ.get(name)]:
        parser.exit(1, f"{', '.join(missing)} must be set: the benchmark needs a real QEMU and a guest; see scripts/setup and scripts/lib.sh\n")
    return chosen


def interrupt(*_):
    raise KeyboardInterrupt


def main():
    chosen = options()
    parts = chosen.only or PARTS
    rounds, warm_ups = (3, 1) if chosen.quick else (chosen.rounds, 2)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    environment = {"kernel": platform.release(), "cpus": os.cpu_count(), "loadAtBegin": os.getloadavg()}
    print(f"seed {chosen.seed}, {rounds} rounds, {environment['cpus']} CPUs, load {environment['loadAtBegin'][0]:.1f}, TCG", flush=True)
    results, status = Results(chosen.seed), 0
    with Workspace() as workspace:
        for part in PARTS:
            try:
                if part not in parts:
                    continue
                if part == "yardstick":
                    measure_against_yardstick(workspace, results, rounds, warm_ups)
                elif part == "daemon":
                    measure_daemon(workspace, results)
                elif part == "shim":
                    measure_shim(workspace, results, rounds)
                elif part == "fleet":
                    measure_fleet(results)
                elif chosen.quick:
                    results.not_measured.append("8 GiB: left out by --quick")
                else:
                    measure_ram_sizes(workspace, results, rounds, warm_ups)
            except (CannotRun, OSError, RuntimeError, ValueError, StopIteration, subprocess.CalledProcessError) as problem:
                results.not_measured.append(f"{part}: could not be run: {problem}")
                status = 1
    print(f"\n{results.text()}\n")
    if chosen.output:
        document = {"seed": chosen.seed, "rounds": rounds, "environment": environment | {"loadAtEnd": os.getloadavg()},
                    "figures": results.rows, "comparisons": results.comparisons, "notMeasured": results.not_measured, "samples": results.samples}
        pathlib.Path(chosen.output).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return status


def run(main):
    """As a program that a person may interrupt."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run(main)
