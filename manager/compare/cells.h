// The cells of a comparison: every combination of a plan's factors, and the VMs that are started for one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "config/compare_plan.h"
#include "config/vm_definition.h"

namespace vh {

struct Cell {
    VmmPair pair;
    GuestRam ram;
    std::uint64_t pageSizeBytes = 4096;
    unsigned vcpus = 1;
    DeviceSet devices;
    Load load = Load::Memory;
    unsigned vms = 1;

    /// The load writes memory all the time, and tells how fast that goes.
    bool writes() const { return load == Load::Memory; }
};

/// In the order of the plan's lists, RAM first and pairs last.
std::vector<Cell> cellsOf(const ComparePlan& plan);

/// The cells of a VM of the user's own: what the guest can see is as its definition says, so pairs and numbers of VMs are all
/// that is left to vary.
std::vector<Cell> cellsOf(const ComparePlan& plan, const VmDefinition& base);

/// What tells a cell from the others of its plan: `640MiB-4KiB-1cpu-disk+network-memory-1vm-1`, the last number being the pair's.
std::string idOf(const Cell& cell, const ComparePlan& plan);

/// The cell's factors as results.json has them.
nlohmann::json toJson(const Cell& cell);

/// Where the VMs of a comparison live.
struct Workplace {
    std::string directory;      ///< Disks and definition files; short, for the runtime directory with its sockets is in it.
    std::string bridge;         ///< For VMs that have a network.
    std::string addressPrefix;  ///< `10.77.0.`: what the address of VM n starts with; the rest is n + 2.
};

/// The address that VM `number` of a workplace answers echo requests at.
std::string guestAddress(const Workplace& workplace, unsigned number);

/// A VM for a cell: `number` is from 0 and no other VM of the workplace has it. The sandbox is off, for `vmm-exec` needs it so,
/// and all are to be alike.
VmDefinition guestFor(const Cell& cell, const ComparePlan& plan, const Workplace& workplace, MemoryOwner owner, unsigned number);

/// The same for a VM of the user's own; its disks must have been copied to diskCopy().
VmDefinition guestLike(const VmDefinition& base, const Cell& cell, const Workplace& workplace, MemoryOwner owner,
                       unsigned number);
std::string diskCopy(const Workplace& workplace, const std::string& disk, unsigned number);

/// Who has to make a VM's RAM for a design to fit.
MemoryOwner ownerFor(Design design);

}  // namespace vh
