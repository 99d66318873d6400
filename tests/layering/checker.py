"""What the checks of this folder have in common: how they read a tree, say what is wrong, and check themselves on made-up trees."""

import pathlib
import sys
import tempfile

SUFFIXES = {".c", ".cc", ".cpp", ".h", ".hpp"}
ROOMS = ("config", "vmm-shim", "manager", "plugin")


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def sources(root, rooms=ROOMS, suffixes=SUFFIXES):
    """The path from the root and the text of each source."""
    for room in rooms:
        for path in sorted((root / room).rglob("*")):
            if path.suffix in suffixes and path.is_file():
                yield str(path.relative_to(root)), path.read_text(encoding="utf-8", errors="replace")


def judge(problems, what, ok):
    """Prints the problems, or that there are none; the exit status."""
    problems = list(problems)
    for problem in problems:
        print(problem)
    print(f"{len(problems)} {what}" if problems else f"ok: {ok}")
    return 1 if problems else 0


def self_test(cases, what):
    """Of each case: what it is called, a tree (name to text), what gives its problems, and whether they are the right ones."""
    failures = count = 0
    for title, files, problems_of_tree, is_right in cases:
        count += 1
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            for name, content in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(content)
            found = list(problems_of_tree(root))
        if not is_right(found):
            failures += 1
            print(f"self-test: {title}: found {found}")
    print(f"{failures} failures" if failures else f"ok: {count} {what}")
    return 1 if failures or not count else 0


def main(document, check, check_itself):
    if len(sys.argv) != 2:
        sys.exit(document)
    sys.exit(check_itself() if sys.argv[1] == "--self-test" else check(pathlib.Path(sys.argv[1])))
