// Readiness of a running domain for a handover: the obstacles, and what helps.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "plugin/domain/domain_xml.h"
#include "plugin/domain/status_xml.h"
#include "plugin/host/emulator.h"
#include "plugin/host/host_paths.h"
#include "plugin/host/libvirt_connection.h"

namespace vh {

struct ReadinessQuestion {
    std::string emulator;  ///< The new one; empty for the one that the domain's XML names.
    bool force = false;    ///< Untested versions are a note only.
};

struct Readiness {
    LibvirtDomain domain;
    std::vector<Obstacle> obstacles;
    std::vector<std::string> notes;
    EmulatorIdentity running;    ///< Emulator that it runs.
    EmulatorIdentity installed;  ///< Emulator that it would run.
    DomainStatus status;
    std::string statusXml;

    bool ready() const { return obstacles.empty(); }
    /// True when it runs the installed one; false also when neither build ids nor versions tell.
    bool runsInstalled() const;
};

/// Asks libvirt, /proc and the new emulator; changes nothing but libvirt's cache of emulators. What fails is an obstacle.
Readiness checkReadiness(const LibvirtConnection& libvirt, const HostPaths& paths, const LibvirtDomain& domain,
                         const ReadinessQuestion& question);

nlohmann::json toJson(const Readiness& readiness);

/// A line for each domain, and below it what is in the way.
std::string readinessText(const std::vector<Readiness>& domains);

}  // namespace vh
