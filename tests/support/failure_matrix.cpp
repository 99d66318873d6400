#include "tests/support/failure_matrix.h"

#include <fstream>
#include <set>
#include <vector>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "tests/support/golden.h"
#include "vmm-shim/text.h"

namespace vh::test {

using nlohmann::json;
using testing::HasSubstr;

namespace {

/// Fails the test unless the published file has `outcome` at the place that `keys` lead to.
void expectAsPublished(const std::string& name, const std::vector<std::string>& keys, const std::string& outcome) {
    const std::string file = inSourceTree("tests/results/" + name);
    json matrix = json::parse(fileText(file), nullptr, false);
    if (matrix.is_discarded()) matrix = json::object();
    json* kept = &matrix;
    std::string place;
    for (const std::string& key : keys) {
        kept = &(*kept)[key];
        place += (place.empty() ? "" : ", ") + key;
    }
    if (acceptsGoldens()) {
        *kept = outcome;
        std::ofstream(file) << matrix.dump(1) << '\n';
        return;
    }
    EXPECT_EQ(*kept, json(outcome)) << "the published '" << name << "' says otherwise: " << place
                                    << "; if the new outcome is right: run again with VH_ACCEPT=1";
}

std::string inWords(const json& report) {
    const std::string outcome = report.value("outcome", "refused");
    if (outcome == "lost") return "**lost**, and it is said";
    if (outcome != "rolled back") return outcome;
    return report["vmm"]["stopToResumeMs"].is_null() ? "rolled back, never stopped" : "rolled back";
}

/// Who gave a handover up: `relay`, which looks at the CPR state on its way; the comparison of RAM blocks, with the properties
/// that would be fatal; or a QEMU by itself. Empty, which no test takes, when it was none of them.
std::string whoMetIt(const json& report) {
    std::set<std::string> fields;
    for (const json& difference : report["ramBlocks"]["differences"])
        if (difference["severity"] == "fatal") fields.insert(difference["field"]);
    if (!fields.empty()) return "comparison: " + joined(fields);
    const std::string cause = report.value("cause", "");
    if (cause.starts_with("the old VMM could not hand over: ")) return "the old QEMU";
    if (cause.starts_with("the new VMM exited ") || cause.starts_with("the new VMM ended: ")) return "the new QEMU";
    return cause.find("CPR state") == std::string::npos ? "" : "relay";
}

}  // namespace

void expectAsInFailureMatrix(const SeenFailure& seen) {
    expectAsPublished("failure-matrix.json", {std::string(name(seen.design)), seen.victim, seen.step, seen.kind}, seen.outcome);
}

void expectAsInLossMatrix(const SeenLoss& seen) {
    expectAsPublished("silent-loss.json", {seen.design, seen.fault, "outcome"}, seen.outcome);
    if (!seen.caughtBy.empty()) expectAsPublished("silent-loss.json", {seen.design, seen.fault, "caught by"}, seen.caughtBy);
}

void expectAsInLossMatrix(const std::string& design, const std::string& fault, const json& report, const std::string& either) {
    const std::string who = whoMetIt(report);
    EXPECT_NE(who, "") << "nobody known met '" << fault << "': " << report.value("cause", "");
    if (!either.empty()) {
        EXPECT_THAT(either, HasSubstr(who));
    }
    expectAsInLossMatrix({design, fault, inWords(report), either.empty() ? who : either});
}

}  // namespace vh::test
