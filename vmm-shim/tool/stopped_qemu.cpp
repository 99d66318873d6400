#include "vmm-shim/tool/stopped_qemu.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <utility>

#include "vmm-shim/proc.h"
#include "vmm-shim/terminal_text.h"
#include "vmm-shim/text.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using std::chrono::milliseconds, std::chrono::steady_clock;

constexpr int inheritedNumber = 3;

/// Only async-signal-safe calls.
[[noreturn]] void become(char* const* argv, int output, int inherited, pid_t parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);  // It was gone before it could be asked for.
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    const int input = ::open("/dev/null", O_RDONLY);
    ::dup2(input, STDIN_FILENO);
    ::dup2(output, STDOUT_FILENO);
    ::dup2(output, STDERR_FILENO);
    if (inherited == inheritedNumber)
        ::fcntl(inherited, F_SETFD, 0);
    else if (inherited >= 0)
        ::dup2(inherited, inheritedNumber);
    ::close_range(inherited >= 0 ? inheritedNumber + 1 : inheritedNumber, ~0U, 0);
    ::execvp(argv[0], argv);
    const char* why = strerrordesc_np(errno);
    for (const char* part : {"cannot be executed: ", why ? why : "unknown error", "\n"})
        (void)!::write(STDERR_FILENO, part, std::char_traits<char>::length(part));
    ::_exit(127);
}

}  // namespace

OwnProcess::OwnProcess(const std::vector<std::string>& command, int inherited) : output_(::memfd_create("output", MFD_CLOEXEC)) {
    if (!output_) throwErrno("create a file for what '" + command.front() + "' says");
    std::vector<char*> argv;
    argv.reserve(command.size() + 1);
    for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0) throwErrno("fork");
    if (pid_ == 0) become(argv.data(), output_.get(), inherited, parent);
    pidfd_ = openPidfd(pid_);
}

OwnProcess::~OwnProcess() {
    // It has no guest: it was started with -S, or only to say something. A child that nobody has waited for keeps its pid.
    ::kill(pid_, SIGKILL);
    if (!awaitEnd(steady_clock::now() + std::chrono::seconds(10))) return;  // The kernel holds it.
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) continue;
}

bool OwnProcess::awaitEnd(steady_clock::time_point deadline) const {
    return vh::awaitEnd(pidfd_.get(), deadline);
}

std::string OwnProcess::output() const {
    constexpr std::size_t most = std::size_t{1} << 20;
    std::string text(most, '\0');
    const ssize_t length = ::pread(output_.get(), text.data(), text.size(), 0);
    text.resize(length < 0 ? 0 : static_cast<std::size_t>(length));
    return text;
}

StoppedQemu::StoppedQemu(const std::string& binary, const std::vector<std::string>& arguments, milliseconds timeout) {
    std::vector<std::string> command{binary,        "-S",
                                     "-nodefaults", "-no-user-config",
                                     "-display",    "none",
                                     "-chardev",    "socket,id=vmm-shim,fd=" + std::to_string(inheritedNumber),
                                     "-mon",        "chardev=vmm-shim,mode=control"};
    command.insert(command.end(), arguments.begin(), arguments.end());
    auto [ours, theirs] = unixPair();
    process_.emplace(command, theirs.get());
    theirs.reset();  // Only the QEMU holds its end: when it ends, the connection does.
    try {
        monitor_.emplace(std::move(ours), binary, timeout);
    } catch (const MonitorUnreachable& error) {
        // It may have closed the connection, and be about to end.
        const bool ended = process_->awaitEnd(steady_clock::now() + std::chrono::seconds(1));
        const std::string reason = reasonIn(process_->output());
        throw StartFailed(ended && !reason.empty() ? reason : error.what());
    }
}

std::string saidBy(const std::string& binary, const std::vector<std::string>& arguments, milliseconds timeout) {
    std::vector<std::string> command{binary};
    command.insert(command.end(), arguments.begin(), arguments.end());
    const OwnProcess process(command, -1);
    if (!process.awaitEnd(steady_clock::now() + timeout))
        throw StartFailed("'" + binary + " " + joined(arguments, " ") + "' has not ended within " +
                          std::to_string(timeout.count()) + " ms");
    return process.output();
}

std::string reasonIn(const std::string& output) {
    constexpr std::size_t longest = 200;
    constexpr std::string_view separator = ": ";
    for (std::string line : split(output, '\n')) {
        if (line.empty() || line.find("warning:") != std::string::npos || line.starts_with("info:")) continue;
        const std::size_t name = line.find(separator);
        if (name != std::string::npos && line.find(' ') > name) line.erase(0, name + separator.size());
        const std::size_t option = line.find(separator);
        if (line.starts_with("-device ") && option != std::string::npos) line.erase(0, option + separator.size());
        return forTerminal(line).substr(0, longest);
    }
    return {};
}

}  // namespace vh
