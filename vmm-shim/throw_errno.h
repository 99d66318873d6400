// A failed system call as an exception.
#pragma once

#include <cerrno>
#include <string>
#include <system_error>

namespace vh {

/// Throws std::system_error: `WHAT: No such file or directory`. `what` says what was tried, and on which thing.
[[noreturn]] inline void throwErrno(const std::string& what, int error = errno) {
    throw std::system_error(error, std::generic_category(), what);
}

}  // namespace vh
