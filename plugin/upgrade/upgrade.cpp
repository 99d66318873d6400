#include "plugin/upgrade/upgrade.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

#include "plugin/host/command.h"
#include "plugin/host/libvirt_connection.h"
#include "plugin/upgrade/domain_handover.h"
#include "plugin/upgrade/readiness.h"
#include "plugin/upgrade/recover.h"
#include "vmm-shim/file.h"
#include "vmm-shim/json_text.h"
#include "vmm-shim/text.h"
#include "vmm-shim/thread.h"

namespace vh {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(DomainOutcome, domain, uuid, outcome, cause, remedy, oldVersion, newVersion, pid,
                                   stopToResumeMs, notes, oldQemuLeft)

namespace {

using nlohmann::json;
using std::chrono::milliseconds, std::chrono::steady_clock;

// For a busy host, on which libvirt tries an emulator out that it does not know yet. Guests run on.
constexpr milliseconds libvirtTimeout{120'000};
constexpr milliseconds returnDeadline{120'000};
constexpr milliseconds returnPause{50};
constexpr milliseconds endDeadline{5'000};
// Longer than all deadlines of the manager's own states together (manager/handover/handover_table.h), but for three steps'.
constexpr milliseconds handoverDeadline{300'000};

double since(steady_clock::time_point began) {
    return std::chrono::duration<double, std::milli>(steady_clock::now() - began).count();
}

/// One domain on its way.
struct Candidate {
    DomainPlan plan;
    std::string state;  ///< As libvirt had it before.
    DomainOutcome outcome;
};

class Upgrade {
 public:
    Upgrade(const UpgradeRequest& request, const UpgradeEnvironment& environment)
        : request_(request),
          environment_(environment),
          directory_(environment.runtimeDirectory),
          manager_(environment.runtimeDirectory) {}

    UpgradeSummary run() {
        const UniqueFd lock = directory_.tryLock();
        if (!lock) throw UpgradeRefused("another upgrade or recovery of libvirt domains is under way: wait for its end");
        refuseUnfinished();
        prepare();
        if (request_.dryRun || candidates_.empty()) return summary();
        reserve();
        if (candidates_.empty()) return summary();
        exchange();
        return summary();
    }

 private:
    void refuseUnfinished() const {
        const std::optional<UpgradeJournal> left = directory_.read();
        if (!left) return;
        for (const JournalDomain& domain : left->domains)
            if (domain.phase == DomainPhase::Lost)
                throw UpgradeRefused("domain '" + domain.title + "' was lost by an earlier upgrade: " + domain.cause +
                                     ". When it is in order again: 'virt-handover libvirt recover --forget " + domain.uuid + "'");
        throw UpgradeRefused("an earlier upgrade was interrupted: 'virt-handover libvirt recover' finishes or undoes it");
    }

    bool interrupted() const {
        pollfd entry{environment_.interrupts, POLLIN, 0};
        return environment_.interrupts >= 0 && ::poll(&entry, 1, 0) > 0;
    }

    void end(DomainOutcome outcome) { ended_.push_back(std::move(outcome)); }

    /// Step 1. The connection is closed at the end: libvirt is about to go.
    void prepare() {
        const LibvirtConnection libvirt(environment_.uri, libvirtTimeout);
        std::vector<LibvirtDomain> domains = request_.all ? libvirt.running() : std::vector<LibvirtDomain>();
        for (const std::string& name : request_.domains) domains.push_back(libvirt.find(name));
        std::set<std::string> seen;
        for (const LibvirtDomain& domain : domains) {
            if (interrupted()) throw UpgradeRefused("interrupted");
            if (seen.insert(domain.uuid).second) prepare(libvirt, domain);
        }
    }

    void prepare(const LibvirtConnection& libvirt, const LibvirtDomain& domain) {
        environment_.say("checking domain '" + domain.name + "'");
        const Readiness readiness =
            checkReadiness(libvirt, environment_.paths, domain, {.emulator = request_.emulator, .force = request_.force});
        DomainOutcome outcome{.domain = domain.name,
                              .uuid = domain.uuid,
                              .outcome = request_.all ? "skipped" : "refused",
                              .oldVersion = readiness.running.version,
                              .newVersion = readiness.installed.version,
                              .pid = readiness.status.pid,
                              .notes = readiness.notes};
        if (!readiness.ready()) {
            for (const Obstacle& obstacle : readiness.obstacles) {
                append(outcome.cause, obstacle.what, "; ");
                if (!obstacle.remedy.empty() && outcome.remedy.find(obstacle.remedy) == std::string::npos)
                    append(outcome.remedy, obstacle.remedy, "; ");
            }
            return end(outcome);
        }
        if (request_.all && readiness.runsInstalled()) {
            outcome.cause = "it runs this QEMU already";
            return end(outcome);
        }
        try {
            Candidate candidate{.plan = plan(libvirt, readiness), .state = domain.state, .outcome = outcome};
            candidate.outcome.outcome = request_.dryRun ? "ready" : "refused";
            candidates_.push_back(std::move(candidate));
        } catch (const LibvirtUnreachable&) {
            throw;
        } catch (const std::exception& error) {
            outcome.cause = error.what();
            end(outcome);
        }
    }

    DomainPlan plan(const LibvirtConnection& libvirt, const Readiness& readiness) {
        DomainPlan plan;
        plan.domain.uuid = readiness.domain.uuid;
        plan.domain.title = readiness.domain.name;
        plan.domain.old = ProcessIdentity::of(readiness.status.pid);
        plan.domain.upgrade = ProcessIdentity::of(::getpid());
        plan.domain.emulator = readiness.installed.path;
        plan.domain.capabilityFlags = capabilityFlags(environment_.paths.capabilitiesDirectory, readiness.installed.path);
        plan.statusXml = readiness.statusXml;
        plan.native = libvirt.nativeCommand(readiness.domain.uuid);
        dropOldRecord(plan.domain);
        return plan;
    }

    /// The manager may know this domain from an earlier upgrade, since when it may have been shut down and started again.
    void dropOldRecord(const JournalDomain& domain) const {
        const Settled before = manager_.settle(domain.uuid);
        if (before.state == Settled::State::Dead) manager_.forget(domain.uuid);
        if (before.state == Settled::State::Running && before.process != domain.old)
            throw std::runtime_error("libvirt says that its QEMU is pid " + std::to_string(domain.old.pid) +
                                     ", and an earlier upgrade left it on pid " + std::to_string(before.process.pid) +
                                     ", which lives: two QEMUs of one domain. A person must look");
        if (!before.left.empty()) throw std::runtime_error(before.left);
    }

    /// Step 2.
    void reserve() {
        std::erase_if(candidates_, [this](Candidate& candidate) {
            try {
                reserveFiles(environment_.paths, directory_, candidate.plan);
                return false;
            } catch (const std::exception& error) {
                candidate.outcome.cause = error.what();
                candidate.outcome.remedy = "free space under /run";
                end(candidate.outcome);
                return true;
            }
        });
    }

    /// Steps 3 to 5.
    void exchange() {
        journal_.lockOut = planLockOut(environment_.lockOut);
        for (const Candidate& candidate : candidates_) journal_.domains.push_back(candidate.plan.domain);
        directory_.write(journal_);
        const auto began = steady_clock::now();
        environment_.say("stopping libvirt; guests run on");
        try {
            LockOut lockOut(environment_.lockOut, journal_.lockOut);
            startGuardian(environment_.runtimeDirectory, lockOut.descriptor());
            handOverAll();
            environment_.say("starting libvirt again");
            if (const std::string problem = lockOut.release(); !problem.empty()) warnings_.push_back(problem);
        } catch (const std::exception& error) {
            for (Candidate& candidate : candidates_)
                if (candidate.outcome.cause.empty()) candidate.outcome.cause = error.what();
        }
        awaitLibvirt(began);
        tidyUp();
    }

    void handOverAll() {
        std::atomic<std::size_t> next = 0;
        const auto work = [&] {
            for (std::size_t i; (i = next++) < candidates_.size();) {
                Candidate& candidate = candidates_[i];
                JournalDomain& domain = journal_.domains[i];
                try {
                    handOver(candidate, domain);
                } catch (const std::exception& error) {
                    // Whatever one domain brings about is not the end of the others: their guests are under way, and libvirt is
                    // away.
                    giveUp(candidate, domain, error.what());
                }
            }
        };
        std::vector<std::jthread> workers;
        const std::size_t count = std::clamp<std::size_t>(request_.parallel, 1, candidates_.size());
        for (std::size_t i = 0; i < count; ++i) workers.push_back(threadWithoutSignals(work));
    }

    void handOver(Candidate& candidate, JournalDomain& domain) {
        DomainOutcome& outcome = candidate.outcome;
        JournalDomain now = domain;
        try {
            if (interrupted()) throw std::runtime_error("interrupted before it began");
            AdoptOrder order = makeOrder(environment_.paths, candidate.plan, outcome.oldVersion);
            order.pauseBudgetMs = static_cast<std::uint64_t>(request_.pauseBudget.count());
            order.stepDeadlineMs = static_cast<std::uint64_t>(request_.stepDeadline.count());
            replaceFromReserved(directory_.reservedSpecFile(domain.uuid), directory_.specFile(domain), toJson(order).dump(2));
            now.phase = DomainPhase::HandingOver;
            set(domain, now);
        } catch (const std::exception& error) {
            outcome.cause = error.what();
            outcome.remedy = obstacleOf(error).remedy;
            now.phase = DomainPhase::Unchanged;
            noticeItsEnd(now);
            note(domain, now);
            if (now.phase == DomainPhase::Ended) conclude(now, outcome);
            return;
        }
        environment_.say("handing over domain '" + domain.title + "'");
        outcome.outcome.clear();
        try {
            const auto report = manager_.adopt(directory_.specFile(domain), handoverDeadline + 3 * request_.stepDeadline,
                                               environment_.interrupts);
            if (report) takeReport(*report, now, outcome);
        } catch (const std::exception& error) {
            outcome.cause = error.what();
        }
        if (now.phase == DomainPhase::Committed) {
            note(domain, now);
            finish(environment_.paths, directory_, now);
        }
        if (now.unfinished()) settle(environment_.paths, directory_, manager_, now);
        if (outcome.cause.empty() && interrupted()) outcome.cause = "interrupted";
        noticeItsEnd(now);
        note(domain, now);
        conclude(now, outcome);
    }

    /// Finds out what became of a domain whose part ended as nobody has foreseen.
    void giveUp(Candidate& candidate, JournalDomain& domain, const std::string& cause) {
        JournalDomain now = domain;
        candidate.outcome.outcome.clear();
        candidate.outcome.cause = cause;
        if (now.unfinished())
            settle(environment_.paths, directory_, manager_, now);
        else if (now.phase == DomainPhase::Prepared)
            now.phase = DomainPhase::Unchanged;
        note(domain, now);
        conclude(now, candidate.outcome);
    }

    static void conclude(const JournalDomain& domain, DomainOutcome& outcome) {
        switch (domain.phase) {
            case DomainPhase::Adopted:
                outcome.outcome = "upgraded";
                outcome.cause.clear();
                outcome.remedy.clear();
                outcome.pid = domain.new_.pid;
                // Found out where no report has said it.
                if (!outcome.oldQemuLeft && domain.old.isAlive()) {
                    outcome.oldQemuLeft = true;
                    outcome.notes.push_back(oldQemuLeftText(domain));
                }
                return;
            case DomainPhase::Unchanged:
                if (outcome.outcome.empty()) outcome.outcome = "rolled back";
                if (outcome.cause.empty()) outcome.cause = "the manager ended before it was done";
                if (outcome.cause.find("Permission denied") != std::string::npos && Process(domain.old.pid).isConfined())
                    outcome.remedy =
                        "a security profile confines this domain; 'journalctl -k' names what it does not let the new QEMU do";
                return;
            case DomainPhase::Prepared:
            case DomainPhase::HandingOver:
            case DomainPhase::Committed:
            case DomainPhase::Lost:
                break;
            case DomainPhase::Ended:
                outcome.outcome = "ended";
                outcome.pid = 0;
                outcome.cause = domain.cause;
                outcome.remedy.clear();
                return;
        }
        outcome.outcome = "lost";
        outcome.remedy.clear();
        outcome.pid = domain.living();
        append(outcome.cause, domain.cause, ": ");
    }

    /// Throws when it cannot be written: nothing may begin then.
    void set(JournalDomain& domain, const JournalDomain& now) {
        const std::lock_guard guard(mutex_);
        domain = now;
        directory_.write(journal_);
    }

    /// The journal is for another process to go by, which asks the manager anyway: what cannot be written any more does not stop
    /// us.
    void note(JournalDomain& domain, const JournalDomain& now) {
        try {
            set(domain, now);
        } catch (const std::exception& error) {
            const std::lock_guard guard(mutex_);
            warnings_.emplace_back(error.what());
        }
    }

    /// Step 5: it is done when libvirt says so.
    void awaitLibvirt(steady_clock::time_point began) {
        const auto deadline = steady_clock::now() + returnDeadline;
        for (;;) {
            try {
                const LibvirtConnection libvirt(environment_.uri, returnDeadline);
                libvirt.version();
                awayMs_ = since(began);
                for (std::size_t i = 0; i < candidates_.size(); ++i) verify(libvirt, candidates_[i], journal_.domains[i]);
                return;
            } catch (const LibvirtUnreachable& error) {
                if (steady_clock::now() >= deadline) {
                    unreachable_ = true;
                    warnings_.push_back(std::string("libvirt did not come back: ") + error.what() + "; guests run on, start it");
                    return;
                }
                std::this_thread::sleep_for(returnPause);
            }
        }
    }

    static void endIfGone(JournalDomain& domain) {
        // libvirt may tell of its end a moment before it is one.
        const auto deadline = steady_clock::now() + endDeadline;
        while (domain.new_.isAlive() && steady_clock::now() < deadline) std::this_thread::sleep_for(returnPause);
        noticeNewEnded(domain);
    }

    void verify(const LibvirtConnection& libvirt, Candidate& candidate, JournalDomain& domain) {
        if (candidate.outcome.outcome != "upgraded") return;
        try {
            const LibvirtDomain now = libvirt.find(domain.uuid);
            if (now.state != candidate.state)
                throw std::runtime_error("it was " + candidate.state + " before, and libvirt says that it is " + now.state);
            const pid_t pid = readStatus(readFile(environment_.paths.statusFile(domain.title))).pid;
            if (pid != candidate.outcome.pid)
                throw std::runtime_error("libvirt says that its QEMU is pid " + std::to_string(pid) + ", but it is pid " +
                                         std::to_string(candidate.outcome.pid));
        } catch (const LibvirtUnreachable&) {
            throw;
        } catch (const std::exception& error) {
            endIfGone(domain);
            if (domain.phase == DomainPhase::Ended) return conclude(domain, candidate.outcome);
            candidate.outcome.outcome = "lost";
            candidate.outcome.cause = std::string("handed over, but libvirt does not have it as it was: ") + error.what();
        }
    }

    void tidyUp() {
        for (const JournalDomain& domain : journal_.domains) releaseFiles(environment_.paths, directory_, domain);
        journal_.keepLost();
        try {
            directory_.keep(journal_);
        } catch (const std::exception& error) {
            warnings_.emplace_back(error.what());
        }
    }

    UpgradeSummary summary() {
        for (Candidate& candidate : candidates_) end(candidate.outcome);
        std::ranges::sort(ended_, {}, &DomainOutcome::domain);
        return {ended_, awayMs_, warnings_, unreachable_};
    }

    const UpgradeRequest& request_;
    const UpgradeEnvironment& environment_;
    const JournalDirectory directory_;
    const ManagerCommand manager_;
    std::vector<Candidate> candidates_;
    std::vector<DomainOutcome> ended_;
    std::mutex mutex_;  ///< Workers share the journal and the warnings.
    UpgradeJournal journal_;
    std::vector<std::string> warnings_;
    std::optional<double> awayMs_;
    bool unreachable_ = false;
};

}  // namespace

void takeReport(const HandoverReport& report, JournalDomain& domain, DomainOutcome& outcome) {
    const std::string_view end = report.outcomeText();
    outcome.cause = report.cause;
    outcome.remedy = report.remedy;
    outcome.stopToResumeMs = report.stopToResumeMs;
    outcome.notes.insert(outcome.notes.end(), report.warnings.begin(), report.warnings.end());
    if (end == outcomeName(State::Refused)) {
        outcome.outcome = end;  // Also when another manager is at work on it, so that is asked for.
    } else if (end == outcomeName(State::RolledBack)) {
        domain.phase = DomainPhase::Unchanged;
        outcome.outcome = end;
    } else if (end == outcomeName(State::Upgraded)) {
        domain.new_ = ProcessIdentity::of(report.new_.pid);
        if (domain.new_.pid != 0) domain.phase = DomainPhase::Committed;
        outcome.oldQemuLeft = report.oldVmmLeft;
    }
}

ExitCode UpgradeSummary::exitCode() const {
    const auto any = [this](const char* end) {
        return std::ranges::any_of(domains, [end](const DomainOutcome& one) { return one.outcome == end; });
    };
    if (any("lost") || std::ranges::any_of(domains, &DomainOutcome::oldQemuLeft)) return ExitCode::Lost;
    if (libvirtUnreachable) return ExitCode::Unreachable;
    if (any("rolled back")) return ExitCode::RolledBack;
    if (any("refused")) return ExitCode::Refused;
    return any("ended") ? ExitCode::Ended : ExitCode::Done;
}

json toJson(const UpgradeSummary& summary) {
    return {{"domains", summary.domains},
            {"libvirtAwayMs", summary.libvirtAwayMs},
            {"warnings", summary.warnings},
            {"exitCode", static_cast<int>(summary.exitCode())}};
}

std::string upgradeText(const UpgradeSummary& summary) {
    std::string text;
    for (const DomainOutcome& one : summary.domains) {
        const std::string& outcome = one.outcome;
        text += one.domain + ": " + outcome;
        if (outcome == "upgraded" || outcome == "ready") text += "   QEMU " + one.oldVersion + " -> " + one.newVersion;
        if (outcome == "upgraded") text += "   pid " + std::to_string(one.pid);
        if (one.stopToResumeMs) text += "   paused " + fixed(*one.stopToResumeMs, 1) + " ms (STOP to RESUME)";
        if (outcome == "rolled back") text += "   the guest runs on its old QEMU as before";
        if (outcome == "refused") text += "   nothing was touched";
        if (outcome == "ended") text += "   nothing to recover";
        text += "\n";
        if (!one.cause.empty()) text += "  cause: " + one.cause + "\n";
        if (!one.remedy.empty()) text += "  remedy: " + one.remedy + "\n";
        for (const std::string& note : one.notes) text += "  note: " + note + "\n";
    }
    if (summary.domains.empty()) text += "no domain is running here\n";
    if (summary.libvirtAwayMs) text += "libvirt was away for " + fixed(*summary.libvirtAwayMs / 1000, 1) + " s\n";
    for (const std::string& warning : summary.warnings) text += "warning: " + warning + "\n";
    return text;
}

UpgradeSummary upgrade(const UpgradeRequest& request, const UpgradeEnvironment& environment) {
    return Upgrade(request, environment).run();
}

}  // namespace vh
