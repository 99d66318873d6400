#!/usr/bin/env python3
"""Fails where JSON is read by `value["key"]`.

nlohmann::json takes it for granted that a constant object has the key: without it the process ends, or what happens is undefined. So
that form is for writing only. What must be as it should be is read by `at()`, whose exception refuses it; what is shown to people
or to scripts is read by JsonReader (vmm-shim/json_text.h). Documents of a comparison are checked as a whole before they are read
(manager/compare/results_file.h), and the plugin's OptionValue is no JSON.

Nor by `value("key", "")`, which throws when the key is there with another type: where what a VMM said is looked into, that is a
JsonReader's work too. Records, journals and orders are refused as a whole, within one `try`.

    check_json_reading.py SOURCE_ROOT      checks a tree
    check_json_reading.py --self-test      checks this checker, on made-up lines
"""

import re

import checker

CHECKED = ("manager/*.cpp", "manager/[!c]*/*.cpp", "plugin/main.cpp", "plugin/upgrade/*.cpp", "vmm-shim/qmp/monitor.cpp",
           "vmm-shim/tool/capture.cpp")

# Not those that refuse a whole document.
REFUSING = ("manager/record/vm_record.cpp", "manager/record/adopted_vm.cpp", "manager/record/report.cpp")
# With a default that has a type of its own.
VALUE_OR = re.compile(r'[\w.\->()]*\.value\("[^"]*", (?!json(?:\(|::))')

# A key in brackets, and what follows the last of a row of them.
INDEXED = re.compile(r'[\w.]*\w(?:\[(?:"[^"]*"|\w+)\])*\["[^"]*"\](?:\[(?:"[^"]*"|\w+)\])*')
WRITES = re.compile(r"\s*(?:=(?!=)|\.push_back\(|\.back\(\)\[)")


def problems_of_tree(root):
    for pattern in CHECKED:
        paths = sorted(root.glob(pattern))
        if not paths and (root / "vmm-shim").is_dir():
            yield f"{pattern}: there is no such file, so nothing is checked"
        for path in paths:
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if line.lstrip().startswith("//"):
                    continue
                for match in INDEXED.finditer(line):
                    if not WRITES.match(line, match.end()):
                        yield f"{path.relative_to(root)}:{number}: '{match.group()}' is read unchecked: use at(), or JsonReader"
                if path.parts[len(root.parts)] != "manager" or str(path.relative_to(root)) in REFUSING:
                    continue
                for match in VALUE_OR.finditer(line):
                    yield f"{path.relative_to(root)}:{number}: '{match.group()}...' throws when it is of another type: use JsonReader"


def check(root):
    return checker.judge(problems_of_tree(root), "unchecked readings", "no unchecked reading")


def self_test():
    wrong = ['text += value["vm"].get<std::string>();', 'if (report["outcome"] == "lost") return;', 'f(value["a"]["b"]);',
             'const json& x = value["a"];', 'state = event.data.value("status", "");', 'text(reply.value.value("a", 0));',
             'for (const json& one : summary["domains"])', 'x = y["a"][key];']
    right = ['value["state"] = "running";', 'value["a"]["b"] = 5;', 'value["a"].push_back(1);', 'value["a"][name] = {{"b", 1}};',
             '// as in value["a"]', 'value.at("a").get<int>();', 'reader.text("/a");', 'member = message.value("data", json::object());', 'optional.value();',
             'char names[] = {"a"};']
    return checker.self_test(((f"{line!r}: expected {wanted}", {"manager/x.cpp": line + "\n"}, problems_of_tree,
                               lambda found, wanted=wanted: len(found) == wanted)
                              for line, wanted in [*((one, 1) for one in wrong), *((one, 0) for one in right)]), "lines")


if __name__ == "__main__":
    checker.main(__doc__, check, self_test)
