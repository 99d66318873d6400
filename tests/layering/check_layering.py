#!/usr/bin/env python3
"""Fails on an #include that points the wrong way between the rooms of this project.

    tests ----> everything
    plugin --process--> manager ----> vmm-shim <---- plugin
       \\-----------------> manager/record
       \\-----> config <-----/

config and vmm-shim include nothing of ours but themselves. Within a room a file may include what is in its own wing (a folder) and in
those that WINGS has before it; `.` is what lies in the room itself. No file and its header stand in a circle with others. Every
include of ours starts with its room's name and names a file that is there. Prints `ok`, or a line for each wrong include.

    check_layering.py SOURCE_ROOT      checks a tree
    check_layering.py --self-test      checks this checker, on made-up trees
"""

import pathlib
import re
import sys
import tempfile

MAY_INCLUDE = {
    "config": {"config"},
    "vmm-shim": {"vmm-shim"},
    "manager": {"manager", "config", "vmm-shim"},
    "plugin": {"plugin", "config", "vmm-shim", "manager/record"},  # What the manager's process answers is read as it was written.
    "tests": {"tests", "plugin", "manager", "config", "vmm-shim"},
}
# In the order of who may include whom; a room that is not here has no wings.
WINGS = {
    "vmm-shim": (".", "qmp", "reference", "tool"),
    "manager": ("process", "record", "resources", "vmm", "handover", "service", "compare", "."),
    "plugin": ("host", "domain", "machine", "upgrade", "."),
}
SUFFIXES = {".c", ".cc", ".cpp", ".h", ".hpp"}
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.MULTILINE)


def wing_of(name):
    parts = name.split("/")
    return parts[1] if len(parts) > 2 else "."


def problems_of_wings(name, target):
    room = name.split("/")[0]
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
    for room in sorted(MAY_INCLUDE):
        for path in sorted((root / room).rglob("*")):
            if path.suffix not in SUFFIXES or not path.is_file():
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            for match in INCLUDE.finditer(text):
                line = text.count("\n", 0, match.start(2)) + 1
                name, target = str(path.relative_to(root)), match[2]
                problems = list(problems_of_include(root, room, *match.groups())) or list(problems_of_wings(name, target))
                for problem in problems:
                    yield f"{name}:{line}: {problem}"
                if not problems and match[1] == '"' and room != "tests":
                    source, other = name.rpartition(".")[0], target.rpartition(".")[0]
                    if source != other:
                        edges.setdefault(source, set()).add(other)
    for circle in circles(edges):
        yield f"{circle[0]}: a circle: {' -> '.join(circle)}"


def check(root):
    files = sum(1 for room in MAY_INCLUDE for path in (root / room).rglob("*") if path.suffix in SUFFIXES)
    if files == 0:
        print(f"'{root}' has no sources: is it the root of the project?")
        return 1
    problems = list(problems_of_tree(root))
    for problem in problems:
        print(problem)
    print(f"{len(problems)} wrong includes" if problems else f"ok: {files} files")
    return 1 if problems else 0


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
    ]
    failures = 0
    for path, text, expected in [(None, None, None), *wrong]:
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            for name, content in {**good, **({path: f"// A line.\n{text}\n"} if path else {})}.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(content)
            found = list(problems_of_tree(root))
            wanted = [f"{path}:2: "] if path else []
            seen = len(found) == len(wanted) and all(f.startswith(w) and expected in f for f, w in zip(found, wanted))
            if not seen:
                failures += 1
                print(f"self-test: {path or 'the good tree'}: {text!r}: expected {expected!r}, found {found}")
    print(f"{failures} failures" if failures else f"ok: {len(wrong)} wrong arrows seen")
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(self_test() if sys.argv[1] == "--self-test" else check(pathlib.Path(sys.argv[1])))
