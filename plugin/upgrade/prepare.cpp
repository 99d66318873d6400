#include "plugin/upgrade/prepare.h"

#include <stdexcept>

#include "plugin/domain/domain_xml.h"
#include "plugin/domain/qemu_option.h"
#include "plugin/host/command.h"
#include "vmm-shim/file.h"

namespace vh {
namespace {

std::string unifiedDiff(const std::string& before, const std::string& after) {
    const PrivateDirectory scratch("virt-handover");  // A definition may hold passwords.
    const std::string now = scratch.path() + "/now", ready = scratch.path() + "/ready";
    replaceFile(now, before);
    replaceFile(ready, after);
    const CommandResult result = run({.argv = {"diff", "-u", "--label", "now", "--label", "ready", now, ready}});
    if (result.status > 1 || result.timedOut) throw std::runtime_error("'diff' failed: " + result.describe());
    return result.output;
}

}  // namespace

Preparation planPreparation(const LibvirtConnection& libvirt, const LibvirtDomain& domain) {
    if (!domain.persistent)
        throw std::runtime_error("domain '" + domain.name +
                                 "' is transient: it has no definition; change the XML that it is created from");
    const std::string now = libvirt.inactiveXml(domain.uuid);
    Preparation preparation{.xml = makeReady(now), .diff = {}};
    if (preparation.xml != now) preparation.diff = unifiedDiff(now, preparation.xml);
    return preparation;
}

std::string waysToApply(const LibvirtDomain& domain) {
    if (!domain.active()) return "its next start applies it\n";
    // As one word, so that no name looks like an option.
    const std::string name = shellQuoted("--domain=" + domain.name);
    return "it runs as it was started; a power cycle applies the change:\n"
           "  virsh shutdown " +
           name + "\nand when it is off:\n  virsh start " + name +
           "\n"
           "If its memory is a shared memfd already, save and restore through virt-handover's hook does it without a\n"
           "reboot; libvirt does not restore a domain with memory of another kind. See plugin/README.md\n";
}

}  // namespace vh
