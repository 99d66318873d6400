#include "manager/vmm/binary_probe.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "manager/vmm/vmm_process.h"
#include "vmm-shim/json_text.h"
#include "vmm-shim/unix_socket.h"

namespace vh {

using nlohmann::json;

namespace {

constexpr const char* nameAnother = "name a QEMU that works on this host";

}  // namespace

BinaryProbe::BinaryProbe(Question question, Answer answer) : question_(std::move(question)), answer_(std::move(answer)) {
    binary_.path = question_.path;
    struct stat status {};
    std::string cause;
    if (::stat(question_.path.c_str(), &status) != 0)
        cause = "'" + question_.path + "': " + std::strerror(errno);
    else if (!S_ISREG(status.st_mode))
        cause = "'" + question_.path + "' is not a file";
    else if (::access(question_.path.c_str(), X_OK) != 0)
        cause = "'" + question_.path + "' is not executable";
    if (!cause.empty()) {
        deadline_ = EventSource::after(std::chrono::milliseconds(0), [this, cause] { finish(Obstacle{cause, nameAnother}); });
        return;
    }
    auto [ours, theirs] = unixPair();
    log_ = UniqueFd(::memfd_create("probe-log", MFD_CLOEXEC));
    process_ = ChildProcess::launch(
        {.argv = {question_.path, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S", "-chardev",
                  "socket,id=qmp,fd=" + std::to_string(ChildProcess::firstDescriptor), "-mon", "chardev=qmp,mode=control"},
         .descriptors = {theirs.get()},
         .output = log_.get(),
         .identity = question_.identity,
         .expendable = true,
         .endsWithManager = true});
    monitor_ = std::make_unique<QmpClient>(std::move(ours));
    deadline_ = EventSource::after(question_.deadline, [this] {
        finish(Obstacle{
            "'" + question_.path + "' did not answer as a QEMU within " + std::to_string(question_.deadline.count()) + " ms",
            "see whether it is one, and whether the host is overloaded"});
    });
    process_.onExit([this] {
        const std::string said = stderrTailOf(log_.get());
        finish(Obstacle{
            "'" + question_.path + "' is not a working QEMU: it " + process_.howItEnded() + (said.empty() ? "" : ": " + said),
            nameAnother});
    });
    ask();
}

BinaryProbe::~BinaryProbe() {
    process_.killAll();
}

void BinaryProbe::ask() {
    // Deadlines of single commands do not matter here: the whole probe has one. A closed monitor is told by the process's exit.
    monitor_->execute("query-version", nullptr, question_.deadline, [this](QmpReply reply) {
        if (!reply.ok()) return;
        if (monitor_->peer() != process_.pid())
            return finish(
                Obstacle{"'" + question_.path + "' does not become the VMM but starts it as a child of its own, pid " +
                             std::to_string(monitor_->peer()),
                         "if it is a script, have it execute the VMM as its last command: exec qemu-system-x86_64 \"$@\""});
        binary_.kind = vmmKind(reply.value);
        binary_.version = qemuVersion(reply.value);
        binary_.majorVersion = std::atoi(binary_.version.c_str());
    });
    monitor_->execute("query-machines", nullptr, question_.deadline, [this](QmpReply reply) {
        if (!reply.ok()) return;
        for (const json& machine : reply.value) {
            const std::string name = JsonReader(machine).text("/name"), alias = JsonReader(machine).text("/alias");
            binary_.machines.insert(name);
            if (!alias.empty()) binary_.aliases[alias] = name;
        }
        askModels(0);
    });
}

void BinaryProbe::askModels(std::size_t index) {
    if (index == question_.deviceModels.size()) return finish({});
    // Asking for a model's properties loads the module it lives in, as starting a VM would; a list of types would not show it.
    const std::string& model = question_.deviceModels[index];
    monitor_->execute("device-list-properties", {{"typename", model}}, question_.deadline, [this, index, model](QmpReply reply) {
        if (reply.error && reply.error->errorClass == "Closed") return;
        if (!reply.ok()) binary_.missingModels.insert(model);
        askModels(index + 1);
    });
}

void BinaryProbe::finish(std::optional<Obstacle> problem) {
    process_.ignoreExit();
    process_.killAll();
    deadline_.reset();
    const Answer answer = std::exchange(answer_, nullptr);
    if (answer) answer(std::move(binary_), std::move(problem));
}

}  // namespace vh
