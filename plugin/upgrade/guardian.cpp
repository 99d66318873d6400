#include "plugin/upgrade/guardian.h"

#include <unistd.h>

#include <filesystem>
#include <vector>

#include "plugin/host/command.h"

namespace vh {

void startGuardian(const std::string& runtimeDirectory, int lock) {
    constexpr int number = 3;
    const std::string program = std::filesystem::read_symlink("/proc/self/exe");
    std::vector<std::string> environment;
    for (char** entry = environ; *entry; ++entry) environment.emplace_back(*entry);
    startDetached({.program = program,
                   .argv = {program, "--runtime-dir", runtimeDirectory, "recover", "--guard", std::to_string(number)},
                   .environment = environment,
                   .directory = "/",
                   .descriptors = {{STDERR_FILENO, STDERR_FILENO}, {number, lock}}});
}

}  // namespace vh
