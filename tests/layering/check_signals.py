#!/usr/bin/env python3
"""Fails when a process is signalled at a place that the table "Who is ever signalled" in manager/README.md does not have.

A signal to the wrong process is a guest that is gone, so each place has a line there that says whom it signals and why that one cannot
hold a guest. A row begins with `room/file.cpp` and, when there are more places in that file, how many: `room/file.cpp` (2).

    check_signals.py SOURCE_ROOT      checks a tree
    check_signals.py --self-test      checks this checker, on made-up trees
"""

import collections
import re

import checker

PLACE = re.compile(
    r"(?:\.|->)kill(?:All)?\(|(?<!\w)::(?:kill|tgkill|killpg|raise)\(|\bSYS_(?:pidfd_send_signal|kill|tgkill)\b|\bpidfd_send_signal\("
    r"|\b(?:endProcess|signalProcess)\("
)
ROW = re.compile(r"^\| `([\w./-]+)`(?: \((\d+)\))?")
BEGIN, END = "<!-- who-is-signalled -->", "<!-- /who-is-signalled -->"


def places(root):
    found = collections.Counter()
    for name, text in checker.sources(root, suffixes={".cpp"}):
        if count := len(PLACE.findall(re.sub(r"//.*", "", text))):
            found[name] = count
    return found


def table(root):
    text = (root / "manager/README.md").read_text(encoding="utf-8")
    listed = collections.Counter()
    for line in text.partition(BEGIN)[2].partition(END)[0].splitlines():
        if match := ROW.match(line):
            listed[match[1]] += int(match[2] or 1)
    return listed


def problems(root):
    found, listed = places(root), table(root)
    for file in sorted(found.keys() | listed.keys()):
        if found[file] != listed[file]:
            yield (f"{file}: {found[file]} places that signal a process, and {listed[file]} in the table of manager/README.md: say "
                   "there whom it signals, and why that one cannot hold a guest")


def check(root):
    return checker.judge(problems(root), "files that differ from the table", f"{sum(places(root).values())} places")


def self_test():
    """What is not in the table must be seen, and what is there and gone, too."""
    good = {
        "manager/README.md": f"text\n{BEGIN}\n| where | whom |\n|---|---|\n| `manager/a.cpp` (2) | x |\n| `plugin/b.cpp` | y |\n{END}\n",
        "manager/a.cpp": "void A::killAll() const {\n    a.killAll();\n    b->kill(9);  // c.kill(9)\n}\n",
        "plugin/b.cpp": "endProcess(fd, 1);\n",
    }
    wrong = [
        ("manager/c.cpp", "x.kill(SIGTERM);\n"),
        ("plugin/c.cpp", "::kill(pid, 9);\n"),
        ("vmm-shim/c.cpp", "::syscall(SYS_pidfd_send_signal, fd, 9);\n"),
        ("manager/a.cpp", good["manager/a.cpp"] + "signalProcess(fd, 9);\n"),
        ("plugin/b.cpp", "nothing\n"),
    ]

    def is_right(found, path):
        return len(found) == 1 and found[0].startswith(path + ":")

    return checker.self_test([("the good tree", good, problems, lambda found: not found),
                              *((path, {**good, path: text}, problems, lambda found, path=path: is_right(found, path))
                                for path, text in wrong)], "trees")


if __name__ == "__main__":
    checker.main(__doc__, check, self_test)
