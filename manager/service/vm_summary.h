// What `list`, `show` and `start` say of a VM: values, until they go over D-Bus or to a terminal.
#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "manager/record/last_report.h"
#include "manager/record/ram_section.h"
#include "manager/record/vm_record.h"

namespace vh {

struct VmSummary {
    std::string vm{};
    std::string state{};  ///< Empty where the VMM has to be asked.
    pid_t pid = 0;
    std::string kind{}, version{}, binary{};  ///< The VMM's.
    std::string machine{}, accelerator{}, uuid{};
    std::vector<PassedDevice> passthrough{};
    std::string error{};  ///< Why its record cannot be used; then only `vm` and `state` are known.
};

struct VmDetails {
    VmSummary summary{};
    std::string definitionFile{};
    std::map<std::string, std::string> definition{};  ///< Definition that it was started with, by key.
    std::string directory{};                          ///< Directory of its VMM.
    std::optional<LastReport> lastHandover{};
    std::optional<KeptRamBlocks> ramBlocks{};
    std::optional<VmmRecord> handoverTo{};  ///< A VMM that a handover is bringing up.
};

nlohmann::json toJson(const VmSummary& vm);
nlohmann::json toJson(const VmDetails& vm);

/// The same from the JSON of a manager of any version, for people: what is not as it should be is empty, or `?`.
VmSummary vmSummaryFromJson(const nlohmann::json& value);
VmDetails vmDetailsFromJson(const nlohmann::json& value);

}  // namespace vh
