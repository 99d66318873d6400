#!/usr/bin/env python3
"""cpr-transfer by hand over QMP, as an expert does it without virt-handover: what the project's own handovers are measured against.
The VMM is that of `vmm-owned` (manager/vmm/qemu_command.cpp): only who drives the handover differs. The new QEMU has no -S and runs the
guest as soon as it can: the least that QEMU takes, so the harder yardstick. With hold=True it waits under -S until both ends say
`completed`, then gets `cont`: virt-handover's own sequence. Alone: yardstick.py [--rounds N], with VH_QEMU_NEW and VH_GUEST_* set."""
import json, os, socket, subprocess, sys, tempfile, time

class Qmp:
    def __init__(self, path):
        connection, deadline, self.times = socket.socket(socket.AF_UNIX), time.monotonic() + 60, {}
        while connection.connect_ex(path) and time.monotonic() < deadline: time.sleep(0.002)  # No monitor until the CPR state is there.
        connection.settimeout(60)
        self.file = connection.makefile("rw")
        self.execute("qmp_capabilities")
        self.execute("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
    def read(self):
        message = json.loads(self.file.readline() or '{"error": "it was closed"}')
        if "error" in message: raise RuntimeError(f"monitor: {message['error']}")
        if "event" in message:  # A migration's goes by its status. Times are QEMU's own, here in milliseconds.
            at, name = message["timestamp"], message.get("data", {}).get("status", message["event"])
            self.times[name] = at["seconds"] * 1000 + at["microseconds"] / 1000
        return message
    def execute(self, command, arguments={}):
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.file, flush=True)
        while "return" not in self.read(): pass
    def when(self, event):
        while event not in self.times: self.read()
        return self.times[event]

class Yardstick:
    def __init__(self, directory, opened=lambda port: None):  # opened: told of each VMM's heartbeat port, before the guest is there.
        self.directory, self.opened, self.number, self.processes = directory, opened, 0, []
        with open(f"{directory}/disk", "wb") as disk: disk.truncate(64 << 20)
        self.launch(), self.connect()
    def launch(self, *incoming):
        port = lambda name: f"-chardev socket,id={name},path={self.directory}/{name}{self.number},server=on,wait=off"
        self.processes.append(subprocess.Popen([os.environ["VH_QEMU_NEW"], *f"""-nodefaults -no-user-config -display none -accel tcg -cpu max
            -smp 1 -m 512M -object memory-backend-memfd,id=ram0,share=on,size=512M -machine pc-q35-10.0,memory-backend=ram0,aux-ram-share=on
            -name guest=yardstick,debug-threads=on -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
            {port("qmp")} -mon chardev=qmp,mode=control {port("con")} -serial chardev:con {port("beats")} -device virtio-serial-pci,id=ports
            -device virtserialport,bus=ports.0,chardev=beats,name=org.virt-handover.heartbeat.0 -device virtio-blk-pci,drive=root
            -blockdev driver=raw,node-name=root,file.driver=file,file.filename={self.directory}/disk -initrd {os.environ["VH_GUEST_INITRAMFS"]}
            -kernel {os.environ["VH_GUEST_KERNEL"]}""".split(), "-append", "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable "
            "mitigations=off clearcpuid=erms", *incoming], stderr=open(f"{self.directory}/log", "a")))
    def connect(self):
        self.monitor = Qmp(f"{self.directory}/qmp{self.number}")
        self.opened(f"{self.directory}/beats{self.number}")
    def handover(self, hold=False):  # -> milliseconds from STOP to RESUME
        old, self.number, unix = self.monitor, self.number + 1, {"transport": "socket", "type": "unix"}
        main, cpr = ({"channel-type": name, "addr": unix | {"path": f"{self.directory}/{name}{self.number}"}} for name in ("main", "cpr"))
        self.launch("-incoming", "defer", "-incoming", json.dumps(cpr), *["-S"] * hold)
        while not any(" 00010000 " in line and cpr["addr"]["path"] in line.split() for line in open("/proc/net/unix")):
            time.sleep(0.002)  # Until it listens (SO_ACCEPTCON). Connecting to try would use the channel up.
        old.times.clear(), old.execute("migrate-set-parameters", {"mode": "cpr-transfer"})
        old.execute("migrate", {"channels": [main, cpr]})  # Never `uri` or cpr alone: QEMU 10.0 and 11.1 crash on that.
        self.connect(), self.monitor.execute("migrate-incoming", {"channels": [main]})
        if hold: old.when("completed"), self.monitor.when("completed"), self.monitor.execute("cont")
        self.monitor.when("RESUME"), old.when("completed"), old.execute("quit"), self.processes.pop(0).wait()
        return self.monitor.when("RESUME") - old.when("STOP")

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="yardstick-") as directory:
        yardstick = Yardstick(directory)
        try: time.sleep(20), [print(f"{yardstick.handover():.2f} ms", flush=True) for _ in range(int((sys.argv[1:] or [20])[-1]))]
        finally: [process.kill() for process in yardstick.processes]
