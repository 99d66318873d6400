#include "tests/support/failure_matrix.h"

#include <fstream>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/golden.h"

namespace vh::test {

using nlohmann::json;

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

}  // namespace

void expectAsInFailureMatrix(const SeenFailure& seen) {
    expectAsPublished("failure-matrix.json", {std::string(name(seen.design)), seen.victim, seen.step, seen.kind}, seen.outcome);
}

void expectAsInLossMatrix(const SeenLoss& seen) {
    expectAsPublished("silent-loss.json", {seen.design, seen.fault, "outcome"}, seen.outcome);
    if (!seen.caughtBy.empty()) expectAsPublished("silent-loss.json", {seen.design, seen.fault, "caught by"}, seen.caughtBy);
}

}  // namespace vh::test
