"""What question.md says of results.json: the first contrast, what a handover costs besides its pause, and what else each round saw.

Figures are the summary's where it has them (figures.py makes those again from the rounds); the others are made of the same rounds here.
"""
from statistics import median

from sentences import BY_HAND, DESIGNS, size, span, three_digits, together

SHARING = DESIGNS[:4]
COPYING = ["copy", "save-restore"]
OURS = SHARING + COPYING
MIB = 1 << 20


def table(head, rows):
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def contrast(results):
    """The summary's own sentence on who owns guest RAM."""
    return results["summary"]["answer"][0]


class Ran:
    """A design in a cell, with rounds that count."""

    def __init__(self, cell, series, summary):
        self.cell, self.design, self.summary, self.inspection = cell, series["design"], summary, series["inspection"] or {}
        self.rounds = [round_ for round_ in series["rounds"] if round_["outcome"] == "upgraded" and not round_.get("disturbed")]

    def median(self, metric):
        return self.summary["metrics"][metric]["median"]


def ran(results):
    """Accelerator -> what ran under it; cells as the file has them."""
    found = {}
    for cell, summary in zip(results["cells"], results["summary"]["cells"]):
        for series, its in zip(cell["series"], summary["series"]):
            if its["rounds"]:
                found.setdefault(cell["accelerator"], []).append(Ran(cell, series, its))
    return dict(sorted(found.items()))


def designs_of(several):
    return [design for design in DESIGNS if any(one.design == design for one in several)]


def medians_table(results, columns, designs=DESIGNS):
    """By accelerator and design: the median of its cells' medians, and the span of them."""
    rows = []
    for accelerator, several in ran(results).items():
        for design in filter(designs.__contains__, designs_of(several)):
            its = [one for one in several if one.design == design]
            row = [accelerator.upper(), f"`{design}`", len(its)]
            for _, of, shown in columns:
                values = [value for value in map(of, its) if value is not None]
                row.append("-" if not values else shown(median(values)) + (f" ({span(values, shown)})" if len(values) > 1 else ""))
            rows.append(row)
    return table(["", "design", "cells", *[title for title, _, _ in columns]], rows)


def metric(title, name, shown=three_digits):
    return title, lambda one: one.median(name), shown


def whole(value):
    return f"{value:,.0f}"


def extra_mib(one):
    peak = one.inspection.get("extraMemoryBytes")
    return None if peak is None else peak / MIB


def spans(results, designs, name):
    """Of the medians of all cells."""
    return span([median_ for several in ran(results).values() for one in several if one.design in designs and (median_ := one.median(name)) is not None])


def beside(results, designs):
    """MiB, in each cell: what is kept besides, and how much RAM the VM has."""
    return [(extra_mib(one), one.cell["ramBytes"] / MIB) for several in ran(results).values() for one in several if one.design in designs and extra_mib(one) is not None]


def costs(results):
    of_one = {one.design: one.cell for several in ran(results).values() for one in several if sum(other.design == one.design for other in several) == 1}
    alone = f" {together(f'`{design}`' for design in of_one)} ran in one cell of each accelerator, with {together(sorted({size(cell['touchedBytes']) for cell in of_one.values()}))} of RAM touched." if of_one else ""
    copied, shared = beside(results, COPYING), {}
    for extra, ram in beside(results, SHARING):
        shared.setdefault(ram, []).append(extra)
    pairs = [(ours, by_hand) for ours, by_hand in BY_HAND if any(one.design == by_hand for several in ran(results).values() for one in several)]
    looking = "; ".join(f"`{ours}` {spans(results, [ours], 'cpuManagerMs')} ms of CPU and {spans(results, [ours], 'preparationMs')} ms to prepare, `{by_hand}` by hand "
                        f"{spans(results, [by_hand], 'cpuManagerMs')} and {spans(results, [by_hand], 'preparationMs')} ms" for ours, by_hand in pairs)
    return f"""## What a handover costs besides its pause

From the rounds that [README.md](README.md) has the pauses of (`results.json`). Of each design the median of the medians of all cells that it ran in, and in brackets the least and the greatest of
them.{alone} *Prepare* is from the command until all is ready for the switch; the guest runs. *No way back* is how long the guest depended on the
new VMM alone before that ran it. CPU times are without those of the guest's CPUs. *Memory* is the most that both VMMs, a rehearsed one and what the manager has more of than before kept at once, and the old VMM alone
had not kept; one look in each cell.

{medians_table(results, [metric("prepare, ms", "preparationMs"), metric("no way back, ms", "noWayBackMs"), metric("CPU of the manager, ms", "cpuManagerMs"),
                         metric("CPU of the old VMM, ms", "cpuOldMs"), metric("CPU of the new VMM, ms", "cpuNewMs"), ("memory, MiB", extra_mib, whole)])}
- **Memory**: where RAM is shared, {together(f"{span(extras, whole)} MiB in VMs of {size(ram * MIB)}" for ram, extras in sorted(shared.items()))}; where it is copied, {span([100 * extra / ram for extra, ram in copied], whole)} % of the VM's RAM.
- **No way back**: {spans(results, ["vmm-exec"], "noWayBackMs")} ms with `vmm-exec`, whose new QEMU starts in that time, {spans(results, [design for design in OURS if design != "vmm-exec"], "noWayBackMs")} ms with the others of ours.
- **What our part costs**, the driving program and what it looks at: {looking}.
"""


# What else each round saw.


def fault_rows(results):
    """Of cells that differ in nothing but what the guest writes again and again."""
    rows, sets = [], set()
    for accelerator, several in ran(results).items():
        groups = {}
        for one in several:
            alike = repr(sorted((name, value) for name, value in one.cell.items() if name not in ("hotSetBytes", "id", "title", "series")))
            groups.setdefault(alike, []).append(one)
        for group in groups.values():
            if len({one.cell["hotSetBytes"] for one in group}) < 2:
                continue
            sets |= {one.cell["hotSetBytes"] for one in group}
            for design in designs_of(group):
                rows.append((accelerator, design, {one.cell["hotSetBytes"]: one.median("minorFaults") for one in group if one.design == design}))
    sets = sorted(sets)
    return [f"{size(one)} written" for one in sets], [[accelerator.upper(), f"`{design}`", *[whole(found[one]) if one in found else "-" for one in sets]] for accelerator, design, found in rows]


def clocks(results):
    told = [(accelerator, one.design, round_["guestClock"]) for accelerator, several in ran(results).items() for one in several for round_ in one.rounds
            if round_.get("guestClock") and None not in (round_["guestClock"].get("hostGapMs"), round_["guestClock"].get("tscGapMs"), round_["guestClock"].get("clockGapMs"))]
    if not told:
        return "No guest of these rounds told of its clocks."
    ahead = [clock["tscGapMs"] / clock["hostGapMs"] - 1 for _, _, clock in told]
    close = sum(abs(one) <= 0.1 for one in ahead)
    behind = {design: median(clock["hostGapMs"] - clock["clockGapMs"] for _, its, clock in told if its == design) for design in DESIGNS if any(its == design for _, its, _ in told)}
    return (f"**The guest's clocks** went back in {sum(clock['wentBack'] for _, _, clock in told)} of the {len(told)} rounds in which the guest tells of them ({together(sorted({accelerator.upper() for accelerator, _, _ in told}))}). "
            f"From its last word on the old VMM to its first on the new one its time stamp counter counts what the host's clock does, to a tenth, in {close} of them (median {100 * median(ahead):+.1f} %, {100 * min(ahead):+.0f} to {100 * max(ahead):+.0f} %). "
            f"KVM's clock stands still while the guest does: it is behind by a median of {', '.join(f'{three_digits(value)} ms with `{design}`' for design, value in behind.items())}.")


def looks(results):
    head, rows = fault_rows(results)
    window = results["settings"].get("afterMs")
    return f"""### What else the rounds saw

In the same form. *QEMU's downtime* is its own figure, in whole milliseconds: from before STOP until the new VMM has loaded all, so without what we do then; `vmm-exec` and `save-restore` have none.
Of 100 heartbeat intervals (the guest beats about once a millisecond) 99 are not longer than what stands under *beats*: before the handover, while it is prepared, and after it.

{medians_table(results, [metric("STOP to RESUME, ms", "stopToResumeMs"), metric("QEMU's downtime, ms", "qemuDowntimeMs", lambda value: f"{value:g}"), metric("beats before, ms", "beatP99BeforeMs"),
                         metric("beats meanwhile, ms", "beatP99DuringMs"), metric("beats after, ms", "beatP99AfterMs")])}
The new VMM's minor page faults from RESUME to the end of the window ({window} ms), by how much RAM the guest writes again and again; medians of cells that differ in nothing else:

{table(["", "design", *head], rows)}
{clocks(results)}
"""


def verifying(results):
    """How long gathering, encoding and comparing takes, of what is prepared."""
    return medians_table(results, [metric("verify, ms", "verifyMs"), metric("all that is prepared, ms", "preparationMs")], OURS)
