// How guest RAM is backed, as a domain's XML says it, and what the other files of domain_xml.h share.
#pragma once

#include <pugixml.hpp>
#include <string>
#include <vector>

#include "config/obstacle.h"

namespace vh {

/// Why a second QEMU cannot map the guest RAM of this domain; empty when it can.
///
/// libvirt makes a memory-backend-memfd, which QEMU shares unless told otherwise, or a memory-backend-file: with <source
/// type='file'/> a file with a name, which is as good when it is shared; with huge pages a nameless file in a directory, which a
/// second QEMU would make anew, empty (libvirt 11.3.0 src/qemu/qemu_command.c:qemuBuildMemoryBackendProps).
std::string memoryProblem(pugi::xml_node domain);

/// The change after which there is none.
void shareMemory(pugi::xml_node domain);

/// What stands against a handover in the memory of a domain, implicit RAM blocks included.
std::vector<Obstacle> memoryObstacles(pugi::xml_node domain);

}  // namespace vh
