#!/usr/bin/env python3
"""Fails on an #include that points the wrong way between the rooms of this project.

    tests ----> everything
    plugin --process--> manager ----> vmm-shim <---- plugin
       \\-----------------> manager/record
       \\-----> config <-----/

config and vmm-shim include nothing of ours but themselves. Within a room a file may include what is in its own wing (a folder) and in
those that WINGS has before it; `.` is what lies in the room itself. A suite of tests includes nothing of another one: what they share is
in tests/support. No file and its header stand in a circle with others. Every include of ours starts with its room's name and names a file
that is there. Prints `ok`, or a line for each wrong include.

    check_layering.py SOURCE_ROOT      checks a tree
    check_layering.py --self-test      checks this checker, on made-up trees
"""

import re

import checker

MAY_INCLUDE = {
    "config": {"config"},
    "vmm-shim": {"vmm-shim"},
    "manager": {"manager", "config", "vmm-shim"},
    "plugin": {"plugin", "config", "vmm-shim", "manager/record"},  # What the manager's process answers is read as it was written.
    "tests": {"tests", "plugin", "manager", "config", "vmm-shim"},
}
# In the order of who may include whom; a room that is not here has no wings.
WINGS = {
    "vmm-shim": (".", "qmp", "tool"),
    "manager": ("process", "record", "resources", "vmm", "handover", "service", "compare", "."),
    "plugin": ("host", "domain", "machine", "upgrade", "."),
}
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.MULTILINE)


def wing_of(name):
    parts = name.split("/")
    return parts[1] if len(parts) > 2 else "."


def problems_of_wings(name, target):
    room = name.split("/")[0]
    if room == "tests" and target.startswith("tests/") and wing_of(target) not in (wing_of(name), "support"):
        yield f'"{target}" is of another suite: what suites share is in tests/support'
    wings = WINGS.get(room)
    if not wings:
        return
    for one in (name, target):
        if one.startswith(room + "/") and wing_of(one) not in wings:
            yield f"'{wing_of(one)}' of '{one}' is not among the wings of {room}: give it its place in WINGS"
            return
    if target.startswith(room + "/") and wings.index(wing_of(target)) > wings.index(wing_of(name)):
        allowed = ", ".join(wings[: wings.index(wing_of(name)) + 1])
        yield f'"{target}": wing {wing_of(name)} may include {allowed} of {room} only'


def circles(edges):
    """Each circle of files once, a file and its header being one."""
    done, path, found = set(), [], []

    def visit(one):
        if one in path:
            found.append(path[path.index(one):] + [one])
            return
        if one in done:
            return
        path.append(one)
        for other in sorted(edges.get(one, ())):
            visit(other)
        path.pop()
        done.add(one)

    for one in sorted(edges):
        visit(one)
    return found


def problems_of_include(root, room, quote, target):
    first = target.split("/")[0]
    if quote == "<":
        if first in MAY_INCLUDE and (root / target).exists():
            yield f"<{target}> is ours: write it in quotes"
        return
    if "/" not in target or first not in MAY_INCLUDE:
        yield f'"{target}" does not start with a room\'s name'
    elif ".." in target.split("/"):
        yield f'"{target}" leaves its room'
    elif first not in MAY_INCLUDE[room] and target.rpartition("/")[0] not in MAY_INCLUDE[room]:
        yield f'"{target}": {room} may include {", ".join(sorted(MAY_INCLUDE[room]))} only'
    elif not (root / target).is_file():
        yield f'"{target}" does not exist'


def problems_of_tree(root):
    edges = {}
    for name, text in checker.sources(root, sorted(MAY_INCLUDE)):
        room = name.split("/")[0]
        for match in INCLUDE.finditer(text):
            target = match[2]
            problems = list(problems_of_include(root, room, *match.groups())) or list(problems_of_wings(name, target))
            for problem in problems:
                yield f"{name}:{checker.line_of(text, match.start(2))}: {problem}"
            if not problems and match[1] == '"' and room != "tests":
                source, other = name.rpartition(".")[0], target.rpartition(".")[0]
                if source != other:
                    edges.setdefault(source, set()).add(other)
    for circle in circles(edges):
        yield f"{circle[0]}: a circle: {' -> '.join(circle)}"


def check(root):
    files = sum(1 for _ in checker.sources(root, MAY_INCLUDE))
    if files == 0:
        print(f"'{root}' has no sources: is it the root of the project?")
        return 1
    return checker.judge(problems_of_tree(root), "wrong includes", f"{files} files")


def self_test():
    """Every kind of wrong arrow must be seen, and every right one let through."""
    good = {
        "config/a.h": '#include <string>\n',
        "config/a.cpp": '#include "config/a.h"\n',
        "vmm-shim/s.h": "",
        "manager/m.h": '#include "config/a.h"\n#include "vmm-shim/s.h"\n',
        "manager/vmm/v.h": '#include "manager/record/r.h"\n',
        "manager/record/r.h": "",
        "plugin/host/h.h": "",
        "plugin/p.cpp": '#include "config/a.h"\n#include "plugin/p.h"\n#include "manager/record/r.h"\n',
        "plugin/p.h": "",
        "tests/t.cpp": '#include "manager/m.h"\n#include "plugin/p.h"\n#include "tests/t.h"\n',
        "tests/t.h": "",
        "tests/one/t.cpp": '#include "tests/one/t.h"\n#include "tests/support/s.h"\n',
        "tests/one/t.h": "",
        "tests/support/s.h": "",
    }
    wrong = [
        ("config/x.h", '#include "vmm-shim/s.h"', "config may include config only"),
        ("config/x.h", '#include "manager/m.h"', "config may include config only"),
        ("vmm-shim/x.cpp", '#include "config/a.h"', "vmm-shim may include vmm-shim only"),
        ("vmm-shim/deep/x.cpp", '#include "manager/m.h"', "vmm-shim may include vmm-shim only"),
        ("manager/x.cpp", '#include "plugin/p.h"', "manager may include"),
        ("manager/x.cpp", '#include "tests/t.h"', "manager may include"),
        ("plugin/x.cpp", '#include "manager/m.h"', "plugin may include"),
        ("plugin/x.cpp", '#include "manager/vmm/v.h"', "plugin may include config, manager/record, plugin, vmm-shim only"),
        ("plugin/x.c", '#include "tests/t.h"', "plugin may include"),
        ("manager/x.cpp", '#include "m.h"', "does not start with a room's name"),
        ("manager/x.cpp", '#include "../config/a.h"', "does not start with a room's name"),
        ("manager/x.cpp", '#include "manager/../plugin/p.h"', "leaves its room"),
        ("manager/x.cpp", "#include <config/a.h>", "write it in quotes"),
        ("manager/x.cpp", '  #  include  "plugin/p.h"', "manager may include"),
        ("manager/x.cpp", '#include "config/gone.h"', "does not exist"),
        ("manager/record/x.cpp", '#include "manager/vmm/v.h"', "wing record may include process, record of manager only"),
        ("manager/vmm/x.cpp", '#include "manager/m.h"', "wing vmm may include"),
        ("manager/attic/x.cpp", '#include "manager/m.h"', "not among the wings of manager"),
        ("plugin/host/x.cpp", '#include "plugin/p.h"', "wing host may include host of plugin only"),
        ("vmm-shim/x.cpp", '#include "vmm-shim/tool/t.h"', "does not exist"),
        ("tests/other/x.cpp", '#include "tests/one/t.h"', "is of another suite"),
        ("tests/support/x.h", '#include "tests/one/t.h"', "is of another suite"),
    ]

    def is_right(found, path, expected):
        return len(found) == 1 and found[0].startswith(f"{path}:2: ") and expected in found[0]

    return checker.self_test([("the good tree", good, problems_of_tree, lambda found: not found),
                              *((f"{path}: {text!r}: expected {expected!r}", {**good, path: f"// A line.\n{text}\n"},
                                 problems_of_tree,
                                 lambda found, path=path, expected=expected: is_right(found, path, expected))
                                for path, text, expected in wrong)], "trees")


if __name__ == "__main__":
    checker.main(__doc__, check, self_test)
