// The verb `prepare`: a domain's definition, made ready for a handover from its next start on.
#pragma once

#include <string>

#include "plugin/host/libvirt_connection.h"

namespace vh {

struct Preparation {
    std::string xml;   ///< The definition, ready.
    std::string diff;  ///< From what it is now, as `diff -u` has it; empty when it is ready already.
};

/// Looks, and changes nothing. Throws LibvirtError, std::runtime_error.
Preparation planPreparation(const LibvirtConnection& libvirt, const LibvirtDomain& domain);

/// How a definition that has been changed comes to a domain that runs.
std::string waysToApply(const LibvirtDomain& domain);

}  // namespace vh
