// What a test takes from its environment: what it does not do without, and numbers that a person may choose.
#pragma once

#include <cstdlib>
#include <iostream>
#include <string>

namespace vh::test {

/// A required environment variable; the test program ends with a failure that says how to get it when it is missing.
inline std::string required(const char* variable) {
    const char* value = std::getenv(variable);
    if (!value || !*value) {
        std::cerr << "[  FAILED  ] " << variable
                  << " is not set: system tests need real QEMUs and a guest; run scripts/test, which gets them\n";
        std::exit(1);
    }
    return value;
}

inline unsigned long numberFrom(const char* variable, unsigned long otherwise) {
    const char* value = std::getenv(variable);
    return value && *value ? std::stoul(value) : otherwise;
}

}  // namespace vh::test
