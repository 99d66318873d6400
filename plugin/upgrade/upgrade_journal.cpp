#include "plugin/upgrade/upgrade_journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include <nlohmann/json.hpp>

#include "vmm-shim/file.h"
#include "vmm-shim/throw_errno.h"

namespace vh {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ProcessIdentity, pid, startTime)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(StoppedDaemon, program, argv, environment, directory)

namespace {

using nlohmann::json;

constexpr int journalFormat = 1;

json toJson(const LockOutPlan& plan) {
    json value{{"maskedUnits", plan.maskedUnits}, {"startedUnits", plan.startedUnits}};
    if (plan.daemon) value["daemon"] = *plan.daemon;
    return value;
}

LockOutPlan planFrom(const json& value) {
    LockOutPlan plan;
    value.at("maskedUnits").get_to(plan.maskedUnits);
    value.at("startedUnits").get_to(plan.startedUnits);
    if (!value.contains("daemon")) return plan;
    plan.daemon = value.at("daemon").get<StoppedDaemon>();
    if (plan.daemon->argv.empty()) throw std::runtime_error("the stopped daemon has no command line");
    return plan;
}

json toJson(const JournalDomain& domain) {
    return {{"uuid", domain.uuid},
            {"name", domain.title},
            {"phase", name(domain.phase)},
            {"old", domain.old},
            {"new", domain.new_},
            {"emulator", domain.emulator},
            {"capabilityFlags", domain.capabilityFlags},
            {"cause", domain.cause},
            {"upgrade", domain.upgrade}};
}

JournalDomain domainFrom(const json& value) {
    JournalDomain domain;
    value.at("uuid").get_to(domain.uuid);
    value.at("name").get_to(domain.title);
    const std::string phase = value.at("phase");
    if (!valueNamed<DomainPhase>(phase)) throw std::runtime_error("there is no phase '" + phase + "'");
    domain.phase = *valueNamed<DomainPhase>(phase);
    value.at("old").get_to(domain.old);
    value.at("new").get_to(domain.new_);
    value.at("emulator").get_to(domain.emulator);
    value.at("capabilityFlags").get_to(domain.capabilityFlags);
    value.at("cause").get_to(domain.cause);
    if (value.contains("upgrade")) value.at("upgrade").get_to(domain.upgrade);
    // It becomes part of file names.
    if (domain.uuid.size() != 36 || domain.uuid.find_first_not_of("0123456789abcdef-") != std::string::npos)
        throw std::runtime_error("'" + domain.uuid + "' is no UUID");
    return domain;
}

}  // namespace

void UpgradeJournal::keepLost() {
    std::erase_if(domains, [](const JournalDomain& domain) { return domain.phase != DomainPhase::Lost; });
    lockOut = {};
}

JournalDirectory::JournalDirectory(const std::string& runtimeDirectory) : path_(runtimeDirectory + "/libvirt.d") {
    makeDirectories(runtimeDirectory, 0755);
    makeDirectories(path_, 0700);
}

std::string JournalDirectory::specFile(const JournalDomain& domain) const {
    return path_ + "/" + domain.uuid + "." + std::to_string(domain.upgrade.pid) + "-" + std::to_string(domain.upgrade.startTime) +
           ".spec.json";
}

std::optional<UpgradeJournal> JournalDirectory::read() const {
    std::error_code ignored;
    if (!std::filesystem::exists(journalFile(), ignored)) return std::nullopt;
    try {
        const json value = json::parse(readFile(journalFile()));
        if (value.at("format") != journalFormat) throw std::runtime_error("its format is " + value.at("format").dump());
        UpgradeJournal journal;
        journal.lockOut = planFrom(value.at("lockOut"));
        for (const json& domain : value.at("domains")) journal.domains.push_back(domainFrom(domain));
        return journal;
    } catch (const std::exception& error) {
        throw std::runtime_error(
            "cannot understand '" + journalFile() + "': " + error.what() +
            "; it says which domains were being upgraded: compare /proc and 'virsh list' before removing it");
    }
}

void JournalDirectory::write(const UpgradeJournal& journal) const {
    json domains = json::array();
    for (const JournalDomain& domain : journal.domains) domains.push_back(toJson(domain));
    const json value{{"format", journalFormat}, {"lockOut", toJson(journal.lockOut)}, {"domains", domains}};
    // An environment need not be UTF-8. What is replaced is lost for the daemon that is started again, and for nobody else.
    replaceFile(journalFile(), value.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

void JournalDirectory::remove() const {
    if (::unlink(journalFile().c_str()) != 0 && errno != ENOENT) throwErrno("remove '" + journalFile() + "'");
}

UniqueFd JournalDirectory::openLock() const {
    const std::string file = path_ + "/lock";
    UniqueFd fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!fd) throwErrno("open '" + file + "'");
    return fd;
}

UniqueFd JournalDirectory::tryLock() const {
    UniqueFd fd = openLock();
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
    if (errno == EWOULDBLOCK) return {};
    throwErrno("lock '" + path_ + "/lock'");
}

UniqueFd JournalDirectory::waitForLock() const {
    UniqueFd fd = openLock();
    while (::flock(fd.get(), LOCK_EX) != 0)
        if (errno != EINTR) throwErrno("lock '" + path_ + "/lock'");
    return fd;
}

}  // namespace vh
