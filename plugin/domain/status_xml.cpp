#include "plugin/domain/status_xml.h"

#include <sys/stat.h>

#include <filesystem>
#include <sstream>
#include <stdexcept>

#include "plugin/domain/qemu_option.h"
#include "plugin/domain/xml_tree.h"
#include "vmm-shim/file.h"
#include "vmm-shim/text.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

using pugi::xml_node;

template <typename Number>
Number numberOf(const std::string& text, const std::string& what) {
    const std::optional<Number> value = wholeNumber<Number>(text);
    if (!value) throw std::runtime_error("status XML: " + what + " is '" + text + "', expected a number");
    return *value;
}

std::string required(std::string text, const std::string& what) {
    if (text.empty()) throw std::runtime_error("status XML without " + what);
    return text;
}

xml_node requiredChild(xml_node parent, const char* name) {
    const xml_node child = parent.child(name);
    if (!child) throw std::runtime_error("status XML without <" + std::string(name) + ">");
    return child;
}

/// src/qemu/qemu_domain.c:qemuDomainObjPrivateXMLFormatBlockjobs and src/conf/domain_conf.c:virDomainDiskDefFormatMirror, 11.3.0.
bool hasBlockJob(xml_node status) {
    const xml_node jobs = status.child("blockjobs");
    if (attribute(jobs, "active") == "yes" || jobs.child("blockjob")) return true;
    for (xml_node disk : status.child("domain").child("devices").children("disk"))
        if (disk.child("mirror")) return true;
    return false;
}

/// src/qemu/qemu_domainjob.c:qemuDomainObjPrivateXMLFormatJob: there is an element only while there is a job (11.3.0). A backup
/// goes on without one, qemuDomainObjPrivateXMLFormatBackups.
bool hasJob(xml_node status) {
    return status.child("job") || status.child("backups").child("domainbackup");
}

void rewriteThreads(xml_node status, const std::vector<pid_t>& threads) {
    std::size_t count = 0;
    for (xml_node vcpu : requiredChild(status, "vcpus").children("vcpu")) {
        const auto id = numberOf<std::size_t>(attribute(vcpu, "id"), "the id of a <vcpu>");
        if (id >= threads.size() || threads[id] <= 0)
            throw std::runtime_error("the new QEMU has no vCPU " + std::to_string(id) + ", which the domain has");
        setAttribute(vcpu, "pid", std::to_string(threads[id]));
        ++count;
    }
    if (count != threads.size())
        throw std::runtime_error("the new QEMU has " + std::to_string(threads.size()) + " vCPUs, the domain " +
                                 std::to_string(count));
}

void rewriteFlags(xml_node status, const std::vector<std::string>& flags) {
    xml_node capabilities = requiredChild(status, "qemuCaps");
    capabilities.remove_children();
    for (const std::string& flag : flags) insertChild(capabilities, {}, "flag").append_attribute("name").set_value(flag.c_str());
}

/// A <console> repeats the first <serial>, and has its path in `tty`, too (src/conf/domain_conf.c:virDomainChrDefFormat, 11.3.0).
void rewriteTerminals(xml_node devices, const std::map<std::string, std::string>& terminals) {
    for (xml_node device : devices.children()) {
        if (attribute(device, "type") != "pty") continue;
        const auto terminal = terminals.find("char" + attribute(device.child("alias"), "name"));
        if (terminal == terminals.end()) continue;
        setAttribute(device.child("source"), "path", terminal->second);
        if (device.attribute("tty")) setAttribute(device, "tty", terminal->second);
    }
}

}  // namespace

DomainStatus readStatus(const std::string& xml) {
    const pugi::xml_document document = parseXml(xml, "domstatus");
    const xml_node status = document.document_element();
    const xml_node domain = requiredChild(status, "domain");
    DomainStatus read;
    read.name = required(domain.child("name").text().get(), "a <name>");
    read.uuid = required(domain.child("uuid").text().get(), "a <uuid>");
    read.state = required(attribute(status, "state"), "a state");
    read.pid = numberOf<pid_t>(attribute(status, "pid"), "pid");
    if (read.pid <= 0)
        throw std::runtime_error("status XML of a domain that does not run (pid " + std::to_string(read.pid) + ")");
    const xml_node monitor = requiredChild(status, "monitor");
    if (attribute(monitor, "type") != "unix")
        throw std::runtime_error("status XML: the monitor is of type '" + attribute(monitor, "type") + "', expected 'unix'");
    read.monitorPath = required(attribute(monitor, "path"), "the monitor's path");
    read.emulator = required(domain.child("devices").child("emulator").text().get(), "an <emulator>");
    for (xml_node vcpu : requiredChild(status, "vcpus").children("vcpu"))
        numberOf<unsigned>(attribute(vcpu, "id"), "the id of a <vcpu>");
    read.hasBlockJob = hasBlockJob(status);
    read.hasJob = hasJob(status);
    return read;
}

std::string definitionIn(const std::string& xml) {
    const pugi::xml_document document = parseXml(xml, "domstatus");
    xml_node domain = requiredChild(document.document_element(), "domain");
    domain.remove_child("currentMemory");
    domain.child("clock").remove_attribute("adjustment");
    for (xml_node channel : domain.child("devices").children("channel")) channel.child("target").remove_attribute("state");
    std::ostringstream text;
    domain.print(text, "", pugi::format_raw);
    return text.str();
}

std::string rewriteStatus(const std::string& xml, const StatusChange& change) {
    readStatus(xml);
    // With no flags at all libvirt would take QEMU for one that can do nothing.
    if (change.pid <= 0 || change.emulator.empty() || change.capabilityFlags.empty())
        throw std::runtime_error("a change of the status XML without a pid, an emulator or capability flags");
    const pugi::xml_document document = parseXml(xml, "domstatus");
    const xml_node status = document.document_element();
    setAttribute(status, "pid", std::to_string(change.pid));
    rewriteThreads(status, change.vcpuThreads);
    status.child("domain").child("devices").child("emulator").text().set(change.emulator.c_str());
    rewriteFlags(status, change.capabilityFlags);
    rewriteTerminals(status.child("domain").child("devices"), change.terminals);
    return printXml(document, xml);
}

std::vector<std::string> capabilityFlags(const std::string& cacheDirectory, const std::string& emulator) {
    struct stat binary = {};
    if (stat(emulator.c_str(), &binary) < 0) throwErrno("stat '" + emulator + "'");
    const std::string remedy = "; ask libvirt for it: virsh domcapabilities --emulatorbin " + shellQuoted(emulator);
    bool isStale = false;
    for (const auto& entry : std::filesystem::directory_iterator(cacheDirectory)) {
        if (entry.path().extension() != ".xml" || !entry.is_regular_file()) continue;
        const pugi::xml_document document = parseXml(readFile(entry.path()), "qemuCaps");
        const xml_node capabilities = document.document_element();
        if (capabilities.child("emulator").text().get() != emulator) continue;
        isStale = std::to_string(binary.st_ctime) != capabilities.child("qemuctime").text().get();
        if (isStale) continue;
        std::vector<std::string> flags;
        for (xml_node flag : capabilities.children("flag")) flags.push_back(attribute(flag, "name"));
        if (flags.empty()) throw std::runtime_error("libvirt's capabilities of '" + emulator + "' are empty" + remedy);
        return flags;
    }
    if (isStale)
        throw std::runtime_error("libvirt's capabilities of '" + emulator + "' are of an older file under that name" + remedy);
    throw std::runtime_error("libvirt has no capabilities of '" + emulator + "' yet" + remedy);
}

}  // namespace vh
