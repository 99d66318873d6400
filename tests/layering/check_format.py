#!/usr/bin/env python3
"""Fails where a source is not as .clang-format has it, or a line is longer than its columns.

Releases of clang-format differ in what they do, so only the one is asked that the tree was formatted with: with another or none, the
check is skipped, and says so (exit status 77). Long lines are seen in any case: the formatter leaves comments as they are.

    check_format.py SOURCE_ROOT
"""

import pathlib
import re
import shutil
import subprocess
import sys

ROOMS = ("config", "vmm-shim", "manager", "plugin", "tests")
SUFFIXES = {".c", ".cpp", ".h"}
RELEASE, COLUMNS = 14, 130


def formatter():
    for name in (f"clang-format-{RELEASE}", "clang-format"):
        if shutil.which(name):
            version = subprocess.run([name, "--version"], check=True, capture_output=True, text=True).stdout
            if re.search(rf"version {RELEASE}\.", version):
                return name
    return None


def main(root):
    files = [path for room in ROOMS for path in sorted((root / room).rglob("*")) if path.suffix in SUFFIXES]
    wrong = [f"{path.relative_to(root)}:{number}: has {len(line)} columns" for path in files
             for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if len(line) > COLUMNS]
    command = formatter()
    if command:
        ran = subprocess.run([command, "--dry-run", "-Werror", "-ferror-limit=1", *map(str, files)], capture_output=True, text=True)
        wrong += [line.removeprefix(f"{root}/") for line in ran.stderr.splitlines() if "-Wclang-format-violations" in line]
        if ran.returncode and not wrong:
            wrong.append(ran.stderr)
    for line in wrong:
        print(line)
    if wrong or not files:
        print(f"{len(wrong)} places; clang-format -i FILE mends all but comments" if files else f"no sources in '{root}'")
        return 1
    if not command:
        print(f"lines are right, and the rest was not looked at: needs clang-format {RELEASE} (apt-get install clang-format-{RELEASE})")
        return 77
    print(f"ok: {len(files)} files")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(pathlib.Path(sys.argv[1])))
