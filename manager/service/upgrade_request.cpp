#include "manager/service/upgrade_request.h"

#include <filesystem>

#include "config/parse.h"
#include "vmm-shim/file.h"

namespace vh {
namespace {

namespace fs = std::filesystem;

/// What a changed definition file may not change while the VM runs: everything but which VMM to use, confined how, and how to
/// hand over.
bool fixedWhileRunning(const std::string& key) {
    return key != "vmm.binary" && key != "vmm.sandbox" && !key.starts_with("handover.");
}

/// The definition to go by in an upgrade: what the VM was started with, and the file's handover settings and binary of today.
/// Throws a Refusal when the file has come to describe another machine.
VmDefinition definitionForUpgrade(const VmRecord& record) {
    VmDefinition running = record.definition();
    if (!fs::exists(record.definitionFile)) return running;  // What is running is on record.
    VmDefinition today;
    try {
        today = loadVmDefinition(record.definitionFile);
    } catch (const ConfigErrors& errors) {
        throw Refusal({"the definition file has become invalid: " + errors.errors().front().text(), "correct it"});
    }
    for (const KeyDifference& difference : differences(parseVmDefinition(record.definitionText, record.definitionFile), today)) {
        if (!fixedWhileRunning(difference.key)) continue;
        const auto shown = [](const std::string& value) { return value.empty() ? std::string("nothing") : "'" + value + "'"; };
        throw Refusal({"'" + record.definitionFile + "' was changed while the VM runs: " + difference.key + " was " +
                           shown(difference.before) + " and is now " + shown(difference.after),
                       "put it back, or power-cycle the VM to apply it"});
    }
    running.vmm.binary = today.vmm.binary;
    running.vmm.sandbox = today.vmm.sandbox;
    running.handover = today.handover;
    return running;
}

/// A definition that nobody has touched names the VMM of the first start, which an earlier upgrade with --to has left.
bool goesBackToTheFirst(const VmRecord& record, const VmDefinition& today) {
    std::error_code ignored;  // Of a file that is gone.
    return record.definition().vmm.binary == today.vmm.binary && record.vmm.binary != today.vmm.binary &&
           !fs::equivalent(record.vmm.binary, today.vmm.binary, ignored);
}

}  // namespace

HandoverRequest upgradeRequest(const VmRecord& record, const UpgradeOptions& options) {
    HandoverRequest request{.record = record, .dryRun = options.dryRun, .standby = options.standby};
    try {
        request.definition = definitionForUpgrade(record);
    } catch (const std::exception& error) {
        request.definition = record.definition();
        request.refusal = obstacleOf(error);
    }
    const std::string& named = request.definition.vmm.binary;
    if (!request.refusal && options.binary.empty() && goesBackToTheFirst(record, request.definition))
        request.warnings.push_back("the VM runs '" + record.vmm.binary +
                                   "' since an earlier upgrade, and without --to this one goes back to '" + named +
                                   "', which its definition names; if that is not what you want, name the VMM with --to, or " +
                                   "in the definition's vmm.binary");
    request.binary = options.binary.empty() ? named : absolutePath(options.binary);
    HandoverSettings& settings = request.definition.handover;
    request.design = options.design.value_or(settings.design);
    if (options.pauseBudget) settings.pauseBudget = *options.pauseBudget;
    return request;
}

}  // namespace vh
