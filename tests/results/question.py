#!/usr/bin/env python3
"""usage: tests/results/question.py [--check]

Writes question.md, the readers' form of question-runs.json, question-lines.json, silent-loss.json, pause-parts.json and results.json; with
--check says whether it is that, and exits with 1 if not. The designs are read from config/design.h.
"""
import json, os, re, sys
from statistics import median

import question_costs
from published import HERE, publish
from question_costs import table
from sentences import span

sys.path.insert(0, os.path.join(HERE, "../support"))
from designs import OF_UPGRADES as DESIGNS, ROWS, WITH_DEVICES

OLDEST = {row.name: row for row in ROWS}
FAULTS = ["nothing", "`aux-ram-share` missing", "`x-ignore-shared` missing", "an entry removed", "an entry renamed", "two descriptors swapped", "another file",
          "a descriptor that is read-only", "a private mapping", "a file of another size", "larger video memory", "a malformed service byte",
          "a missing descriptor", "a truncated state", "bytes after the end"]


def load(name):
    with open(os.path.join(HERE, name)) as file:
        return json.load(file)


def coded(names):
    return ", ".join(f"`{name}`" for name in names) or "-"


# What each design must be told


def told(runs):
    wire = runs["wire"]
    versions = list(wire)
    state = " and ".join(f"{wire[version]['cpr state']['bytes']} bytes (QEMU {version})" for version in versions)
    blocks = {version: wire[version]["blocks"] for version in versions}
    alike = blocks[versions[0]] == blocks[versions[1]]
    listed = blocks[versions[0]]
    resizable = [f"`{name}` ({int(used, 16) >> 10} of {int(most, 16) >> 10} KiB)" for name, used, most in listed if used != most]
    setup = "stream, at its set-up"
    text = table(["property of a RAM block", *[f"`{design}`" for design in DESIGNS[:4]], "`copy`, `save-restore`"], [
        ["name", "CPR state", setup, "CPR state", "CPR state, in a memfd", setup],
        ["descriptor", "CPR state, one a block; guest RAM that the manager owns: argument `mem-path=/proc/self/fd/N`",
         "of guest RAM alone: argument `mem-path=/proc/self/fd/N`", "CPR state, one a block", "its number, of a descriptor that is kept open", "-"],
        ["used_length", *[setup] * 5],
        ["max_length", *["not told"] * 5],
        ["alignment", *["not told"] * 5],
        ["page size, flags", *["not told; of guest RAM by the same arguments as the old VMM's"] * 5],
        ["whether it is shared", "`aux-ram-share=on`, `share=on`", "`share=on`, of guest RAM", "`aux-ram-share=on`, `share=on`", "`aux-ram-share=on`, `share=on`", "-"],
        ["guest address", "not told", setup, "not told", "not told", "not told"],
    ])
    bytes_of = []
    for version in versions:
        one = wire[version]
        shared, whole = one["main stream, x-ignore-shared"], one["main stream"]
        bytes_of.append([version, f"{one['cpr state']['bytes']}", len(one["blocks"]), f"{whole['bytes']:,}", f"{shared['bytes']:,}",
                         f"{shared['normal']} and {shared['duplicate']:,}"])
    sent = "; ".join(f"`{design}` " + " and ".join(f"{runs['monitor'][accelerator][design]['sent bytes'] / 1e6:.2f} MB" for accelerator in runs["monitor"]) for design in DESIGNS)
    return f"""## What the new VMM must be told of RAM

From QEMU's sources (10.0.13 and 10.2.2): the CPR state is `migration/cpr.c:vmstate_cpr_fd`, the stream `migration/ram.c:ram_save_setup` and
`parse_ramblock`, and what a block is made of `system/physmem.c:qemu_ram_alloc_internal`.

{text}
Which of them change between releases of QEMU: [ram-block-survey.md](ram-block-survey.md). Lengths of guest RAM are arguments, the same as the old VMM's, in every design; the table is about all other blocks where it does not say so.

So the properties that the thread's series wanted to send through vmstate (max_length, alignment and others) are not in the CPR state of these releases: it has
names and descriptors. The new VMM works max_length and alignment out by itself, and makes a file that is shorter longer
(`qemu_ram_alloc_from_fd`, argument `grow`; seen below as "larger video memory"). virt-handover looks at all of these fields in both VMMs, in every
design that shares RAM, by `x-query-ramblock` (unstable) and `/proc`, before the guest stops (`vmm-shim/ram_block_differences.h`).

On the wire, of a q35 with 64 MiB of RAM and VGA that has run no instruction:

{table(["QEMU", "CPR state, bytes", "descriptors in it", "main stream, all RAM in it, bytes", "main stream with `x-ignore-shared`, bytes", "pages copied in it, and pages of zeros"], bytes_of)}
Of the handovers below (192 MiB of RAM), under TCG and KVM: {sent}. That is the main stream, all devices' state in it.

The {len(listed)} blocks of the first have {"the same lengths in both releases" if alike else "lengths that differ between the releases"}; max_length differs from used_length in {" and ".join(resizable)}.
"""


def exchanged(runs, results):
    wire = runs["wire"]
    return f"""## Properties that are exchanged

What no QEMU sends, virt-handover looks up in each VMM and writes as a vmstate section, `virt-handover/ram-blocks` version 1 in QEMU's own framing, with QEMU's field names (`vmm-shim/ram_block_section.h`):
of each block name, used_length, max_length, page size, alignment, flags, and device, inode and size of its file. What is compared is what the two sections say.

**No such section travels between the two QEMUs**, which know nothing of it. In a handover both are encoded, kept on disk, decoded and compared in the manager's own process
(`manager/handover/course.cpp`, `exchangeRam`); between processes only the tool sends one, with a descriptor of each file (`vmm-shim capture --exchange`, `vmm-shim diff`).

{table(["QEMU", "blocks", "section, bytes", "CPR state, bytes"], [[version, len(one["blocks"]), one["section"]["bytes"], one["cpr state"]["bytes"]] for version, one in wire.items()])}
(A q35 with 64 MiB of RAM and VGA.) *Verify* is what gathering both VMMs' blocks, encoding and comparing them takes while the guest runs, of all that is prepared; that of `vmm-exec` has its rehearsal
in it. In the form that is explained under "What a handover costs besides its pause":

{question_costs.verifying(results)}"""


def losses(matrix):
    columns = [design for design in ["cpr-transfer, 10.0 to 10.0", "cpr-transfer, 10.0 to 11.1", "x-ignore-shared, 10.0 to 11.1", "relayed",
                                     "relayed, behind the relay", "vmm-owned", "manager-owned", "vmm-exec"] if design in matrix]
    faults = sorted({fault for faults in matrix.values() for fault in faults if fault != "nothing"}, key=lambda fault: (FAULTS.index(fault) if fault in FAULTS else 99, fault))
    def cells(what, of):
        return [[fault, *[matrix[column].get(fault, {}).get(what, "") for column in of]] for fault in faults]

    ours = [column for column in columns if any("caught by" in found for found in matrix[column].values())]
    caught = [row for row in cells("caught by", ours) if any(row[1:])]
    return f"""## What happens when it is wrong

Seen in runs of two real QEMUs, and seen again in every run of the tests, which fail when they see otherwise
(`tests/system/stock_loss_test.cpp`, `handover_loss_test.cpp`, `vmm_exec_test.cpp`). `cpr-transfer` and `x-ignore-shared` are QEMU's own, driven by
monitors alone; an empty cell was not tried, or cannot be. *Behind the relay*: changed between the relay, which had found the state good, and the new VMM.

{table(["fault", *columns], cells("outcome", columns))}
Who gave it up with virt-handover: *relay*, which decodes the CPR state on its way and looks at each name and descriptor; *comparison*, of both VMMs' RAM blocks when both are built, with the
properties in which it found what would be fatal; *the old* or *the new QEMU* by itself, before there was anything to compare. The old one does so where the new one had hung up on a state that it did not take,
and was not yet told to listen for the stream: a person who has it listen before loses that guest's memory, as above.
With `vmm-exec` the new VMM is told its memory by a state that the process leaves to itself: what its rehearsal cannot show is found when it has been executed, and there is no way back then.

{table(["fault", *ours], caught)}"""


# Code and interface


def lines_of(part):
    return sum(part["files"].values()) + sum(part["lines"].values())


def code(lines):
    versions = list(lines["qemu"])
    rows = []
    for name in lines["qemu"][versions[-1]]:
        for version in versions:
            part = lines["qemu"][version][name]
            if lines_of(part):
                rows.append([name, version, coded(part["files"]) if part["files"] else "-", sum(part["files"].values()), sum(part["lines"].values()), len(part["lines"])])
    designs = []
    for design in DESIGNS:
        needs = lines["needs"][design]
        qemu = sum(lines_of(lines["qemu"][versions[-1]][name]) for name in needs)
        room = {name: sum(specs.values()) for name, specs in lines["ours"][design].items()}
        # Rounded, since the tree moves on.
        designs.append([f"`{design}`", " + ".join(needs) or "none of its own", qemu, *[10 * round(room[name] / 10) if room[name] else 0 for name in ("manager", "shim")]])
    return f"""## How much code

Lines that are neither blank nor comment alone, counted by `question_lines.py`: whole files that are there for nothing else, and of other files only
the lines that name the subject (so a lower bound). QEMU as Debian's source packages have it; the source of 11.1 was not counted.

{table(["part of QEMU", "release", "whole files", "their lines", "lines elsewhere", "in so many files"], rows)}
By design, with QEMU {versions[-1]}; ours at commit {lines["commit"]}, to the nearest ten, by the files and classes that `question-lines.json` names. What two designs share is
counted for both; what every design has (processes, monitors, the comparison of RAM blocks) for none:

{table(["design", "needs of QEMU", "lines in QEMU", "lines in the manager", "lines in the shim"], designs)}
A passed-through device adds "cpr of vfio and iommufd" to `relayed` and `vmm-owned`; `manager-owned` cannot have one.
"""


def release(runs, side):
    return "QEMU " + re.search(r"version (\S+)", runs["about"][side]).group(1)


def words(entries, wanted):
    return sorted({word for command, arguments in entries for word in arguments if command == "migrate-set-capabilities" and word.endswith("=on") == wanted})


def interface(runs):
    unstable = {name for one in runs["wire"].values() for name in one["unstable"]}
    seen = runs["monitor"]["kvm"]
    every = {side: set.intersection(*[{entry[0] for entry in seen[design]["commands"][side]} for design in DESIGNS]) for side in ("old", "new")}
    rows = []
    for design in DESIGNS:
        one, oldest = seen[design], OLDEST[design]
        own = {side: sorted({entry[0] for entry in one["commands"][side]} - every[side]) for side in ("old", "new")}
        entries = [entry for side in ("old", "new") for entry in one["commands"][side]]
        on = [word.split(" ")[-1][:-3] for word in words(entries, True)]
        modes = sorted({word for command, arguments in entries if command == "migrate-set-parameters" for word in arguments
                        if word.startswith(("mode", "cpr-"))})
        channels = sorted({word.replace("channels ", "") for command, arguments in entries if command.startswith("migrate") for word in arguments if word.startswith("channels")})
        arguments = [re.sub(r"-incoming \{.*", "-incoming (cpr channel)", argument) for argument in one["arguments"] if argument.startswith(("-incoming", "-add-fd"))]
        arguments = sorted({re.sub(r"fd=\d+", "fd=N", argument) for argument in arguments} - {"-incoming defer"})
        rows.append([f"`{design}`", oldest.oldest_old, oldest.oldest_new, coded(arguments), coded(on), coded(modes), coded(channels), coded(own["old"]), coded(own["new"])])
    used = {entry[0] for design in DESIGNS for side in ("old", "new") for entry in seen[design]["commands"][side]}
    capabilities = {word.split(" ")[-1].rsplit("=", 1)[0] for design in DESIGNS for side in ("old", "new") for word in words(seen[design]["commands"][side], True)}
    return f"""## How much interface

As seen in a handover with each design (strace of the manager's monitor sockets; {release(runs, "old")} to {release(runs, "new")}; `vmm-exec`, which {release(runs, "old")} does not have, from
{release(runs, "new")} to itself). All designs ask the old VMM {coded(sorted(every["old"]))} and the new one {coded(sorted(every["new"]))}; the table has what not all of them ask.

{table(["design", "oldest old QEMU", "oldest new", "arguments of its own", "capabilities that are on", "mode and its parameters", "channels", "old VMM is asked besides", "new VMM is asked besides"], rows)}
The device model is told to the new VMM by the same arguments that the old one had, in each design. Arguments for shared RAM: `-object
memory-backend-file,share=on,mem-path=/proc/self/fd/N` where the manager owns it, `memory-backend-memfd,share=on` where the VMM does; and
`-machine aux-ram-share=on`, which only CPR needs (virt-handover gives it to every VMM that knows it, so that any design can follow).

Of all that, QEMU's own schema (`query-qmp-schema`, both releases) calls unstable: {coded(sorted((used | capabilities) & unstable))}. `x-query-ramblock`
is asked by virt-handover to compare RAM blocks, and is needed by no design as such; `x-ignore-shared` is what `manager-owned` rests on. Nothing is asked by HMP. What `vmm-exec` asks the new
VMM is asked of its rehearsal too.
"""


# What the kernel is told a second time


def memfds(one):
    return [call[len("memfd "):] for call in one["again"]["calls"] if call.startswith("memfd ")]


# How a VM of part `host` has its devices -> what that is, who serves them, and the designs that do not refuse it.
HOSTED = {"vhost": ("a tap with vhost-net", ["vhost"], DESIGNS), "cdev": ("devices by cdev and iommufd", ["VFIO", "iommufd"], WITH_DEVICES),
          "group": ("devices by group and container", ["VFIO"], WITH_DEVICES)}


def served(seen, kind):
    """Request -> how often the first VMM and the new one made it, in each design that handed over."""
    cells = [[one[side]["requests"] for side in ("first", "again")] for one in seen.get(kind, {}).values() if one["outcome"] == "upgraded"]
    flat = [[{name: number for group in HOSTED[kind][1] for name, number in side.get(group, {}).items()} for side in cell] for cell in cells]
    return {name: [[side.get(name, 0) for side in cell] for cell in flat] for name in sorted({name for cell in flat for side in cell for name in side})}


def totals(seen, kind):
    """Of the first VMM and of the new one, over the designs."""
    return [span([sum(numbers) for numbers in zip(*([cell[side] for cell in cells] for cells in served(seen, kind).values()))], str, " to ") for side in (0, 1)]


def skipped(seen, kind):
    return [name for name, cells in served(seen, kind).items() if all(first and not again for first, again in cells)]


def host(seen):
    groups = ["KVM", "tap", "vhost", "VFIO", "iommufd"]
    rows, says, asked = [], [], {kind: served(seen, kind) for kind in HOSTED if kind in seen}
    missing = [f"{what} with {coded(absent)}" for kind, (what, _, designs) in HOSTED.items() if (absent := [design for design in designs if design not in seen.get(kind, {})])]
    for kind in asked:
        what, serving, _ = HOSTED[kind]
        for design, one in seen[kind].items():
            if one["outcome"] != "upgraded":
                rows.append([what, f"`{design}`", f"{one['outcome']}: {one['cause']}", *[""] * 6])
                continue
            cells = [" / ".join(str(one[side]["ioctls"].get(group, 0)) for group in groups) if "ioctls" in one[side] else f"({one[side]})" for side in ("first", "old while it hands over")]
            rows.append([what, f"`{design}`", *[one["again"]["ioctls"].get(group, 0) for group in groups], *cells])
        not_again = skipped(seen, kind)
        again = [name for name, cells in asked[kind].items() if all(number for _, number in cells) and name not in not_again]
        first, new = totals(seen, kind)
        alike = all(cell == cells[0] for cells in asked[kind].values() for cell in cells)
        says.append(f"- **{what[0].upper()}{what[1:]}**: {new} requests to {' and '.join(serving)} of the new VMM for {first} of the first, {'' if len(seen[kind]) == 1 else 'alike ' if alike else 'not alike '}in {coded(seen[kind])}. "
                    + (f"Never again: {coded(not_again)}. Again: {coded(again)}." if not_again else "There is none that the first made and the new one does not."))
    requests = [[f"`{name}`", *[" / ".join(span([cell[side] for cell in asked[kind][name]], str, " to ") for side in (0, 1)) if name in asked[kind] else "-" for kind in asked]]
                for name in sorted({name for names in asked.values() for name in names})]
    version = re.search(r"version (\S+)", seen["about"]["qemu"]).group(1)
    return f"""### vhost, VFIO and iommufd

On the emulated host of `tests/test-host/README.md` (Linux {seen["about"]["kernel"]}), which has what this machine lacks, counted by its kernel's own trace of `ioctl`, without those of a guest that runs. One run each, QEMU {version}
to itself, KVM, one CPU, a Linux guest that uses what it has: a tap that vhost-net serves (`vhost=on` comes from a
wrapper of QEMU's: the manager asks for it for libvirt's domains only), or an NVMe disk and a network card that are passed through, which other designs refuse.

{chr(10).join(says)}
{f"- Not run: {'; '.join(missing)}." + chr(10) if missing else ""}
{table(["VM with", "design", *groups, "the first VMM until then: " + " / ".join(groups), "the old VMM meanwhile"], rows)}
First VMM / new VMM, "to" where designs differ:

{table(["request", *[HOSTED[kind][0] for kind in asked]], requests)}
The first VMM's requests are also its guest's start: firmware and kernel change the map of memory (an unmap and a map each time), and drivers set interrupts up, one by one. There is no new VMM
without CPR to compare with, since it cannot have the devices. What is counted is what QEMU asks; how long it takes, and what the drivers of real devices and IOMMUs make of it, an emulated host
cannot say. With real devices the numbers of interrupts and of regions are others.
"""


def kernel(runs):
    text = []
    for accelerator, seen in runs["monitor"].items():
        groups = (["KVM"] if accelerator == "kvm" else []) + ["tap", "other"]
        rows = []
        for design in DESIGNS:
            one = seen[design]
            old = one["old while it hands over"]
            rows.append([f"`{design}`", *[one["again"]["ioctls"].get(group, 0) for group in groups],
                         " / ".join(str(one["first"]["ioctls"].get(group, 0)) for group in groups),
                         "(the same process)" if isinstance(old, str) else " / ".join(str(old["ioctls"].get(group, 0)) for group in groups),
                         len(memfds(one)), one["again"]["calls"].get("mmap, shared", 0)])
        text += [f"### {'KVM' if accelerator == 'kvm' else 'TCG'}", "",
                 table(["design", *groups, "the first VMM until then: " + " / ".join(groups), "the old VMM meanwhile", "memfds made and kept", "shared mappings"], rows)]
    kvm = runs["monitor"]["kvm"]
    same = all(kvm[design]["again"]["requests"] == kvm["relayed"]["again"]["requests"] for design in DESIGNS)
    names = sorted(kvm["relayed"]["again"]["requests"]["KVM"].items(), key=lambda item: (-item[1], item[0]))
    made = memfds(kvm["relayed"])
    return f"""## What the kernel is told a second time

ioctl requests of the new VMM from its start to the end of the handover, and the memory that it makes, counted by strace; without those of a guest that
runs (`KVM_RUN`, interrupts). A VM with one disk, one tap, VGA and a serial port, one CPU, the bare guest. One run each, {release(runs, "old")} to {release(runs, "new")} (`vmm-exec`: the
latter to itself). What the manager asks of the kernel for both (to make the tap, to put it on the bridge) is not in it.
A second run was alike, but for the old VMM where it looks for pages that the guest writes (`KVM_CLEAR_DIRTY_LOG`): that number is of one run.

{chr(10).join(text)}
Under KVM the requests of the six designs are {"the same, request by request" if same else "not the same"}: whoever owns RAM, the new VMM makes its virtual machine anew
and loads it from the stream. The most frequent: {", ".join(f"`{name}` {number}" for name, number in names[:8])}.
`vmm-exec` keeps its process and no descriptor of KVM: it makes a new virtual machine as the others do. What the design changes is memory: with CPR the new VMM
makes {len(made)} memfd ({coded(made)}), without it {len(memfds(kvm["manager-owned"]))}, the implicit blocks among them.

{host(runs["host"])}"""


# Where the pause goes


# Name in the data, what comes then, whose it is and where that is in QEMU.
PARTS = [
    ("drain", "disks drain and flush (`do_vm_stop`)"),
    ("set up", "the stream is set up, until it is `active` (`migration_thread`); without CPR that is done while the guest runs"),
    ("save RAM", "images are given up, and what is left of RAM is saved (`migration_completion_precopy`)"),
    ("save devices", "the old VMM saves devices; the new one loads them meanwhile"),
    ("execute", "`vmm-exec` only: the process executes the new VMM, which starts and is told to load"),
    ("load", "the new VMM loads what it had not loaded when the old one had saved all"),
    ("hold", "the new VMM says that it holds the guest (`process_incoming_migration_bh`)"),
    ("old completes", "the old VMM hears of it, and says so too"),
    ("manager", "**ours**: the manager asks how the new VMM is, writes its record, gives the new VMM the networks, and sends `cont`"),
    ("activate", "`cont` opens the images (`qmp_cont`), until RESUME"),
]


def ms(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def between(values):
    return f"{ms(min(values))} to {ms(max(values))} ms" if max(values) > 0 else "none"


def loading_one(cell):
    """Milliseconds for one network card, where no other process saves meanwhile."""
    return next(us / number / 1e3 for kind, number, us in cell["vmm-exec"]["loading"] if kind == "virtio-net")


def dear(devices, whole):
    return ", ".join(f"`{kind}`{f' x {number}' if number > 1 else ''} {ms(us / 1e3)}" for kind, number, us in devices) + f" (all: {ms(whole / 1e3)})"


def cell_of(name, cell):
    accelerator, devices = name.split("/")
    names = [part for part, _ in PARTS if any(part in one["parts"] for one in cell.values())]
    rows, dearest = [], []
    for design, one in cell.items():
        for i, total in enumerate(one["total"]):
            if abs(sum(values[i] for values in one["parts"].values()) - total) > 0.01:
                sys.exit(f"{name}, {design}: the parts of handover {i + 1} do not add up to its STOP to RESUME")
        parts = {part: median(values) for part, values in one["parts"].items()}
        whole = median(one["total"])
        rows.append([f"`{design}`", *[ms(parts[part]) if part in parts else "-" for part in names], f"{whole - sum(parts.values()):.1f}", f"**{ms(whole)}**",
                     f"{ms(min(one['total']))} - {ms(max(one['total']))}", ms(median(one["before STOP"])), ms(median(one["after RESUME"]))])
        dearest.append([f"`{design}`", dear(one["saving"], one["all saving"]), dear(one["loading"], one["all loading"])])
    return f"""### {accelerator.upper()}, {devices} devices

{table(["design", *names, "(rest)", "STOP to RESUME", "least - most", "before STOP", "after RESUME"], rows)}
{table(["design", "dearest to save", "dearest to load"], dearest)}"""


def pause(found):
    about, cells = found["about"], found["cells"]
    ours = [(median(one["parts"]["manager"]), median(one["total"])) for cell in cells.values() for one in cell.values()]
    set_up = {design: [median(cell[design]["parts"]["set up"]) for cell in cells.values()] for design in ("relayed", "vmm-owned", "manager-owned")}
    devices = {design: [median(cell[design]["parts"]["save devices"]) + median(cell[design]["parts"]["load"]) for name, cell in cells.items() if name.endswith("/many")]
               for design in ("relayed", "manager-owned", "vmm-owned")}
    added = median(cells["kvm/many"]["relayed"]["sent bytes"]) - median(cells["kvm/few"]["relayed"]["sent bytes"])
    return f"""## Where the pause goes inside QEMU

By the trace events of stock QEMUs (`vmstate_downtime_*` and a few more, switched on by arguments), which are dated by one clock for both processes: `pause_parts.py`,
{about["rounds"]} handovers of each design on a machine with {about["CPUs"]} CPUs (load before: {about["load before"]}), QEMU {about["qemu"]} to itself, the designs in turn on one VM for each owner of RAM. A q35 with 256 MiB;
*few*: a disk, a tap and a serial port; *many*: eight disks, eight taps, and eight root ports with a `virtio-rng` behind each. Under TCG Linux, which has drivers for all
of them; under KVM the bare guest, which uses one disk and the serial port. Medians, in milliseconds; nothing is said here of which design is the shorter (see [README.md](README.md)).

The parts follow one another from STOP to RESUME, and add up to it in each handover; a handover counts only where the monitors' own dates of STOP and RESUME
say the same to a tenth of a millisecond. Medians do not add up: *(rest)* is what is missing. The guest stands still a little longer: its vCPUs stop, and devices are told, *before STOP*; devices are told,
and then vCPUs go on, *after RESUME*. That and what a trace costs to write is in it.

{table(["part", "what is done"], PARTS)}
- **Ours** is {between([part for part, _ in ours])}, {100 * min(part / whole for part, whole in ours):.0f} to {100 * max(part / whole for part, whole in ours):.0f} % of the pause.
- **Set-up**: CPR has QEMU stop the guest before it sets the stream up (`migration_connect`): `relayed` {between(set_up["relayed"])}, `vmm-owned` {between(set_up["vmm-owned"])}, `manager-owned` {between(set_up["manager-owned"])}.
- **Devices** are what many devices cost: to save and load them takes {between([value for values in devices.values() for value in values])} of the pause with *many* (without `copy` and `vmm-exec`). The dearest are virtio's: QEMU saves 1024 queues of each (`VIRTIO_QUEUE_MAX`),
  used or not (`hw/virtio/virtio.c`, `hw/virtio/virtio-pci.c`). The 22 virtio devices and eight ports that *many* has more are {added / 1e6:.2f} MB of stream.
  Each device that the guest has mapped makes QEMU work out its map of memory anew, for every PCI device (`flatview_new`): to load one `virtio-net` of `vmm-exec`, where nothing else goes on,
  takes {ms(loading_one(cells["tcg/few"]))} ms with *few* and {ms(loading_one(cells["tcg/many"]))} ms with *many* under Linux, {ms(loading_one(cells["kvm/few"]))} and {ms(loading_one(cells["kvm/many"]))} ms under the bare guest, which maps few of them.

What one device costs is QEMU's own figure for it (`downtime` of `vmstate_downtime_save` and `_load`), all devices of one kind together. Saving and loading go on at the same time, so either has in it
how long it waited for the other process, and both together are more than the part.

{chr(10).join(cell_of(name, cell) for name, cell in cells.items())}"""


# seccomp


def sandbox(runs):
    rows = [[f"`{setting}`" if setting not in ("off", "all four") else setting + (" (libvirt's)" if setting == "all four" else ""),
             *[seen[design]["outcome"] for design in DESIGNS], short(runs["exec"][setting]["outcome"])] for setting, seen in runs["sandbox"].items()]
    said = re.sub(r"^.*: execvp .*/", "execvp .../", runs["exec"]["spawn=deny"]["outcome"])
    filters = {setting: sorted({one["seccomp"] for one in seen.values()}) for setting, seen in runs["sandbox"].items()}
    in_force = all(found == (["0"] if setting == "off" else ["2"]) for setting, found in filters.items())
    return f"""## Seccomp

Every design under each setting of `-sandbox on,...`, {release(runs, "new")} to itself, TCG; {"a filter was in force in all but *off*" if in_force else "NOT ALL FILTERS WERE IN FORCE"} (`Seccomp` in
`/proc/PID/status`). The last column is QEMU's own `cpr-exec`, driven by its monitor alone.

{table(["`-sandbox`", *[f"`{design}`" for design in DESIGNS], "QEMU's `cpr-exec`"], rows)}
virt-handover refuses `vmm-exec` before anything is touched, and a VM whose definition says `vmm-exec` gets a sandbox without `spawn=deny`. QEMU finds out when it has stopped its
guest and written its state: "{said}" (`system/qemu-seccomp.c`: EPERM). It is one bit still: in 10.0.13 and 10.2.2 `spawn=deny` forbids `fork`,
`vfork`, new processes by `clone`, and `execve` together; the finer one that the thread announces is in neither. VMs of the system tests have all four, but those for `vmm-exec`.
"""


def short(outcome):
    return "executed" if outcome.startswith("executed") else "fails (EPERM)" if "Operation not permitted" in outcome else outcome


def answer(runs, lines, matrix, results):
    last = list(lines["qemu"].values())[-1]
    cpr = lines_of(last["cpr, the channel and the state"]) + lines_of(last["aux-ram-share"])
    shared = lines_of(last["x-ignore-shared"])
    lost = [fault for fault, found in matrix["cpr-transfer, 10.0 to 11.1"].items() if "lost silently" in found["outcome"]]
    shared_lost = [fault for fault, found in matrix["x-ignore-shared, 10.0 to 11.1"].items() if "lost silently" in found["outcome"]]
    again = matrix["cpr-transfer, 10.0 to 10.0"]
    again_lost = [fault for fault, found in again.items() if "lost silently" in found["outcome"]]
    ours = [found for design in ("relayed", "relayed, behind the relay", "vmm-owned", "manager-owned", "vmm-exec") for found in matrix[design].values()]
    stayed = sum(found["outcome"] == "rolled back, never stopped" for found in ours)
    said = sum("**lost**" in found["outcome"] for found in ours)
    met = [sum(found["caught by"].startswith(who) for found in ours) for who in ("relay", "comparison", "the ")]
    either = sum(", or " in found["caught by"] for found in ours)
    chance = f" ({either} of them, as chance has it, by that comparison)" if either else ""
    section = " and ".join(sorted({str(one["section"]["bytes"]) for one in runs["wire"].values()}))
    kvm = {design: runs["monitor"]["kvm"][design]["again"]["ioctls"]["KVM"] for design in DESIGNS}
    told_again = f"{kvm['relayed']} requests in each of the six" if len(set(kvm.values())) == 1 else ", ".join(f"{number} with `{design}`" for design, number in kvm.items())
    vhost = "So is vhost." if not skipped(runs["host"], "vhost") else f"Of vhost {len(skipped(runs['host'], 'vhost'))} requests are skipped."
    skips = ", ".join("{1} requests to {2} for {0} of the first VMM".format(*totals(runs["host"], kind), " and ".join(HOSTED[kind][1])) + f" ({HOSTED[kind][0]})"
                      for kind in ("cdev", "group") if kind in runs["host"])
    denied = [design for design in DESIGNS if runs["sandbox"]["all four"][design]["outcome"] != "upgraded"]
    return f"""# The question

**Who owns guest RAM?** {question_costs.contrast(results)} (`virt-handover compare`, [README.md](README.md))

> One could imagine a solution where the manager extracts internal properties of vfio, ramblock, etc and passes them as creation time parameters on the
> new qemu command line. And, the manager pre-creates all fd's so they can be passed to old and new qemu. Lots of code required in qemu and in the manager,
> and all implicitly created objects would need to me made explicit. Yuck. The precreate vmstate approach is much simpler for all.

(Steve Sistare on qemu-devel, answering Peter Xu's mail of 30 May 2024.) Here is what can be counted and seen of it. Made by `question.py` from `question-runs.json` (`question_runs.py`: handovers with
each design, watched), `pause-parts.json` (`pause_parts.py`), `question-lines.json` (`question_lines.py`), `silent-loss.json` (the tests) and `results.json` (`virt-handover compare`); each can be made again.

- **Code.** Guest RAM in a file that the manager owns rests on {shared} lines of QEMU that name `x-ignore-shared`; `cpr-transfer` without devices is, or is named in, {cpr}. Nothing
  implicit is made explicit: implicit blocks are copied. The price is an unstable capability, and that no device can be passed through.
- **Properties.** What CPR sends has none either: names and descriptors. Of {len(matrix["cpr-transfer, 10.0 to 11.1"])} faults put into it from QEMU 10.0 to 11.1, {len(lost)} lose guest memory without a word in QEMU's own
  `cpr-transfer`; of the {len(again)} of them that were tried from 10.0 to 10.0, {len(again_lost) or "none"} {"do" if len(again_lost) > 1 else "does"}. Of
  {len(matrix["x-ignore-shared, 10.0 to 11.1"]) - 1} put into `x-ignore-shared`, from 10.0 to 11.1, {len(shared_lost)} ({", ".join(shared_lost)}). With virt-handover {stayed} of {len(ours)} were rolled back without a stop of the guest
  and {said or "none"} lost it, which was said (`vmm-exec`, once executed): found were {met[0]} by what its relay saw, {met[1]} by its comparison of properties ({section} bytes of them a VMM, in the manager's process), {met[2]} by a QEMU itself{chance}.
- **The kernel.** KVM is told everything a second time in every design: {told_again}. {vhost} Of passed-through devices CPR skips much: {skips}.
- **Seccomp.** Under the sandbox that libvirt gives QEMU all designs work but {coded(denied)}.
"""


def main():
    runs, lines, matrix, results = load("question-runs.json"), load("question-lines.json"), load("silent-loss.json"), load("results.json")
    text = "\n".join([answer(runs, lines, matrix, results), told(runs), exchanged(runs, results), losses(matrix), code(lines), interface(runs), kernel(runs), pause(load("pause-parts.json")),
                      question_costs.costs(results), question_costs.looks(results), sandbox(runs)])
    return publish("question", text, "its data")


sys.exit(main())
