"""A page that a script makes of data beside it."""
import os, sys

HERE = os.path.dirname(os.path.abspath(__file__))


def publish(name, text, source):
    """Writes the page NAME.md; with --check among the arguments says whether it is what `source` says. Returns an exit status."""
    path = os.path.join(HERE, name + ".md")
    if "--check" not in sys.argv[1:]:
        with open(path, "w") as file:
            file.write(text)
        return 0
    with open(path) as file:
        if file.read() == text:
            print(f"ok: {name}.md is what {source} says")
            return 0
    print(f"{name}.md is not what {source} says: run {os.path.relpath(sys.argv[0])}")
    return 1
