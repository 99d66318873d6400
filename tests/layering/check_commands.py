#!/usr/bin/env python3
"""Fails where a source asks a VMM for what is known to end it, or to stop it for good.

A guest is lost by one such question. Each command of the monitor below is forbidden in all sources, with the reason. Prints `ok`, or a
line for each place.

    check_commands.py SOURCE_ROOT      checks a tree
    check_commands.py --self-test      checks this checker
"""

import pathlib
import re
import sys
import tempfile

FORBIDDEN = {
    "info virtio-status": "QEMU 11.1.3 crashes on it for a virtio-serial device",
    "x-query-virtio-status": "QEMU 11.1.3 crashes on it for a virtio-serial device",
    "human-monitor-command": "what a person's monitor does is on no list, and neither is what crashes on it: use QMP's own commands",
}
ROOMS = ["config", "manager", "plugin", "scripts", "tests", "vmm-shim"]
SUFFIXES = {".c", ".cc", ".cpp", ".h", ".hpp", ".py", ".sh", ""}
# In quotes, as a command is given; a comment may speak of it.
QUOTED = re.compile(r"""(["'])(%s)\b""" % "|".join(map(re.escape, FORBIDDEN)))


def problems_of_tree(root):
    for room in ROOMS:
        for path in sorted((root / room).rglob("*")):
            if path.suffix not in SUFFIXES or not path.is_file() or path.resolve() == pathlib.Path(__file__).resolve():
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            for match in QUOTED.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                yield f"{path.relative_to(root)}:{line}: '{match[2]}': {FORBIDDEN[match[2]]}"


def check(root):
    if not (root / "manager").is_dir():
        print(f"'{root}' has no sources: is it the root of the project?")
        return 1
    problems = list(problems_of_tree(root))
    for problem in problems:
        print(problem)
    print(f"{len(problems)} forbidden commands" if problems else "ok")
    return 1 if problems else 0


def self_test():
    cases = [(f'vmm.execute("{command}", arguments);', 1) for command in FORBIDDEN]
    cases += [("virsh qemu-monitor-command --hmp vm 'info virtio-status /machine/x'", 1), ('execute("query-status");', 0),
              ("// Never human-monitor-command.", 0)]
    failures = 0
    for text, expected in cases:
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            (root / "manager").mkdir()
            (root / "manager" / "x.cpp").write_text(f"// A line.\n{text}\n")
            found = list(problems_of_tree(root))
            if len(found) != expected or not all(problem.startswith("manager/x.cpp:2: ") for problem in found):
                failures += 1
                print(f"self-test: {text!r}: expected {expected}, found {found}")
    print(f"{failures} failures" if failures else f"ok: {len(cases)} cases")
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(self_test() if sys.argv[1] == "--self-test" else check(pathlib.Path(sys.argv[1])))
