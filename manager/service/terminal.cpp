#include "manager/service/terminal.h"

#include <poll.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <system_error>
#include <thread>

#include "manager/service/vm_summary.h"
#include "vmm-shim/json_text.h"
#include "vmm-shim/text.h"
#include "vmm-shim/unix_socket.h"

namespace vh {

using nlohmann::json;

namespace {

/// Puts the terminal into raw mode, and back when it goes away.
class RawTerminal {
 public:
    RawTerminal() {
        if (::tcgetattr(STDIN_FILENO, &before_) != 0) return;
        changed_ = true;
        termios raw = before_;
        ::cfmakeraw(&raw);
        ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    RawTerminal(const RawTerminal&) = delete;
    ~RawTerminal() {
        if (changed_) ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
    }

 private:
    termios before_{};
    bool changed_ = false;
};

enum class ConsoleEnd { Left, VmmGone, InputEnded };

bool writeAll(int fd, const char* bytes, std::size_t length) {
    while (length > 0) {
        const ssize_t count = ::write(fd, bytes, length);
        if (count < 0 && errno == EAGAIN) {
            pollfd wait{fd, POLLOUT, 0};
            ::poll(&wait, 1, 1000);
            continue;
        }
        if (count <= 0) return false;
        bytes += count;
        length -= static_cast<std::size_t>(count);
    }
    return true;
}

ConsoleEnd converse(int socket, bool& readInput) {
    constexpr char leave = 0x1d;  // Ctrl-]
    for (;;) {
        pollfd watched[2] = {{socket, POLLIN, 0}, {readInput ? STDIN_FILENO : -1, POLLIN, 0}};
        if (::poll(watched, 2, -1) < 0 && errno != EINTR) return ConsoleEnd::VmmGone;
        char buffer[4096];
        if (watched[0].revents != 0) {
            const ssize_t count = ::recv(socket, buffer, sizeof(buffer), 0);
            if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) return ConsoleEnd::VmmGone;
            if (count > 0 && !writeAll(STDOUT_FILENO, buffer, static_cast<std::size_t>(count))) return ConsoleEnd::Left;
        }
        if (watched[1].revents != 0) {
            const ssize_t count = ::read(STDIN_FILENO, buffer, sizeof(buffer));
            if (count <= 0) {
                readInput = false;  // A script's input has ended; what the guest still says is wanted.
                return ConsoleEnd::InputEnded;
            }
            const char* end = std::find(buffer, buffer + count, leave);
            if (!writeAll(socket, buffer, static_cast<std::size_t>(end - buffer))) return ConsoleEnd::VmmGone;
            if (end != buffer + count) return ConsoleEnd::Left;
        }
    }
}

std::string pidText(const VmSummary& vm) {
    return vm.pid > 0 ? std::to_string(vm.pid) : "?";
}

}  // namespace

ProgressPrinter::ProgressPrinter(std::ostream& out)
    : out_(out), colour_(::isatty(&out == &std::cout ? STDOUT_FILENO : STDERR_FILENO) == 1) {}

void ProgressPrinter::show(const HandoverProgress& step) {
    closeLine(step.atMs);
    if (isFinal(step.state)) return;
    const bool alarming = step.state == State::Discarding || step.state == State::Resuming;
    std::string title(name(step.state));
    title.resize(12, ' ');
    std::string what(explanation(step.state));
    what.resize(std::max<std::size_t>(what.size(), 62), ' ');
    pending_ +=
        std::string("  ") + (colour_ ? (alarming ? "\033[33m" : "\033[36m") : "") + title + (colour_ ? "\033[0m" : "") + what;
    open_ = true;
    startedMs_ = step.atMs;
    // Switching begins with a running guest, and Retiring too.
    if (step.state <= State::Switching || step.state == State::Retiring || step.state == State::Ending) flush();
}

void ProgressPrinter::end(double atMs) {
    closeLine(atMs);
    flush();
}

void ProgressPrinter::closeLine(double atMs) {
    if (!open_) return;
    char text[32];
    std::snprintf(text, sizeof(text), "%8.1f ms\n", atMs - startedMs_);
    pending_ += text;
    open_ = false;
}

void ProgressPrinter::flush() {
    out_ << pending_ << std::flush;
    pending_.clear();
}

int runConsole(const std::string& vm, const std::function<std::string()>& whereNow) {
    const bool interactive = ::isatty(STDIN_FILENO) == 1;
    if (interactive) std::cerr << "connected to " << vm << "; leave with Ctrl-]\r\n";
    bool readInput = true;
    std::string last;
    for (;;) {
        const std::string path = whereNow();
        if (path.empty()) {
            std::cerr << "virt-handover: vm '" << vm << "' is gone\n";
            return last.empty() ? static_cast<int>(ExitCode::Refused) : 0;
        }
        try {
            const UniqueFd socket = connectUnix(path);
            last = path;
            const RawTerminal raw;
            ConsoleEnd end = converse(socket.get(), readInput);
            while (end == ConsoleEnd::InputEnded) end = converse(socket.get(), readInput);
            if (end == ConsoleEnd::Left) {
                if (interactive) std::cerr << "\r\n";
                return 0;
            }
        } catch (const std::system_error&) {
            // Between two VMMs there may be no socket for a moment; or the VM has just ended, which whereNow() will tell.
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
}

std::string startedText(const json& value) {
    const VmSummary vm = vmSummaryFromJson(value);
    return vm.vm + ": running on " + vm.kind + " " + vm.version + ", pid " + pidText(vm) + ", " + vm.machine + ", " +
           vm.accelerator + "\n" + warningsText(value);
}

std::string listText(const json& value) {
    const json& vms = JsonReader(value).list("/vms");
    if (vms.empty()) return "no VMs are running here; 'virt-handover start FILE.yaml' starts one\n";
    Table table({"VM", "STATE", "PID", "VMM", "MACHINE", "ACCELERATOR"}, 3);
    std::string errors;
    for (const json& entry : vms) {
        const VmSummary vm = vmSummaryFromJson(entry);
        table.add({vm.vm, vm.state, pidText(vm), vm.kind + " " + vm.version, vm.machine, vm.accelerator});
        if (!vm.error.empty()) errors += vm.error + "\n";
        if (vm.state == "handover interrupted")
            errors += "vm '" + vm.vm +
                      "': a manager died in the middle of a handover, and its guest may stand still; 'virt-handover upgrade " +
                      vm.vm + " --dry-run' finishes or undoes that\n";
    }
    return table.text() + errors;
}

std::string showText(const json& value) {
    const VmDetails details = vmDetailsFromJson(value);
    const VmSummary& vm = details.summary;
    std::string text = "vm: " + vm.vm + "\nstate: " + vm.state + "\npid: " + pidText(vm) + "\nvmm: " + vm.kind +
                       "\nversion: " + vm.version + "\nbinary: " + vm.binary + "\nmachine: " + vm.machine +
                       "\naccelerator: " + vm.accelerator + "\nuuid: " + vm.uuid + "\ndefinitionFile: " + details.definitionFile +
                       "\ndirectory: " + details.directory + "\n";
    for (const PassedDevice& device : vm.passthrough)
        text += "passed through: " + device.id + ", " + device.address + ", by its " + std::string(name(device.interface)) +
                " ('" + device.node + "')\n";
    if (details.lastHandover) text += lastReportText(*details.lastHandover);
    if (details.ramBlocks) text += keptRamBlocksText(*details.ramBlocks);
    text += "started with:\n";
    for (const auto& [key, entry] : details.definition) text += "  " + key + ": " + entry + "\n";
    return text;
}

std::string stateText(const json& value) {
    const JsonReader vm(value);
    std::string text = vm.shown("/vm") + ": " + vm.shown("/state") + "\n";
    for (const json& entry : vm.list("/ended")) {
        const JsonReader process(entry);
        text +=
            "  ended " + process.shown("/process") + (process.isTrue("/onRecord") ? "" : ", which was on no record of it") + "\n";
    }
    return text + warningsText(value);
}

std::string warningsText(const json& value) {
    std::string text;
    for (const json& warning : JsonReader(value).list("/warnings")) text += "  warning: " + JsonReader(warning).shown("") + "\n";
    return text;
}

}  // namespace vh
