// Signals are for the main thread: no other may take one.
#pragma once

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "vmm-shim/proc.h"

namespace vh {

/// Expects that each thread beside the main one blocks signals; returns how many there are.
inline unsigned expectOthersBlockSignals() {
    unsigned others = 0;
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
        if (task.path().filename() == std::to_string(::getpid())) continue;
        ++others;
        const std::string blocked = Process(::getpid()).field("task/" + task.path().filename().string() + "/status", "SigBlk:");
        for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGUSR1})
            EXPECT_NE(std::strtoull(blocked.c_str(), nullptr, 16) & (1ULL << (signal - 1)), 0U) << signal;
    }
    return others;
}

}  // namespace vh
