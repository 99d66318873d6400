#!/usr/bin/env python3
"""Hands a small VM over with every design, and writes what was asked of QEMU and of the kernel (question-runs.json).

usage: unshare -n tests/results/question_runs.py --cli BUILD/manager/virt-handover --old QEMU --new QEMU --guest BUILD/tests/bare-guest
       [--part monitor,sandbox,exec,wire,host] [--shim BUILD/vmm-shim/vmm-shim] [--headers DIRECTORY]

As root, in a network namespace of its own (a bridge is made in it). Each part replaces its part of the file:
  monitor   commands that the manager sends to either VMM, arguments of the new one, and system calls of both (strace), for TCG and KVM
  sandbox   every design under each setting of -sandbox, new QEMU to new QEMU
  exec      QEMU's own cpr-exec, driven by its monitor alone, under each setting of -sandbox
  wire      how many bytes and descriptors a CPR state, our section of RAM blocks, and a main stream with and without x-ignore-shared have
  host      what both VMMs ask of KVM, vhost, VFIO and iommufd, on the test host (tests/test-host; --new is its QEMU): not in what is done
            without --part. --headers: where linux/iommufd.h of a kernel like that one's is (an unpacked linux-libc-dev), and not of this machine's
"""
import argparse, collections, fcntl, json, os, re, shutil, signal, socket, struct, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../support"))
from designs import OF_UPGRADES as DESIGNS, OWNERS, WITH_DEVICES

SANDBOXES = {
    "off": None,
    "on": "on",
    "obsolete=deny": "on,obsolete=deny",
    "elevateprivileges=deny": "on,elevateprivileges=deny",
    "spawn=deny": "on,spawn=deny",
    "resourcecontrol=deny": "on,resourcecontrol=deny",
    "all four": "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
}
PREFIXES = [("KVM_", "KVM"), ("VFIO_", "VFIO"), ("IOMMU_", "iommufd"), ("VHOST_", "vhost"), ("TUN", "tap"), ("SIOC", "tap")]
# What a VMM asks of KVM because its guest runs, and not because it is set up.
OF_RUNNING = {"KVM_RUN", "KVM_IRQ_LINE", "KVM_IRQ_LINE_STATUS", "KVM_SIGNAL_MSI", "KVM_INTERRUPT"}
# Part `host`: how a VM has its devices -> modules of the test host, and the designs that do not refuse it.
ON_HOST = {"vhost": ("iommufd", DESIGNS), "cdev": ("iommufd", WITH_DEVICES), "group": ("stock", WITH_DEVICES)}
# <linux/sockios.h>, <linux/if.h>
SIOCBRADDBR, SIOCSIFFLAGS, IFF_UP = 0x89A0, 0x8914, 1
TRACED = "ioctl,memfd_create,mmap,openat,execve,seccomp,connect"


def compact(value):
    """JSON with the lists of plain values on one line each."""
    text = json.dumps(value, indent=1) + "\n"
    for _ in range(2):  # Lists, then lists of those.
        text = re.sub(r"\[\s+((?:[^\[\]{}]|\[[^\n\[\]]*\])*?)\s+\]", lambda match: "[" + re.sub(r"\n\s*", " ", match.group(1)) + "]", text)
    return text


def run(*command, **more):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120, **more)


class Bench:
    def __init__(self, options):
        self.options = options
        self.directory = tempfile.mkdtemp(prefix="vh-question-")
        os.chmod(self.directory, 0o755)
        for file in ("bare-guest.elf", "bare-firmware.bin"):
            shutil.copy(os.path.join(options.guest, file), self.directory)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, SIOCBRADDBR, b"vhq0".ljust(16, b"\0"))
            for device in (b"vhq0", b"lo"):
                fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", device, IFF_UP))

    def path(self, name):
        return os.path.join(self.directory, name)

    def program(self, name, text):
        path = self.path(name)
        with open(path, "w") as file:
            file.write("#!/bin/sh\n" + text + "\n")
        os.chmod(path, 0o755)
        return path

    def manager(self, *arguments, under=()):
        ran = run(*under, self.options.cli, "--embed", "--json", "--runtime-dir", self.path("run"), *arguments)
        try:
            return ran.returncode, json.loads(ran.stdout)
        except ValueError:
            return ran.returncode, {"error": (ran.stdout + ran.stderr).strip()}

    def definition(self, design, accelerator, binary, sandbox):
        disk = self.path("disk.img")
        with open(disk, "wb") as file:
            file.truncate(64 << 20)
        path = self.path("q.yaml")
        with open(path, "w") as file:
            file.write(f"""name: q
machine: pc-q35-10.0
accelerator: {accelerator}
{"cpu: {model: kvm64}" if accelerator == "kvm" else ""}
memory: {{size: 192MiB, owner: {OWNERS[design]}}}
boot: {{kernel: {self.path("bare-guest.elf")}, firmware: {self.path("bare-firmware.bin")}, cmdline: bare}}
disks: [{{id: root, file: {disk}}}]
networks: [{{id: net0, type: tap, bridge: vhq0}}]
heartbeat: true
vmm: {{binary: {binary}, sandbox: {sandbox}, arguments: [-device, 'VGA,id=video']}}
handover: {{design: {design}, pause_budget: 10s, save_directory: {self.directory}, deadlines: {{launch: 60s, exchange: 60s, verify: 60s, retire: 60s}}}}
""")
        return path


# strace


def lines_of(trace):
    """(time, call, the line from the call on), of whole calls: what was interrupted is put together."""
    begun = {}
    with open(trace, errors="replace") as file:
        for line in file:
            match = re.match(r"(?:(\d+)\s+)?(\d+\.\d+) (.*)", line)
            if not match:
                continue
            thread, at, rest = match.group(1), float(match.group(2)), match.group(3).rstrip("\n")
            if rest.endswith("<unfinished ...>"):
                begun[thread] = (at, rest[:-len("<unfinished ...>")])
                continue
            resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", rest)
            if resumed:
                if thread not in begun:
                    continue
                at, start = begun.pop(thread)
                rest = start + resumed.group(1)
            call = rest.split("(", 1)[0]
            if call.isidentifier():
                yield at, call, rest
        for at, start in begun.values():
            yield at, start.split("(", 1)[0], start + " = ?"


def request_of(line):
    """The class and the name of an ioctl. One number may have several names, of which the first of a class of ours is the likely one."""
    match = re.match(r"ioctl\([^,]*, ((?:[A-Z]\w+(?: or )?)+|_IOC\([^)]*\)|0x\w+)", line)
    request = match.group(1) if match else "unknown"
    for name in request.split(" or "):
        for prefix, group in PREFIXES:
            if name.startswith(prefix):
                return group, name
    return "other", request.split(" or ")[0]


def calls_of(trace, since=0.0, until=float("inf"), executed=0):
    """What a process asked of the kernel, counted. `executed`: from that many execve on."""
    ioctls, named = collections.Counter(), collections.defaultdict(collections.Counter)
    calls = collections.Counter()
    execs = 0
    for at, call, line in lines_of(trace):
        if call == "execve" and " = 0" in line:
            execs += 1
        if not since <= at <= until or execs < executed:
            continue
        if call == "ioctl":
            group, name = request_of(line)
            if name in OF_RUNNING:
                continue
            ioctls[group] += 1
            named[group][name] += 1
        elif call == "memfd_create" and '"test"' not in line and " = -1" not in line:
            memfd = re.search(r'"([^"]*)"', line)
            calls["memfd " + (memfd.group(1) if memfd else "?")] += 1
        elif call == "mmap" and "MAP_SHARED" in line and " = -1" not in line:
            calls["mmap, shared"] += 1
        elif call == "openat" and " = -1" not in line:
            opened = re.search(r'"([^"]*)"', line)
            if opened and opened.group(1).startswith("/dev/"):
                calls["open " + re.sub(r"\d+$", "N", opened.group(1))] += 1
        elif call == "seccomp" and "SECCOMP_SET_MODE_FILTER" in line and "NULL" not in line:
            calls["seccomp filter"] += 1
    return {"ioctls": dict(sorted(ioctls.items())), "requests": {group: dict(sorted(names.items())) for group, names in sorted(named.items())},
            "calls": dict(sorted(calls.items()))}


def counts(calls):
    """Without the names of the requests."""
    return {"ioctls": calls["ioctls"], "calls": calls["calls"]}


def commands_of(trace):
    """What went out over sockets of monitors, in order: (directory of the VMM, command, its arguments)."""
    sockets, sent = {}, []
    for _, call, line in lines_of(trace):
        if call == "connect":
            match = re.match(r'connect\((\d+), \{sa_family=AF_UNIX, sun_path="([^"]+)"', line)
            if match and " = -1 E" not in line.replace("EINPROGRESS", ""):
                sockets[match.group(1)] = match.group(2)
        if call not in ("sendmsg", "sendto", "write"):
            continue
        number = re.match(r"\w+\((\d+)", line)
        data = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', line))
        text = data.encode().decode("unicode_escape")
        for piece in text.replace("\r", "").split("\n"):
            try:
                said = json.loads(piece)
            except ValueError:
                continue
            if isinstance(said, dict) and "execute" in said:
                sent.append((sockets.get(number.group(1), ""), said["execute"], said.get("arguments")))
    return sent


def parts_of(value, prefix=""):
    """The arguments of a command as `a.b` and, where the value is one of a few words, `a.b=word`."""
    if isinstance(value, dict):
        # A capability and a channel are what they are called.
        if "capability" in value:
            return [f"{prefix}{value['capability']}={'on' if value.get('state') else 'off'}"]
        if "channel-type" in value:
            return [f"{prefix}{value['channel-type']} over {value['addr'].get('type', value['addr'].get('transport'))}"]
        return [part for key, inner in value.items() for part in parts_of(inner, (prefix + key + ".") if isinstance(inner, dict) else prefix + key + " ")]
    if isinstance(value, list) and value and isinstance(value[0], str):
        return [prefix.strip()]
    if isinstance(value, list):
        return [part for inner in value for part in parts_of(inner, prefix)]
    words = prefix.strip().rstrip(".")
    if isinstance(value, str) and re.fullmatch(r"[a-z-]+", value):
        return [f"{words}={value}"]
    return [words]


def traced(bench, name, qemu):
    traces = bench.path(name + "-traces")
    shutil.rmtree(traces, ignore_errors=True)
    os.mkdir(traces)
    os.chmod(traces, 0o777)
    return traces, bench.program(name, f"exec strace -D -f -ttt -qq -e trace={TRACED} -e signal=none -o {traces}/$$ -- {qemu} \"$@\"")


def arguments_of(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return [word.decode(errors="replace") for word in file.read().split(b"\0")[:-1]]


def options_of(argv):
    """An argument list as pairs, so that two can be compared."""
    words, options = argv[1:], []
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            continue
        options.append(word + (" " + words.pop(0) if words and not words[0].startswith("-") else ""))
    return options


def traced_handover(bench, design, accelerator):
    old_traces, old = traced(bench, "old-vmm", bench.options.old if design != "vmm-exec" else bench.options.new)
    new_traces, new = traced(bench, "new-vmm", bench.options.new)
    if design == "vmm-exec":  # The process that executes it is traced already, and can be by one only.
        new = bench.program("new-vmm", f"exec {bench.options.new} \"$@\"")
    code, started = bench.manager("start", bench.definition(design, accelerator, old, "true"), "--wait-heartbeat", "60s")
    if code != 0:
        return {"outcome": "not started", "why": started.get("error", json.dumps(started))}
    try:
        before = bench.manager("show", "q")[1]
        old_pid = before["pid"]
        time.sleep(0.5)
        begin = time.time()
        code, report = bench.manager("upgrade", "q", "--to", new, "--design", design, under=(
            "strace", "-ttt", "-qq", "-s", "200000", "-e", "trace=sendmsg,sendto,write,connect", "-e", "signal=none", "-o", bench.path("manager.trace"), "--"))
        end = time.time()
        found = {"outcome": report.get("outcome", "refused"), "cause": report.get("cause", report.get("error", ""))}
        if found["outcome"] != "upgraded":
            return found
        after = bench.manager("show", "q")[1]
        new_pid = after["pid"]
        per = {"old": [], "new": []}
        for path, command, arguments in commands_of(bench.path("manager.trace")):
            side = "old" if os.path.dirname(path) == before["directory"] else "new"
            per[side].append([command, sorted(set(parts_of(arguments))) if arguments else []])
        # A command that is asked again until it answers otherwise is one.
        found["commands"] = {side: [entry for at, entry in enumerate(entries) if entry not in entries[:at]] for side, entries in per.items()}
        found["sent"] = {side: len(entries) for side, entries in per.items()}
        found["sent bytes"] = report["bytesSent"]
        found["first"] = counts(calls_of(f"{old_traces}/{old_pid}", until=begin))
        if new_pid == old_pid:
            # The last program that this process has executed is the new VMM.
            execs = sum(1 for _, call, line in lines_of(f"{old_traces}/{old_pid}") if call == "execve" and " = 0" in line)
            found["again"] = calls_of(f"{old_traces}/{old_pid}", since=begin, until=end, executed=execs)
            found["old while it hands over"] = "the same process"
        else:
            found["again"] = calls_of(f"{new_traces}/{new_pid}", until=end)
            found["old while it hands over"] = counts(calls_of(f"{old_traces}/{old_pid}", since=begin))
        found["otherVmmProcesses"] = len([name for name in os.listdir(new_traces) if name != str(new_pid)])
        options = options_of(arguments_of(new_pid))
        found["arguments"] = [re.sub(r'"path":\s*"[^"]*"', '"path": "..."', option) for option in options
                              if re.match(r"-incoming|-add-fd.*state|-sandbox|-object memory", option) or "aux-ram-share" in option]
        return found
    finally:
        bench.manager("destroy", "q")


def monitor_part(bench):
    found = {}
    for accelerator in ("tcg", "kvm"):
        for design in DESIGNS:
            found.setdefault(accelerator, {})[design] = one = traced_handover(bench, design, accelerator)
            print(accelerator, design, one["outcome"], one.get("why", one.get("cause", "")), one.get("again", {}).get("ioctls"), flush=True)
    return found


# -sandbox


def sandbox_part(bench):
    found = {}
    for setting, value in SANDBOXES.items():
        for design in DESIGNS:
            argument = f" -sandbox {value}" if value else ""
            binary = bench.program("sandboxed", f"exec {bench.options.new} \"$@\"{argument}")
            code, answer = bench.manager("start", bench.definition(design, "tcg", binary, "false"), "--wait-heartbeat", "60s")
            if code == 0:
                code, answer = bench.manager("upgrade", "q", "--to", binary, "--design", design)
                filters = run("grep", "-h", "Seccomp:", f"/proc/{bench.manager('show', 'q')[1].get('pid')}/status").stdout.split()[-1:]
                outcome = answer.get("outcome", "refused")
                bench.manager("destroy", "q")
            else:
                outcome, filters = "not started", []
            cause = "" if outcome == "upgraded" else (answer.get("cause") or answer.get("error", ""))
            found.setdefault(setting, {})[design] = {"outcome": outcome, "cause": cause, "seccomp": (filters or ["?"])[0]}
            print(setting, design, outcome, cause, filters, flush=True)
    return found


class Monitor:
    def __init__(self, path):
        for _ in range(600):
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(path)
                break
            except OSError:
                time.sleep(0.05)
        else:
            raise RuntimeError("no monitor at " + path)
        self.socket.settimeout(20)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": {key.replace("_", "-"): value for key, value in arguments.items()}}) + "\n")
        self.file.flush()
        while True:
            line = self.file.readline()
            if not line:
                raise EOFError("the VMM hung up")
            answer = json.loads(line)
            if "event" not in answer:
                return answer


def stock(bench, name, binary, *more):
    """A QEMU, whose guest has run no instruction, and its monitor."""
    path = bench.path(name + ".qmp")
    if os.path.exists(path):
        os.remove(path)
    argv = [binary, "-nodefaults", "-no-user-config", "-display", "none", "-S", "-accel", "tcg", "-m", "64M", "-object",
            "memory-backend-memfd,id=ram0,share=on,size=64M", "-machine", "pc-q35-10.0,memory-backend=ram0,aux-ram-share=on", "-device",
            "VGA,id=video", "-qmp", f"unix:{path},server=on,wait=off", *more]
    with open(bench.path(name + ".log"), "wb") as log:
        return argv, subprocess.Popen(argv, stdout=log, stderr=log), Monitor(path)


def exec_part(bench):
    found = {}
    for setting, value in SANDBOXES.items():
        sandbox = ["-sandbox", value] if value else []
        argv, process, monitor = stock(bench, "stock", bench.options.new, *sandbox)
        state = bench.path("exec-state")
        if os.path.exists(state):
            os.remove(state)
        monitor.ask("cont")
        answers = [monitor.ask("migrate-set-parameters", mode="cpr-exec", cpr_exec_command=argv + ["-incoming", "file:" + state]),
                   monitor.ask("migrate", uri="file:" + state)]
        errors = [answer["error"]["desc"] for answer in answers if "error" in answer]
        outcome = None
        try:
            for _ in range(200):
                status = monitor.ask("query-migrate")["return"]
                if status.get("status") == "failed":
                    outcome = "failed, the old QEMU goes on: " + status.get("error-desc", "")
                    time.sleep(1)
                    written = os.path.getsize(state) if os.path.exists(state) else 0
                    outcome += f"; the guest, which ran before, is {monitor.ask('query-status')['return']['status']} a second later, and {written} bytes of state are written"
                    break
                time.sleep(0.05)
        except (EOFError, ConnectionError, socket.timeout):
            pass
        if outcome is None:
            time.sleep(1)
            code = process.poll()
            if code is None:
                try:
                    outcome = "executed: the new QEMU answers, " + Monitor(bench.path("stock.qmp")).ask("query-migrate")["return"].get("status", "none")
                except (RuntimeError, OSError) as error:
                    outcome = "no answer: " + str(error)
            else:
                outcome = f"the process was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        with open(bench.path("stock.log"), errors="replace") as log:
            said = log.read().strip().splitlines()
        found[setting] = {"outcome": outcome, "errors": errors, "said": said[-2:]}
        print(setting, found[setting], flush=True)
        process.kill()
        process.wait()
    return found


# On the wire


def wire_part(bench):
    found = {}
    for release, binary in (("old", bench.options.old), ("new", bench.options.new)):
        argv, process, monitor = stock(bench, "wire", binary)
        blocks = monitor.ask("x-query-ramblock")["return"]["human-readable-text"].splitlines()[1:]
        version = monitor.ask("query-version")["return"]["qemu"]
        schema = monitor.ask("query-qmp-schema")["return"]
        unstable = sorted({entry["name"] for entry in schema if entry["meta-type"] == "command" and "unstable" in entry.get("features", [])} |
                          {member["name"] for entry in schema for member in entry.get("members", []) if "unstable" in member.get("features", [])})
        monitor.socket.close()
        monitor.file.close()
        saved, record = bench.path("cpr-state"), bench.path("record")
        captured = run(bench.options.shim, "capture", bench.path("wire.qmp"), "--pid", str(process.pid), "--save", saved, "--record", record)
        one = found[f"{version['major']}.{version['minor']}.{version['micro']}"] = {
            "unstable": unstable,
            "blocks": [[line.split()[0], line.split()[-4], line.split()[-3]] for line in blocks],
            "cpr state": {"bytes": os.path.getsize(saved), "what": run(bench.options.shim, "dump", saved).stdout.splitlines()},
            "section": {"bytes": os.path.getsize(record)}}
        one["captured"] = captured.returncode
        process.kill()
        process.wait()
        for shared in (False, True):
            ram = bench.path("ram0")
            with open(ram, "wb") as file:
                file.truncate(64 << 20)
            argv, process, monitor = stock(bench, "wire", binary)
            process.kill()
            process.wait()
            argv[argv.index("memory-backend-memfd,id=ram0,share=on,size=64M")] = f"memory-backend-file,id=ram0,share=on,mem-path={ram},size=64M"
            process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(1)  # Its predecessor's socket is there already.
            monitor = Monitor(bench.path("wire.qmp"))
            stream = bench.path("stream")
            if shared:
                monitor.ask("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
            monitor.ask("migrate", uri="file:" + stream)
            while monitor.ask("query-migrate")["return"].get("status") not in ("completed", "failed"):
                time.sleep(0.05)
            info = monitor.ask("query-migrate")["return"]
            one["main stream, x-ignore-shared" if shared else "main stream"] = {
                "bytes": os.path.getsize(stream), "normal": info["ram"]["normal"], "duplicate": info["ram"]["duplicate"], "what": run(bench.options.shim, "dump", stream).stdout.splitlines()[:12]}
            process.kill()
            process.wait()
    print(json.dumps(found, indent=1)[:3000])
    return found


# On the test host


def numbers_of(headers):
    """The number of an ioctl request -> its names, as a compiler has them."""
    include = "".join(f"#include <linux/{name}.h>\n" for name in ("kvm", "vhost", "vfio", "iommufd", "if_tun", "sockios"))
    compiler = ["gcc", "-I", headers, "-I", os.path.join(headers, "x86_64-linux-gnu"), "-xc", "-"]
    macros = run(*compiler, "-E", "-dM", input=include)
    if macros.returncode != 0:
        raise RuntimeError("--headers: " + macros.stderr.splitlines()[0])
    names = set(re.findall(r"^#define ((?:KVM_|VFIO_|IOMMU_|VHOST_|TUN|SIOC)\w+) (?:_IO[RW]*\(|0x89)", macros.stdout, re.MULTILINE))
    numbers = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as directory:
        def compiled():
            lines = "".join(f'printf("%u {name}\\n", (unsigned)({name}));\n' for name in sorted(names))
            return run(*compiler, "-o", directory + "/names", input=f"{include}#include <stdio.h>\nint main(void) {{\n{lines}}}\n")
        names -= set(re.findall(r"in expansion of macro \W(\w+)", compiled().stderr))  # Of other processors, whose structures are not there.
        if compiled().returncode != 0:
            raise RuntimeError("the numbers of the kernel's requests cannot be compiled")
        for number, name in (line.split() for line in run(directory + "/names").stdout.splitlines()):
            numbers[int(number)].append(name)
    return numbers


def name_on_host(numbers, number, file):
    """VFIO has the same numbers for what is asked of a device and of a container."""
    names = numbers.get(number, [hex(number)])
    wanted = "VFIO_IOMMU_" if file == "/dev/vfio/vfio" else "VFIO_DEVICE_"
    return next((name for name in names if name.startswith(wanted)), names[0])


def seen_on_host(path, numbers):
    """What question_host left of a handover, counted; each VMM from the last program that its process has executed."""
    vmms, files, report = {}, {"old": {}, "new": {}}, {}
    phase, asked = "before", []  # (process, phase, request number or None for exec, descriptor)
    with open(path, errors="replace") as seen:
        for line in seen:
            word, _, rest = line.rstrip("\n").partition(" ")
            if word == "vmm":
                vmms[rest.split()[0]] = int(rest.split()[1])
            elif word == "file":
                side, number, target = (rest.split(" ", 2) + [""])[:3]
                files[side][number] = target
            elif word == "report":
                report = json.loads(rest)
            elif word == "lost" and rest != "0":
                raise RuntimeError(f"'{path}': the trace has lost {rest} events")
            event = re.search(r"-\d+ +\( *([\d-]+)\) .*: (sys_ioctl\(fd: (\w+), cmd: (\w+)|sched_process_exec: |tracing_mark_write: (\w+))", line)
            if event and event.group(5):
                phase = {"begin": "handover", "end": "after"}[event.group(5)]
            elif event:
                if event.group(1).startswith("-"):
                    raise RuntimeError(f"'{path}': whose thread asked is not known: {line}")
                request = int(event.group(4), 16) if event.group(4) else None
                asked.append((event.group(1), phase, request, request and str(int(event.group(3), 16))))
    found = {"outcome": report.get("outcome", "refused"), "cause": report.get("cause", report.get("error", ""))}
    if found["outcome"] != "upgraded":
        return found

    def calls(side, phases):
        ioctls, named = collections.Counter(), collections.defaultdict(collections.Counter)
        for process, during, number, descriptor in asked:
            if process != str(vmms[side]) or during not in phases:
                continue
            if number is None:
                ioctls.clear()
                named.clear()
                continue
            name = name_on_host(numbers, number, files[side].get(descriptor, ""))
            group = next((group for prefix, group in PREFIXES if name.startswith(prefix)), "other")
            if name not in OF_RUNNING:
                ioctls[group] += 1
                if group != "KVM":  # Whose names part `monitor` has.
                    named[group][name] += 1
        return {"ioctls": dict(sorted(ioctls.items())), "requests": {group: dict(sorted(names.items())) for group, names in sorted(named.items())}}

    found["first"] = calls("old", ("before",))
    found["again"] = calls("new", ("before", "handover"))
    found["old while it hands over"] = "the same process" if vmms["old"] == vmms["new"] else calls("old", ("handover",))
    return found


def host_part(bench):
    numbers = numbers_of(bench.options.headers)
    guest = os.path.join(os.path.dirname(os.path.dirname(bench.options.new)), "guest")
    found = {"about": {"qemu": run(bench.options.new, "--version").stdout.splitlines()[0]}}
    for kind, (modules, designs) in ON_HOST.items():
        directory = bench.path(kind)
        os.mkdir(directory)
        devices = "vfio: [{id: hd0, address: '0000:00:10.0', bind: true}, {id: net0, address: '0000:01:00.0', bind: true}]"
        binary, more = bench.options.new, "probe.disk=/dev/nvme0n1"
        if kind == "vhost":  # Which the manager asks for for libvirt's domains only.
            devices, more = "networks: [{id: net0, type: tap, bridge: vhq0}]", ""
            binary = bench.program("vhost/with-vhost", f"""for a; do shift; case $a in tap,*) a=$a,vhost=on ;; esac; set -- "$@" "$a"; done
exec {binary} "$@" """)
        for design in designs:
            with open(f"{directory}/{design}.yaml", "w") as file:
                file.write(f"""name: q
machine: q35
accelerator: kvm
cpu: {{model: host}}
memory: {{size: 192MiB, owner: {OWNERS[design]}}}
boot:
  kernel: {guest}/vmlinuz
  initrd: {guest}/initramfs.gz
  cmdline: console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off cryptomgr.notests probe.ram_mib=16 probe.rate_mib_s=8 probe.ip=10.77.0.2 {more}
console: {{log: {directory}/console.log}}
{devices}
heartbeat: true
vmm: {{binary: {binary}}}
handover: {{design: {design}, pause_budget: 60s, save_directory: /tmp, deadlines: {{launch: 120s, exchange: 60s, verify: 60s, switch: 60s, retire: 60s}}}}
""")
        wanted = [f"{directory}/{design}.seen" for design in designs] + [directory + "/kernel"]
        options = ["--device", "nvme", "--device", "nic", "--modules", modules, "--timeout", "2400", "--with", directory]
        subprocess.run([os.path.join(HERE, "..", "test-host", "in-test-host"), *options, *[word for path in wanted for word in ("--bring-back", path)],
                        os.path.join(HERE, "question_host"), bench.options.cli, directory], check=True, env={**os.environ, "VH_SHIM": bench.options.shim})
        with open(directory + "/kernel") as file:
            found["about"]["kernel"] = file.read().strip()
        for design in designs:
            found.setdefault(kind, {})[design] = one = seen_on_host(f"{directory}/{design}.seen", numbers)
            print(kind, design, one["outcome"], one["cause"], one.get("first", {}).get("ioctls"), one.get("again", {}).get("ioctls"), flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--cli", required=True)
    parser.add_argument("--shim", default="")
    parser.add_argument("--old", required=True)
    parser.add_argument("--new", required=True)
    parser.add_argument("--guest", required=True)
    parser.add_argument("--part", default="monitor,sandbox,exec,wire")
    parser.add_argument("--headers", default="/usr/include")
    parser.add_argument("--output", default=os.path.join(HERE, "question-runs.json"))
    options = parser.parse_args()
    for name in ("cli", "guest", "shim"):
        setattr(options, name, os.path.abspath(getattr(options, name)))
    found = {}
    if os.path.exists(options.output):
        with open(options.output) as file:
            found = json.load(file)
    if set(options.part.split(",")) - {"host", "wire"}:  # Which are of another machine, and of no kernel.
        found["about"] = {"old": run(options.old, "--version").stdout.splitlines()[0], "new": run(options.new, "--version").stdout.splitlines()[0],
                          "kernel": os.uname().release}
    bench = Bench(options)
    try:
        for part in options.part.split(","):
            found[part] = {"monitor": monitor_part, "sandbox": sandbox_part, "exec": exec_part, "wire": wire_part, "host": host_part}[part](bench)
            with open(options.output, "w") as file:
                file.write(compact(found))
    finally:
        shutil.rmtree(bench.directory, ignore_errors=True)


if __name__ == "__main__":
    main()
