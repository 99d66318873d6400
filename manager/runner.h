// The place that answers a command's verbs, and the turning of the main loop until they have answered.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <glib.h>

#include "manager/process/event_loop.h"
#include "manager/record/vm_directory.h"
#include "manager/service/host.h"
#include "manager/service/verbs.h"

namespace vh {

struct Place {
    std::string runtimeDirectory = defaultRuntimeDirectory();
    std::string definitionDirectory = "/etc/virt-handover/vms";
    bool embed = false;
};

/// Has each command that a text names (`'virt-handover list'`) work as it is typed: with the options by which this place was
/// given.
std::string asTyped(const Place& place, const std::string& text);

/// Runs one asynchronous verb to its end.
class Runner {
 public:
    /// Connects to the place. Throws Unreachable.
    explicit Runner(const Place& place);
    Runner(const Runner&) = delete;
    ~Runner() { g_main_loop_unref(loop_); }

    Verbs& verbs() { return *verbs_; }
    Host* embedded() { return host_; }

    VerbResult wait(const std::function<void(Verbs::Done)>& verb);
    /// Serves `commit` and `cancel` for an upgrade that stands by in this process, until it is over.
    void holdStandby(const std::string& vm);

 private:
    /// Leaves SIGINT, SIGTERM and SIGHUP to interrupted() while there is one.
    struct Interruptions {
        explicit Interruptions(Runner& runner);
        const EventSource keyboard, terminate, hangUp;
    };

    void interrupted(const std::string& why);

    const Place place_;
    GMainLoop* loop_;
    std::unique_ptr<Verbs> verbs_;
    Host* host_ = nullptr;  ///< The same object, when embedded.
};

}  // namespace vh
