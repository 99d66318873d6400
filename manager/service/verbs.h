// The verbs of a manager, for the command line or anybody else: in this process (Host) or over D-Bus (DbusClient).
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "config/design.h"
#include "config/obstacle.h"
#include "manager/handover/handover.h"
#include "manager/record/report.h"
#include "vmm-shim/json_text.h"

namespace vh {

/// The answer to a verb: exit code, and what there is to say.
struct VerbResult {
    ExitCode code = ExitCode::Done;
    /// An object; on anything but Done it has `error`, and may have `remedy`. Nothing where there is a report.
    nlohmann::json value{};
    /// Report of an upgrade, also of one that is refused; but not where it was not understood which VM is meant.
    std::optional<HandoverReport> report{};

    static VerbResult of(HandoverReport report) { return {report.exitCode(), {}, std::move(report)}; }
    /// The reason why it is not Done.
    Obstacle obstacle() const {
        if (report) return {report->cause, report->remedy};
        return {JsonReader(value).text("/error"), JsonReader(value).text("/remedy")};
    }
};

/// JSON of a result, as D-Bus carries it and --json prints it.
inline nlohmann::json toJson(const VerbResult& result) {
    return result.report ? toJson(*result.report) : result.value;
}

struct UpgradeOptions {
    std::string binary;  ///< Empty: the one that the definition file names.
    std::optional<Design> design;
    std::optional<std::chrono::milliseconds> pauseBudget;
    bool dryRun = false;
    bool standby = false;  ///< Answer when everything is prepared, and hold it for commit() or cancel().
};

/// Every verb answers once, from the main loop or at once.
class Verbs {
 public:
    using Done = std::function<void(VerbResult)>;

    virtual ~Verbs() = default;

    /// `what` is a file (it contains a slash or ends in .yaml) or the name of a definition in the definition directory.
    virtual void start(const std::string& what, std::optional<std::chrono::milliseconds> waitHeartbeat, Done done) = 0;
    virtual void upgrade(const std::string& vm, const UpgradeOptions& options, Handover::Observer observer, Done done) = 0;
    /// Switches a VM whose upgrade stands by; answers with the upgrade's report.
    virtual void commit(const std::string& vm, Handover::Observer observer, Done done) = 0;
    /// Undoes what an upgrade that stands by has prepared.
    virtual void cancel(const std::string& vm, Done done) = 0;
    /// Presses the power button and waits until the VMM has ended.
    virtual void shutdown(const std::string& vm, std::chrono::milliseconds timeout, Done done) = 0;
    /// Ends the VMM at once.
    virtual void destroy(const std::string& vm, Done done) = 0;
    virtual void list(Done done) = 0;
    virtual void show(const std::string& vm, Done done) = 0;
    /// The console socket of the VM's present VMM.
    virtual void console(const std::string& vm, Done done) = 0;
};

}  // namespace vh
