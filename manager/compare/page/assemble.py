#!/usr/bin/env python3
"""Puts the report page together and writes it as C++: what comes before the results, and what comes after them.

    assemble.py TEMPLATE STYLE LIBRARY SCRIPT... OUTPUT

The scripts become one, in their order, and see each other's names but show none to anybody else.

The page's Content-Security-Policy names style and scripts by their hashes, so nothing else can run in it, and nothing can be fetched.
"""

import base64
import hashlib
import pathlib
import re
import sys

DELIMITER = "page"


def allowed(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def without(text, end, name):
    """Text within an element ends at the element's end tag, wherever that stands, so it must not be in there."""
    if end in text.lower() or "<!--" in text:
        sys.exit(f"'{name}' has '{end}' or '<!--' in it, and cannot be put into a page")
    return text


def literal(text):
    if f'){DELIMITER}"' in text:
        sys.exit(f"the page has the delimiter '{DELIMITER}' of a raw string in it")
    return f'R"{DELIMITER}({text}){DELIMITER}"'


def main(template, style, library, *scripts, output):
    read = lambda path: pathlib.Path(path).read_text(encoding="utf-8")
    parts = {
        "style": without(read(style), "</style", style),
        "library": without(read(library), "</script", library),
        "script": '"use strict";\n(() => {\n' + "\n".join(without(read(script), "</script", script) for script in scripts) + "})();\n",
    }
    parts["policy"] = (
        f"default-src 'none'; style-src {allowed(parts['style'])}; "
        f"script-src {allowed(parts['library'])} {allowed(parts['script'])}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    # One pass, so that what was put in is not looked at again.
    page = re.sub(r"\{\{(style|library|script|policy)\}\}", lambda match: parts[match[1]], read(template))
    before, data, after = page.partition("{{data}}")
    if not data or "{{data}}" in after:
        sys.exit(f"'{template}' must have '{{{{data}}}}' once")
    pathlib.Path(output).write_text(
        "#include <string_view>\n\nnamespace vh {\n\n"
        "extern const std::string_view reportPageBeforeData;\nextern const std::string_view reportPageAfterData;\n\n"
        f"const std::string_view reportPageBeforeData = {literal(before)};\n"
        f"const std::string_view reportPageAfterData = {literal(after)};\n\n}}  // namespace vh\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    main(*sys.argv[1:-1], output=sys.argv[-1])
