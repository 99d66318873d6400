#include "tests/support/failure_matrix.h"

#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/golden.h"

namespace vh::test {

using nlohmann::json;

void expectAsInFailureMatrix(const SeenFailure& seen) {
    const std::string file = inSourceTree("tests/results/failure-matrix.json");
    json matrix = json::parse(fileText(file), nullptr, false);
    json& kept = matrix[std::string(name(seen.design))][seen.victim][seen.step][seen.kind];
    if (acceptsGoldens()) {
        kept = seen.outcome;
        std::ofstream(file) << matrix.dump(1) << '\n';
        return;
    }
    EXPECT_EQ(kept, json(seen.outcome)) << "the published failure matrix says otherwise: " << name(seen.design) << ", "
                                        << seen.victim << " at " << seen.step << ": " << seen.kind
                                        << "; if the new outcome is right: run again with VH_ACCEPT=1";
}

}  // namespace vh::test
