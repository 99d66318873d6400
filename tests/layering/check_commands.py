#!/usr/bin/env python3
"""Fails where a source asks a VMM for what is known to end it, or to stop it for good.

A guest is lost by one such question. Each command of the monitor below is forbidden in all sources, with the reason. Prints `ok`, or a
line for each place.

    check_commands.py SOURCE_ROOT      checks a tree
    check_commands.py --self-test      checks this checker
"""

import pathlib
import re

import checker

FORBIDDEN = {
    "info virtio-status": "QEMU 11.1.3 crashes on it for a virtio-serial device",
    "x-query-virtio-status": "QEMU 11.1.3 crashes on it for a virtio-serial device",
    "human-monitor-command": "what a person's monitor does is on no list, and neither is what crashes on it: use QMP's own commands",
}
ROOMS = ["config", "manager", "plugin", "scripts", "tests", "vmm-shim"]
# In quotes, as a command is given; a comment may speak of it.
QUOTED = re.compile(r"""(["'])(%s)\b""" % "|".join(map(re.escape, FORBIDDEN)))


def problems_of_tree(root):
    for name, text in checker.sources(root, ROOMS, checker.SUFFIXES | {".py", ".sh", ""}):
        if (root / name).resolve() == pathlib.Path(__file__).resolve():
            continue
        for match in QUOTED.finditer(text):
            yield f"{name}:{checker.line_of(text, match.start())}: '{match[2]}': {FORBIDDEN[match[2]]}"


def check(root):
    if not (root / "manager").is_dir():
        print(f"'{root}' has no sources: is it the root of the project?")
        return 1
    return checker.judge(problems_of_tree(root), "forbidden commands", "no forbidden command")


def self_test():
    cases = [(f'vmm.execute("{command}", arguments);', 1) for command in FORBIDDEN]
    cases += [("virsh qemu-monitor-command --hmp vm 'info virtio-status /machine/x'", 1), ('execute("query-status");', 0),
              ("// Never human-monitor-command.", 0)]

    def is_right(found, expected):
        return len(found) == expected and all(problem.startswith("manager/x.cpp:2: ") for problem in found)

    return checker.self_test(((f"{text!r}: expected {expected}", {"manager/x.cpp": f"// A line.\n{text}\n"}, problems_of_tree,
                               lambda found, expected=expected: is_right(found, expected)) for text, expected in cases), "texts")


if __name__ == "__main__":
    checker.main(__doc__, check, self_test)
