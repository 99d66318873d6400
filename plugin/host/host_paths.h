// Paths of libvirt's QEMU driver that a handover reads and rewrites (the system instance; src/qemu/qemu_conf.c, 11.3.0).
#pragma once

#include <string>

namespace vh {

struct HostPaths {
    std::string stateDirectory = "/run/libvirt/qemu";
    std::string capabilitiesDirectory = "/var/cache/libvirt/qemu/capabilities";
    std::string logDirectory = "/var/log/libvirt/qemu";
    std::string domainDirectories = "/var/lib/libvirt/qemu";

    // libvirt refuses a domain name with a slash, so that these are single path components (src/conf/domain_conf.c).
    std::string statusFile(const std::string& domain) const { return stateDirectory + "/" + domain + ".xml"; }
    std::string pidFile(const std::string& domain) const { return stateDirectory + "/" + domain + ".pid"; }
    std::string logFile(const std::string& domain) const { return logDirectory + "/" + domain + ".log"; }

    // Files beside those, with endings that libvirt does not read (virDomainObjListLoadAllConfigs takes *.xml).
    std::string reservedStatusFile(const std::string& domain) const { return statusFile(domain) + ".virt-handover"; }
    std::string newPidFile(const std::string& domain) const { return pidFile(domain) + ".virt-handover"; }
};

}  // namespace vh
