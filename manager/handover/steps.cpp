#include "manager/handover/steps.h"

#include <algorithm>
#include <stdexcept>

namespace vh {

using nlohmann::json;
using std::chrono::milliseconds;

namespace {

constexpr milliseconds defaultDowntime{300};  ///< migration/options.c:DEFAULT_MIGRATE_SET_DOWNTIME, 10.0.
constexpr std::uint64_t unlimitedBandwidth = std::uint64_t{1} << 40;

json capabilities(bool events, bool returnPath, bool ignoreShared, bool pauses) {
    const auto capability = [](const char* which, bool state) { return json{{"capability", which}, {"state", state}}; };
    return {{"capabilities",
             json::array({capability("events", events), capability("return-path", returnPath),
                          capability("x-ignore-shared", ignoreShared), capability("pause-before-switchover", pauses)})}};
}

}  // namespace

std::unique_ptr<Steps> stepsOf(Course& course) {
    switch (course.design.state) {
        case StatePath::Cpr:
            return cprSteps(course);
        case StatePath::Stream:
            return streamSteps(course);
        case StatePath::File:
            return fileSteps(course);
        case StatePath::Exec:
            return execSteps(course);
    }
    return nullptr;
}

const char* migrationMode(const DesignRow& design) {
    return design.state == StatePath::Cpr ? "cpr-transfer" : design.state == StatePath::Exec ? "cpr-exec" : nullptr;
}

json channel(const char* type, const std::string& path) {
    return {{"channel-type", type}, {"addr", {{"transport", "socket"}, {"type", "unix"}, {"path", path}}}};
}

json migrationCapabilities(const Course& course) {
    const bool throughSocket = course.design.state == StatePath::Cpr || course.design.state == StatePath::Stream;
    return capabilities(true, throughSocket, course.design.ram == RamPath::File, course.passesThrough());
}

json noMigrationCapabilities() {
    return capabilities(false, false, false, false);
}

json migrationParameters(const Course& course) {
    // How long `copy` may stop the guest for what is left: QEMU's own default, and never the whole pause budget.
    const milliseconds downtime = std::min(defaultDowntime, course.definition().handover.pauseBudget / 2);
    return {{"max-bandwidth", unlimitedBandwidth}, {"downtime-limit", downtime.count()}};
}

std::vector<Course::Command> settingsOfOldVmm(const Course& course, bool on) {
    VmmProcess* vmm = course.oldVmm.get();
    return {{vmm, "migrate-set-capabilities", on ? migrationCapabilities(course) : noMigrationCapabilities()},
            {vmm, "migrate-set-parameters", on ? migrationParameters(course) : json(course.record().parametersBefore)}};
}

json Steps::mainChannel() const {
    return {{"channels", json::array({channel("main", mainChannelPath(course_.newVmm->directory()))})}};
}

/// The new VMM does not announce the guest's addresses by itself, as it would once it has the guest's state, whether or not it is
/// to run it (migration/migration.c:process_incoming_migration_bh, hw/net/virtio-net.c:virtio_net_post_load_device, 11.1).
std::vector<Course::Command> Steps::settingsOfNewVmm() const {
    VmmProcess* vmm = course_.newVmm.get();
    return {{vmm, "migrate-set-capabilities", migrationCapabilities(course_)},
            {vmm, "migrate-set-parameters", {{"announce-rounds", 0}}}};
}

void Steps::awaitStart(Then then) {
    course_.ask(*course_.newVmm, "query-version", nullptr, [this, then = std::move(then)](const QmpReply&) {
        course_.newVmm->expectOwnAnswer();
        then();
    });
}

void Steps::compare(const std::vector<RamBlock>& old, const std::vector<RamBlock>& newBlocks) {
    const RamTransfer transfer = course_.design.ram == RamPath::Descriptors ? RamTransfer::AllShared
                                 : course_.design.ram == RamPath::File      ? RamTransfer::NamedFilesShared
                                                                            : RamTransfer::Copied;
    HandoverReport& report = course_.report;
    report.ramBlocksCompared = old.size();
    report.ramBlockDifferences = differences(old, newBlocks, transfer);
    const auto isFatal = [](const RamBlockDifference& difference) { return difference.severity == Severity::Fatal; };
    const auto first = std::ranges::find_if(report.ramBlockDifferences, isFatal);
    if (first == report.ramBlockDifferences.end()) return;
    const auto more = std::ranges::count_if(report.ramBlockDifferences, isFatal) - 1;
    throw std::runtime_error("RAM block " + describe(*first) + (more > 0 ? " (and " + std::to_string(more) + " more)" : ""));
}

void Steps::hold(Then then) {
    course_.run(settingsOfOldVmm(course_, false), [this, then = std::move(then)] {
        course_.oldLetGo = true;
        course_.oldVmm->closeMonitor();
        then();
    });
}

void Steps::resumeExchange(Then then) {
    course_.run(settingsOfOldVmm(course_, true), std::move(then));
}

void Steps::setMode(Then then) {
    course_.run({{course_.oldVmm.get(), "migrate-set-parameters", {{"mode", migrationMode(course_.design)}}}},
                [this, then = std::move(then)] {
                    course_.askForBlockers([then](const std::vector<std::string>& reasons) {
                        if (!reasons.empty()) throw std::runtime_error("the old VMM refuses: " + reasons.front());
                        then();
                    });
                });
}

/// The guest is about to be stopped, or has just been by a VMM that had to copy its RAM before.
void Steps::holdNetwork() {
    course_.network->hold();
    for (const std::string& problem : course_.network->problems())
        course_.warn(problem + "; what comes for the guest while it is stopped is lost");
}

}  // namespace vh
