#include "plugin/host/emulator.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <stdexcept>

#include "plugin/host/command.h"
#include "vmm-shim/elf_file.h"
#include "vmm-shim/proc.h"

namespace vh {
namespace {

namespace fs = std::filesystem;

/// QEMU prints its version from one literal (system/vl.c:version, 10.0 and 11.1), which is therefore in the binary. A program
/// that is not executed needs no libraries: those that it runs with may have been replaced by now, too.
std::string versionIn(const std::string& file) {
    static constexpr std::string_view mark = "QEMU emulator version ";
    constexpr std::size_t chunk = std::size_t{1} << 20, overlap = 64;
    std::ifstream input(file, std::ios::binary);
    std::string data;
    for (std::string read(chunk, '\0'); input.read(read.data(), chunk), input.gcount() > 0;) {
        data.erase(0, data.size() - std::min(data.size(), overlap));
        data.append(read, 0, static_cast<std::size_t>(input.gcount()));
        for (std::size_t at = data.find(mark); at != std::string::npos; at = data.find(mark, at + 1)) {
            const std::size_t begin = at + mark.size(), end = data.find_first_not_of("0123456789.", begin);
            if (end != std::string::npos && end > begin) return data.substr(begin, end - begin);
        }
    }
    return {};
}

}  // namespace

EmulatorIdentity installedEmulator(const std::string& binary) {
    const CommandResult result = run({.argv = {binary, "--version"}, .deadline = std::chrono::milliseconds(10'000)});
    std::smatch match;
    static const std::regex pattern("version ([0-9]+\\.[0-9]+\\.[0-9]+)");
    if (!result.ok() || !std::regex_search(result.output, match, pattern))
        throw std::runtime_error("'" + binary + " --version' does not answer as QEMU does: " + result.describe());
    return {.path = binary, .version = match[1], .buildId = buildIdOf(binary)};
}

EmulatorIdentity runningEmulator(pid_t pid) {
    const Process::Program program = Process(pid).program();
    if (program.file.empty()) throw std::runtime_error("what pid " + std::to_string(pid) + " runs cannot be told: is it there?");
    EmulatorIdentity emulator;
    emulator.path = withoutDeletedMark(program.path);
    emulator.buildId = buildIdOf(program.file);
    std::error_code gone;
    emulator.replaced = !fs::equivalent(program.file, emulator.path, gone);
    emulator.version = versionIn(program.file);
    return emulator;
}

}  // namespace vh
