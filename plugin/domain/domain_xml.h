// libvirt's domain XML: obstacles to handing a domain over, the change that makes it ready, and its definition as ours. Pure
// functions on text. XML as libvirt 11.3 prints it (docs/formatdomain.rst, docs/drvqemu.rst for qemu:commandline).
#pragma once

#include <string>
#include <vector>

#include "config/obstacle.h"
#include "config/vm_definition.h"

namespace pugi {
class xml_node;
}

namespace vh {

/// Obstacles to a handover in the live XML of a running domain: memory that is not shared, implicit RAM blocks that are not
/// (`aux-ram-share`), devices with processes or sessions of their own (swtpm, virtiofsd, vhost-user, spice, slirp, passt,
/// hostdev, mdev, shmem, ...), by name. Empty when it says nothing against it. Throws std::runtime_error for what is no domain
/// XML.
std::vector<Obstacle> obstacles(const std::string& liveXml);

/// The obstacles that are in the memory of a domain, implicit RAM blocks included.
std::vector<Obstacle> memoryObstacles(pugi::xml_node domain);

/// The same domain, ready for a handover from its next start on: memfd, shared, `-machine aux-ram-share=on`. Leaves all else as
/// it is, and XML that is ready already is returned unchanged. Throws std::runtime_error for what is no domain XML.
std::string makeReady(const std::string& xml);

/// The domain as a definition of ours, as near as the two languages come; what cannot be said is in `lost`, one line each.
struct ImportedDomain {
    VmDefinition definition;
    std::vector<std::string> lost;
};
ImportedDomain importDomain(const std::string& xml);

}  // namespace vh
