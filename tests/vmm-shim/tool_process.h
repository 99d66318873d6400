// The program vmm-shim, or a QEMU, as a child of a test.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/required.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/file.h"

namespace vh {

/// A child process with its output in files; killed at the end, if it has not ended.
class ToolProcess {
 public:
    ToolProcess(const std::vector<std::string>& command, const std::filesystem::path& output, const std::filesystem::path& errors,
                int inherited = -1) {
        std::vector<char*> arguments;
        for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
        arguments.push_back(nullptr);
        pid_ = ::fork();
        if (pid_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
        if (pid_ > 0) return;
        const int out = ::open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644),
                  err = ::open(errors.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
        ::dup2(out, STDOUT_FILENO);
        ::dup2(err, STDERR_FILENO);
        if (inherited >= 0) ::fcntl(inherited, F_SETFD, 0);
        ::execv(arguments[0], arguments.data());
        ::_exit(127);
    }
    ToolProcess(const ToolProcess&) = delete;
    ~ToolProcess() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        wait();
    }

    pid_t pid() const { return pid_; }
    void signal(int number) const { ::kill(pid_, number); }
    /// Its exit status, or minus the signal that ended it.
    int wait() {
        int status = 0;
        while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
        pid_ = -1;
        return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
    }

 private:
    pid_t pid_ = -1;
};

struct Answer {
    int code = -1;
    std::string output;
    std::string errors;

    nlohmann::json value() const { return nlohmann::json::parse(output); }
};

/// Runs vmm-shim to its end.
inline Answer runTool(std::vector<std::string> arguments, const TemporaryDirectory& directory) {
    arguments.insert(arguments.begin(), test::required("VH_SHIM"));
    ToolProcess process(arguments, directory.file("answer.out"), directory.file("answer.err"));
    const int code = process.wait();
    return {code, readIfThere(directory.file("answer.out")), readIfThere(directory.file("answer.err"))};
}

}  // namespace vh
