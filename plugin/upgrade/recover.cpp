#include "plugin/upgrade/recover.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "plugin/host/command.h"
#include "plugin/upgrade/domain_handover.h"
#include "plugin/upgrade/orphans.h"

namespace vh {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RecoveredDomain, domain, uuid, outcome, cause, pid, oldQemuLeft)

namespace {

using nlohmann::json;

constexpr std::chrono::milliseconds guardianTimeout{120'000}, guardianPause{100};

/// To what the dead process had planned comes what is there now: somebody may have started libvirt since.
LockOutPlan planNow(const LockOutSettings& settings, const LockOutPlan& before) {
    LockOutPlan plan = before;
    const LockOutPlan now = planLockOut(settings);
    const auto add = [](std::vector<std::string>& to, const std::vector<std::string>& from) {
        for (const std::string& unit : from)
            if (std::ranges::find(to, unit) == to.end()) to.push_back(unit);
    };
    add(plan.maskedUnits, now.maskedUnits);
    add(plan.startedUnits, now.startedUnits);
    if (now.daemon) plan.daemon = now.daemon;
    return plan;
}

RecoveredDomain conclude(const JournalDomain& domain) {
    RecoveredDomain result{domain.title, domain.uuid, "lost", domain.cause, 0};
    if (domain.phase == DomainPhase::Adopted) result.outcome = "upgraded";
    if (domain.phase == DomainPhase::Adopted && domain.old.isAlive()) {
        result.oldQemuLeft = true;
        result.cause = oldQemuLeftText(domain);
    }
    if (domain.phase == DomainPhase::Unchanged) result.outcome = "rolled back";
    if (domain.phase == DomainPhase::Ended) result.outcome = "ended";
    result.pid = domain.living();
    return result;
}

UniqueFd lockOf(const JournalDirectory& directory, bool wait) {
    UniqueFd lock = wait ? directory.waitForLock() : directory.tryLock();
    if (!lock) throw UpgradeRefused("an upgrade or recovery of libvirt domains is under way: wait for its end");
    return lock;
}

/// What no journal tells of: what can be put right becomes part of the journal, as if an upgrade had left it so; of the rest a
/// person is told.
void addOrphans(const RecoverEnvironment& environment, const JournalDirectory& directory, std::optional<UpgradeJournal>& journal,
                RecoverSummary& summary) {
    for (const Orphan& orphan : findOrphans(environment.paths, ManagerCommand(environment.runtimeDirectory))) {
        const auto isIt = [&](const JournalDomain& domain) { return domain.uuid == orphan.domain.uuid; };
        if (journal && std::ranges::any_of(journal->domains, isIt)) continue;
        if (!orphan.remedy.empty()) {
            summary.domains.push_back(
                {orphan.domain.title, orphan.domain.uuid, "lost", orphan.what + ": " + orphan.remedy, orphan.qemu});
            continue;
        }
        reserveFiles(environment.paths, directory, {.domain = orphan.domain, .statusXml = orphan.statusXml});
        if (!journal) journal.emplace();
        journal->domains.push_back(orphan.domain);
    }
}

RecoverSummary recoverNow(RecoverEnvironment& environment) {
    const JournalDirectory directory(environment.runtimeDirectory);
    const UniqueFd lock = lockOf(directory, environment.wait);
    std::optional<UpgradeJournal> journal = directory.read();
    RecoverSummary summary;
    // A guardian is for one upgrade, which leaves a journal when there is something to do.
    try {
        if (!environment.inheritedLock) addOrphans(environment, directory, journal, summary);
    } catch (const std::exception& error) {  // No reason to leave what the journal tells of.
        summary.warnings.push_back(std::string("domains whose QEMU libvirt does not know were not looked for: ") + error.what());
    }
    if (!journal) {
        summary.nothing = summary.domains.empty();
        return summary;
    }
    for (JournalDomain& domain : journal->domains)
        if (domain.phase == DomainPhase::Prepared) domain.phase = DomainPhase::Unchanged;
    // What cannot be written is no reason to let libvirt in before all are settled: with a guest of which it does not know the
    // QEMU, it might be told to start that domain again. Another recovery would find out anew what the journal does not say.
    const auto keep = [&](const std::function<void()>& write) {
        try {
            write();
        } catch (const std::exception& error) {
            summary.warnings.push_back(std::string("the journal could not be kept up to date: ") + error.what());
        }
    };
    std::string problem;
    if (std::ranges::any_of(journal->domains, &JournalDomain::unfinished)) {
        const ManagerCommand manager(environment.runtimeDirectory);
        if (!environment.inheritedLock) {
            journal->lockOut = planNow(environment.lockOut, journal->lockOut);
            keep([&] { directory.write(*journal); });
        }
        LockOut lockOut(environment.lockOut, journal->lockOut, std::move(environment.inheritedLock));
        for (JournalDomain& domain : journal->domains) {
            if (!domain.unfinished()) continue;
            settle(environment.paths, directory, manager, domain);
            keep([&] { directory.write(*journal); });
        }
        problem = lockOut.release();
    } else {
        problem = letLibvirtIn(environment.lockOut, journal->lockOut, std::move(environment.inheritedLock));
    }
    if (!problem.empty()) summary.warnings.push_back(problem);
    for (const JournalDomain& domain : journal->domains) {
        summary.domains.push_back(conclude(domain));
        releaseFiles(environment.paths, directory, domain);
    }
    journal->keepLost();
    keep([&] { directory.keep(*journal); });
    return summary;
}

}  // namespace

void startGuardian(const std::string& runtimeDirectory, int lock) {
    constexpr int number = 3;
    const std::string program = std::filesystem::read_symlink("/proc/self/exe");
    std::vector<std::string> environment;
    for (char** entry = environ; *entry; ++entry) environment.emplace_back(*entry);
    startDetached({.program = program,
                   .argv = {program, "--runtime-dir", runtimeDirectory, "recover", "--guard", std::to_string(number)},
                   .environment = environment,
                   .directory = "/",
                   .descriptors = {{STDERR_FILENO, STDERR_FILENO}, {number, lock}}});
}

ExitCode RecoverSummary::exitCode() const {
    const bool needed =
        std::ranges::any_of(domains, [](const RecoveredDomain& one) { return one.outcome == "lost" || one.oldQemuLeft; });
    return needed ? ExitCode::Lost : ExitCode::Done;
}

RecoverSummary recover(RecoverEnvironment environment) {
    const auto deadline = std::chrono::steady_clock::now() + guardianTimeout;
    for (;;) {
        try {
            return recoverNow(environment);
        } catch (const LockedOutAlready&) {
            // The guardian of a killed upgrade has libvirt's lock and waits for the one that we had until now: it is the one to
            // recover.
            if (std::chrono::steady_clock::now() > deadline) throw;
            std::this_thread::sleep_for(guardianPause);
        }
    }
}

void forgetLost(const RecoverEnvironment& environment, const std::string& name) {
    const JournalDirectory directory(environment.runtimeDirectory);
    const UniqueFd lock = lockOf(directory, environment.wait);
    std::optional<UpgradeJournal> journal = directory.read();
    const auto isIt = [&](const JournalDomain& domain) {
        return domain.phase == DomainPhase::Lost && (domain.uuid == name || domain.title == name);
    };
    if (!journal || std::erase_if(journal->domains, isIt) == 0) throw UpgradeRefused("there is no lost domain '" + name + "'");
    directory.keep(*journal);
}

json toJson(const RecoverSummary& summary) {
    return {{"domains", summary.domains},
            {"warnings", summary.warnings},
            {"nothing", summary.nothing},
            {"exitCode", static_cast<int>(summary.exitCode())}};
}

std::string recoverText(const RecoverSummary& summary) {
    std::string text = summary.nothing ? "nothing to recover\n" : "";
    for (const RecoveredDomain& one : summary.domains) {
        text += one.domain + ": " + one.outcome;
        if (one.pid != 0) text += "   pid " + std::to_string(one.pid);
        text += "\n";
        if (!one.cause.empty()) text += "  cause: " + one.cause + "\n";
    }
    for (const std::string& warning : summary.warnings) text += "warning: " + warning + "\n";
    return text;
}

}  // namespace vh
