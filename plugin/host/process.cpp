#include "plugin/host/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string_view>

#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

using std::chrono::milliseconds, std::chrono::steady_clock;

// A process in uninterruptible sleep (a disk that hangs) ends only when the kernel lets it.
constexpr milliseconds killPatience{10'000};

std::vector<std::string> wordsOf(const std::string& path) {
    std::ifstream input(path, std::ios::binary);
    if (!input) throwErrno("read '" + path + "'");
    std::vector<std::string> words;
    std::string word;
    while (std::getline(input, word, '\0')) words.push_back(word);
    return words;
}

}  // namespace

ProcessIdentity identityOf(pid_t pid) {
    std::ifstream input("/proc/" + std::to_string(pid) + "/stat");
    // Not by a stream's iterators: those throw when the process ends between opening and reading.
    std::string text;
    std::getline(input, text, '\0');
    // Field 2 is the name in parentheses, which may hold anything; 3 is the state, 22 the start time.
    const std::size_t end = text.rfind(')');
    if (end == std::string::npos) return {};
    std::istringstream fields(text.substr(end + 1));
    std::string state, skipped;
    fields >> state;
    for (int field = 4; field < 22; ++field) fields >> skipped;
    std::uint64_t startTime = 0;
    if (!(fields >> startTime) || state == "Z" || state == "X") return {};
    return {pid, startTime};
}

std::vector<std::string> commandLineOf(pid_t pid) {
    return wordsOf("/proc/" + std::to_string(pid) + "/cmdline");
}

std::vector<std::string> environmentOf(pid_t pid) {
    return wordsOf("/proc/" + std::to_string(pid) + "/environ");
}

bool isConfined(pid_t pid) {
    std::string label;
    std::getline(std::ifstream("/proc/" + std::to_string(pid) + "/attr/current"), label);  // EINVAL where there are no labels.
    return !label.empty() && !label.starts_with("unconfined");
}

std::string withoutDeletedMark(std::string link) {
    static constexpr std::string_view mark = " (deleted)";
    if (link.ends_with(mark)) link.resize(link.size() - mark.size());
    return link;
}

std::optional<pid_t> lockHolder(int fd) {
    // Asked as a reader, only a writer is in the way.
    struct flock lock {};
    lock.l_type = F_RDLCK;
    lock.l_len = 1;
    if (::fcntl(fd, F_OFD_GETLK, &lock) != 0) throwErrno("look who has a lock");
    return lock.l_type == F_UNLCK ? std::nullopt : std::optional(lock.l_pid);
}

std::optional<pid_t> lockHolder(const std::string& file) {
    const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
    return fd ? lockHolder(fd.get()) : std::nullopt;
}

UniqueFd openProcess(pid_t pid) {
    UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!process && errno != ESRCH) throwErrno("pidfd_open of pid " + std::to_string(pid));
    return process;
}

bool awaitEnd(int pidfd, steady_clock::time_point deadline) {
    for (;;) {
        const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
        pollfd entry{pidfd, POLLIN, 0};
        const int ready = ::poll(&entry, 1, static_cast<int>(std::clamp<long long>(left.count(), 0, 1 << 30)));
        if (ready < 0 && errno == EINTR) continue;
        if (ready < 0) throwErrno("poll");
        return ready > 0;
    }
}

void signalProcess(int pidfd, int signal) {
    if (::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) != 0 && errno != ESRCH) throwErrno("send a signal");
}

void endProcess(int pidfd, milliseconds patience) {
    signalProcess(pidfd, SIGTERM);
    if (awaitEnd(pidfd, steady_clock::now() + patience)) return;
    signalProcess(pidfd, SIGKILL);
    if (!awaitEnd(pidfd, steady_clock::now() + killPatience)) throw std::runtime_error("it does not end, not even by SIGKILL");
}

}  // namespace vh
