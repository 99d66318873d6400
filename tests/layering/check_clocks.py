#!/usr/bin/env python3
"""Fails where a wall clock is read that nobody has justified.

A wall clock is set, by people and by NTP, while a guest is handed over: what is measured by it is wrong then (a pause of a day was
reported), and what waits by it waits for ever or not at all. So durations and deadlines go by the steady clock. Each file that
reads a wall clock after all is in ALLOWED, with how often and the reason.

    check_clocks.py SOURCE_ROOT      checks a tree
    check_clocks.py --self-test      checks this checker, on made-up trees
"""

import re

import checker

# Waits that take an absolute time of the wall clock are here as well.
WALL_CLOCK = re.compile(
    r"\b(?:system_clock|utc_clock|file_clock|high_resolution_clock|CLOCK_REALTIME(?:_COARSE)?|gettimeofday|g_get_real_time"
    r"|g_get_current_time|g_date_time_new_now\w*|timespec_get|pthread_cond_timedwait|pthread_mutex_timedlock|sem_timedwait"
    r"|mq_timed(?:send|receive))\b|\btime\s*\(\s*(?:nullptr|NULL|0|&\w+)\s*\)"
)

ALLOWED = {
    "manager/process/event_clock.h": (3, "the age of an event, which QEMU tells by the wall clock"),
    "manager/compare/command.cpp": (1, "the date in a directory's name, for people"),
    "manager/compare/host_facts.cpp": (2, "the date of a measurement and of each round, for people and to find them in a host's log"),
    "tests/reference-vmm/reference_vmm.cpp": (1, "the time of an event, as QEMU tells it"),
}


def without_comments(text):
    """With as many lines. A `//` within a string hides the rest of its line, which no file of ours has a clock in."""
    text = re.sub(r"/\*.*?\*/", lambda match: re.sub(r"[^\n]", " ", match.group()), text, flags=re.DOTALL)
    return re.sub(r"//[^\n]*", "", text)


def problems_of_tree(root, allowed):
    for name, whole in checker.sources(root):
        text = without_comments(whole)
        found = list(WALL_CLOCK.finditer(text))
        count, _ = allowed.get(name, (0, ""))
        for match in found if len(found) > count else []:
            yield (f"{name}:{checker.line_of(text, match.start())}: '{match.group()}' is a wall clock, which may be set at any "
                   "moment: use std::chrono::steady_clock, or say in ALLOWED why not")
        if len(found) < count:
            yield f"{name}: has {len(found)} of the {count} uses that ALLOWED has of it"
    for name in allowed:
        if not (root / name).is_file():
            yield f"{name}: is in ALLOWED and does not exist"


def check(root):
    return checker.judge(problems_of_tree(root, ALLOWED), "problems", f"{len(ALLOWED)} files with a reason")


def self_test():
    """Every kind of wall clock must be seen, and what is none let through."""
    wall = ["std::chrono::system_clock::now()", "::clock_gettime(CLOCK_REALTIME, &now)", "::gettimeofday(&now, nullptr)",
            "std::time(nullptr)", "time(&now)", "time( NULL )", "g_get_real_time()", "timespec_get(&now, TIME_UTC)",
            "::pthread_cond_timedwait(&c, &m, &t)", "std::chrono::high_resolution_clock::now()"]
    steady = ["std::chrono::steady_clock::now()", "::clock_gettime(CLOCK_MONOTONIC, &now)", "// gettimeofday(&now, 0)",
              "/* system_clock\n */", "startTime(pid)", "run_time(0)", "g_get_monotonic_time()"]
    cases = [*((one, 1, {}) for one in wall), *((one, 0, {}) for one in steady),
             (wall[0], 0, {"manager/x.cpp": (1, "")}), (wall[0] + wall[1], 2, {"manager/x.cpp": (1, "")}),
             (steady[0], 1, {"manager/x.cpp": (1, "")}), ("", 1, {"manager/gone.cpp": (1, "")})]
    return checker.self_test(((f"{text!r}, {allowed}: expected {wanted} problems", {"manager/x.cpp": f"// A line.\n{text}\n"},
                               lambda root, allowed=allowed: problems_of_tree(root, allowed),
                               lambda found, wanted=wanted: len(found) == wanted) for text, wanted, allowed in cases), "texts")


if __name__ == "__main__":
    checker.main(__doc__, check, self_test)
