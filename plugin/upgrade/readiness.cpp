#include "plugin/upgrade/readiness.h"

#include <algorithm>
#include <pugixml.hpp>
#include <stdexcept>

#include "plugin/domain/xml_tree.h"
#include "plugin/upgrade/tested_versions.h"
#include "vmm-shim/file.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/text.h"

namespace vh {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Obstacle, what, remedy)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(EmulatorIdentity, path, version, buildId, replaced)

namespace {

using nlohmann::json;

/// What libvirt wants to know to probe an emulator.
struct MachineKind {
    std::string virtType, architecture, machine;
};

MachineKind machineKind(const std::string& liveXml) {
    const pugi::xml_document document = parseXml(liveXml, "domain");
    const pugi::xml_node domain = document.document_element(), type = domain.child("os").child("type");
    return {attribute(domain, "type"), attribute(type, "arch"), attribute(type, "machine")};
}

void checkStatus(const HostPaths& paths, Readiness& readiness) {
    const std::string file = paths.statusFile(readiness.domain.name);
    readiness.statusXml = readFile(file);
    readiness.status = readStatus(readiness.statusXml);
    if (readiness.status.uuid != readiness.domain.uuid)
        throw std::runtime_error("'" + file + "' is about domain " + readiness.status.uuid);
    if (readiness.status.hasBlockJob)
        readiness.obstacles.push_back({"a block job is under way", "wait for it, or end it with 'virsh blockjob'"});
    if (readiness.status.hasJob)
        readiness.obstacles.push_back({"a job is under way", "wait for it, or end it with 'virsh domjobabort'"});
}

void checkVersions(const std::string& libvirt, const ReadinessQuestion& question, Readiness& readiness) {
    const std::string &from = readiness.running.version, &to = readiness.installed.version;
    if (to.empty()) return;  // Said already.
    if (from.empty())
        throw std::runtime_error("the version of the QEMU that it runs cannot be told from '" + readiness.running.path + "'");
    if (const auto reason = untested(libvirt, from, to)) {
        if (question.force)
            readiness.notes.push_back(*reason + "; forced");
        else
            readiness.obstacles.push_back(
                {*reason,
                 "'--force' tries it nevertheless: try it on a domain first that may be lost; or upgrade libvirt first"});
    }
    if (const auto loss = cannotAfterwards(libvirt, to); loss && !cannotAfterwards(libvirt, from))
        readiness.notes.push_back("afterwards " + *loss);
}

}  // namespace

bool Readiness::runsInstalled() const {
    if (!running.buildId.empty() && !installed.buildId.empty()) return running.buildId == installed.buildId;
    return !running.replaced && !running.version.empty() && running.version == installed.version;
}

Readiness checkReadiness(const LibvirtConnection& libvirt, const HostPaths& paths, const LibvirtDomain& domain,
                         const ReadinessQuestion& question) {
    Readiness readiness;
    readiness.domain = domain;
    // One thing that fails does not hide another one.
    const auto check = [&readiness](const std::string& remedy, auto&& part) {
        try {
            part();
        } catch (const LibvirtUnreachable&) {
            throw;
        } catch (const std::exception& error) {
            readiness.obstacles.push_back({error.what(), remedy});
        }
    };
    if (!domain.active()) {
        readiness.obstacles.push_back({"it is " + domain.state, "nothing to hand over: its next start uses the installed QEMU"});
        return readiness;
    }
    if (domain.state != "running" && domain.state != "paused")
        readiness.obstacles.push_back({"it is " + domain.state, "wait until it runs or is paused"});
    if (!domain.persistent) readiness.notes.emplace_back("it is transient: its definition is gone when it ends, as ever");

    std::string live;
    check("", [&] { live = libvirt.liveXml(domain.uuid); });
    check("", [&] { std::ranges::move(obstacles(live), std::back_inserter(readiness.obstacles)); });
    check("is it a domain of the system instance on this host, and are you root?", [&] { checkStatus(paths, readiness); });
    if (readiness.status.pid > 0)
        check("is its process there, and are you root?", [&] { readiness.running = runningEmulator(readiness.status.pid); });
    const std::string emulator = question.emulator.empty() ? readiness.status.emulator : question.emulator;
    if (emulator.empty()) return readiness;
    check("install it, or name another one with '--to'", [&] { readiness.installed = installedEmulator(emulator); });
    check("the new QEMU must start, and must know this machine type", [&] {
        const MachineKind kind = machineKind(live);
        libvirt.domainCapabilities(emulator, kind.architecture, kind.machine, kind.virtType);
    });
    check("", [&] { checkVersions(libvirt.version(), question, readiness); });
    return readiness;
}

json toJson(const Readiness& readiness) {
    return {{"domain", readiness.domain.name},
            {"uuid", readiness.domain.uuid},
            {"state", readiness.domain.state},
            {"persistent", readiness.domain.persistent},
            {"ready", readiness.ready()},
            {"reasons", readiness.obstacles},
            {"notes", readiness.notes},
            {"pid", readiness.status.pid},
            {"running", readiness.running},
            {"installed", readiness.installed},
            {"runsInstalled", readiness.runsInstalled()}};
}

std::string readinessText(const std::vector<Readiness>& domains) {
    const auto known = [](const std::string& version) { return version.empty() ? "?" : version; };
    Table table({"DOMAIN", "READY", "RUNS", "INSTALLED"});
    for (const Readiness& one : domains) {
        table.add({one.domain.name, one.ready() ? "yes" : "no",
                   known(one.running.version) + (one.runsInstalled() ? "" : " (old)"),
                   known(one.installed.version) + " " + one.installed.path});
        for (const Obstacle& obstacle : one.obstacles)
            table.addBelow("    not ready: " + obstacle.what + "\n" +
                           (obstacle.remedy.empty() ? "" : "        " + obstacle.remedy + "\n"));
        for (const std::string& note : one.notes) table.addBelow("    note: " + note + "\n");
    }
    return table.text();
}

}  // namespace vh
