// `virt-handover compare`: its options, and what becomes of a comparison's results.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace vh {

struct CompareOptions {
    std::string definition;  ///< A VM of the user's own.
    std::string plan;
    std::string old;
    std::string newBinary;
    std::vector<std::string> designs;
    std::optional<unsigned> rounds;
    std::optional<unsigned> baselineRounds;
    std::vector<std::string> ram;
    std::vector<std::string> loads;
    std::vector<std::string> devices;
    std::vector<std::string> hotSets;
    std::vector<std::string> accelerators;
    std::vector<unsigned> vms;
    std::string kernel;
    std::string initrd;
    std::optional<std::uint64_t> seed;
    std::string bootWait = "20s";
    std::string output;
    std::string resume;
    std::string baseline;
    std::string with;
    double tolerance = 1.10;
    bool evenIfBusy = false;
    std::vector<std::string> commandLine;  ///< The command line as typed, for the results.
};

void addCompareOptions(CLI::App& command, CompareOptions& options);

/// Returns the exit code: 0 done; 1 usage; 2 nothing was measured; 3 a regression against the baseline; 130 interrupted. Throws
/// std::invalid_argument and ConfigErrors for what is wrong with what was asked.
int compare(const CompareOptions& options, bool asJson);

}  // namespace vh
