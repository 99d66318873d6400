// The verb `prepare`: a domain's definition, made ready for a handover from its next start on.
#pragma once

#include <string>

#include "plugin/host/libvirt_connection.h"

namespace vh {

struct Preparation {
    std::string xml;   ///< The definition, ready.
    std::string diff;  ///< Change from what it is now, as `diff -u` has it; empty when it is ready already.
};

/// Plans a preparation, and changes nothing. Throws LibvirtError, std::runtime_error.
Preparation planPreparation(const LibvirtConnection& libvirt, const LibvirtDomain& domain);

/// The ways in which a changed definition comes to a running domain.
std::string waysToApply(const LibvirtDomain& domain);

}  // namespace vh
