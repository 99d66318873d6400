// From a VmDefinition back to YAML text.
#pragma once

#include <string>

#include "config/vm_definition.h"

namespace vh {

/// Text that parses to an equal definition: every key that has a value, in blocks.
std::string toYaml(const VmDefinition& definition);

}  // namespace vh
