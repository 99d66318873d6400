#!/usr/bin/env python3
"""Counts the code that each design needs, in QEMU and here, and writes question-lines.json.

usage: tests/results/question_lines.py SOURCE_OF_QEMU...

SOURCE_OF_QEMU is an unpacked source of a release (its VERSION names it; Debian's `apt-get source qemu=...` will do). Lines of code are
those that are neither blank nor comment alone. Of files that other things need too, only lines that name the subject are counted.
"""
import glob, json, os, re, subprocess, sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

# What of QEMU: whole files, and lines of other files that match.
CPR = r"\b(cpr_|Cpr|CPR|MIG_MODE_CPR|migrate_mode\b)|cpr-|QEMU_CPR"
EXEC = r"cpr_exec|cpr-exec|CPR_EXEC"
SHARED = r"ignore_shared|IGNORE_SHARED|ignore-shared|ram_is_ignored|NOT_IGNORED|not_ignored"
QEMU = {
    "cpr, the channel and the state": {
        "files": ["migration/cpr.c", "migration/cpr-transfer.c", "include/migration/cpr.h"],
        "lines": (CPR, ["migration/migration.c", "migration/options.c", "migration/ram.c", "migration/vmstate-types.c", "migration/savevm.c",
                        "migration/migration-hmp-cmds.c", "qapi/migration.json", "system/vl.c", "system/physmem.c", "system/memory.c",
                        "backends/hostmem*.c", "hw/core/*.c", "include/system/ramblock.h", "include/system/memory.h"])},
    "cpr-exec": {"files": ["migration/cpr-exec.c"], "lines": (EXEC, ["migration/migration.c", "migration/options.c", "migration/ram.c",
                           "migration/migration-hmp-cmds.c", "migration/cpr.c", "qapi/migration.json", "include/migration/cpr.h"])},
    "aux-ram-share": {"files": [], "lines": (r"aux.ram.share", ["hw/core/machine.c", "include/hw/boards.h", "system/physmem.c", "qapi/migration.json", "qemu-options.hx"])},
    "cpr of vfio and iommufd": {
        "files": ["hw/vfio/cpr*.c", "include/hw/vfio/vfio-cpr.h"],
        "lines": (CPR, ["hw/vfio/[!c]*.c", "hw/vfio/container*.c", "hw/vfio/*.h", "backends/iommufd.c", "include/system/iommufd.h",
                        "include/hw/vfio/vfio-[!c]*.h", "include/hw/pci/pci.h"])},
    "x-ignore-shared": {"files": [], "lines": (SHARED, ["migration/*.c", "migration/*.h", "include/migration/*.h", "hw/virtio/virtio-mem.c", "qapi/migration.json"])},
}
NEEDS = {  # Design -> parts of QEMU.
    "relayed": ["cpr, the channel and the state", "aux-ram-share"],
    "manager-owned": ["x-ignore-shared"],
    "vmm-owned": ["cpr, the channel and the state", "aux-ram-share"],
    "vmm-exec": ["cpr, the channel and the state", "cpr-exec", "aux-ram-share"],
    "copy": [],
    "save-restore": [],
}
# What of this tree that not every design needs: files, or classes of files (FILE:CLASS).
STREAM = "manager/handover/stream_steps.cpp"
CPR_STEPS = "manager/handover/cpr_steps.cpp"
OURS = {
    "relayed": {"manager": [CPR_STEPS + ":CprSteps", CPR_STEPS + ":RelayedSteps", "manager/handover/relay.h", "manager/handover/relay.cpp"],
                "shim": ["vmm-shim/cpr_channel.h", "vmm-shim/cpr_channel.cpp", "vmm-shim/cpr_state.h", "vmm-shim/cpr_state.cpp"]},
    "manager-owned": {"manager": [STREAM + ":StreamSteps", "manager/resources/memory_files.h", "manager/resources/memory_files.cpp"], "shim": []},
    "vmm-owned": {"manager": [CPR_STEPS + ":CprSteps", CPR_STEPS + ":VmmOwnedSteps"], "shim": []},
    "vmm-exec": {"manager": ["manager/handover/exec_steps.cpp", "manager/handover/in_place.h", "manager/handover/in_place.cpp"],
                 "shim": ["vmm-shim/exec_inbox.h", "vmm-shim/exec_inbox.cpp", "vmm-shim/tool/exec.h", "vmm-shim/tool/exec.cpp"]},
    "copy": {"manager": [STREAM + ":StreamSteps"], "shim": []},
    "save-restore": {"manager": [STREAM + ":FileSteps"], "shim": []},
}


def is_code(lines):
    """The lines that are neither blank nor comment alone."""
    within = False
    for line in lines:
        text = line.strip()
        if within:
            within = "*/" not in text
            continue
        if text.startswith("/*"):
            within = "*/" not in text
            continue
        if text and not text.startswith("//"):
            yield text


def read(path):
    with open(path, errors="replace") as file:
        return file.read().splitlines()


def part_of_class(lines, name):
    begin = next(at for at, line in enumerate(lines) if re.match(rf"class {name}\b", line))
    return lines[begin:next(at for at in range(begin, len(lines)) if lines[at] == "};") + 1]


def count_ours(spec):
    path, _, name = spec.partition(":")
    lines = read(os.path.join(ROOT, path))
    return len(list(is_code(part_of_class(lines, name) if name else lines)))


def found(source, patterns):
    return sorted({path for pattern in patterns for path in glob.glob(os.path.join(source, pattern))})


def count_qemu(source, part):
    whole = found(source, part["files"])
    counted = {"files": {os.path.relpath(path, source): len(list(is_code(read(path)))) for path in whole}, "lines": {}}
    expression, patterns = part["lines"]
    for path in found(source, patterns):
        if path in whole:
            continue
        lines = read(path) if path.endswith(".json") else is_code(read(path))
        if number := sum(1 for line in lines if re.search(expression, line) and (expression != CPR or not re.search(EXEC, line))):
            counted["lines"][os.path.relpath(path, source)] = number
    return counted


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    qemu = {}
    for source in sys.argv[1:]:
        version = read(os.path.join(source, "VERSION"))[0]
        qemu[version] = {name: count_qemu(source, part) for name, part in QEMU.items()}
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    ours = {design: {room: {spec: count_ours(spec) for spec in specs} for room, specs in rooms.items()} for design, rooms in OURS.items()}
    with open(os.path.join(HERE, "question-lines.json"), "w") as file:
        file.write(json.dumps({"qemu": qemu, "needs": NEEDS, "commit": commit, "ours": ours}, indent=1) + "\n")


main()
