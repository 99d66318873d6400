// The configurations of a comparison: every combination of a plan's factors, and the VMs that are started for one.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/compare_plan.h"
#include "config/vm_definition.h"
#include "manager/compare/results.h"
#include "manager/vmm/kvm_probe.h"

namespace vh {

/// Fills in the cells, in the order of the plan's lists, RAM first and binary pairs last, with a series for each design and no
/// rounds; the VMMs, the host's accelerator, and notes of what cannot be as the plan has it. What a guest of the user's own can
/// see is as its definition says, so that pairs and numbers of VMs are all that is left to vary. `kvm` says which guests KVM runs
/// here.
void addConfigurations(const ComparePlan& plan, const std::optional<VmDefinition>& own, KvmAbility::Guests kvm, Results& results);

/// The reason why the guest of a cell is not there, and where it comes from; empty when it is.
std::string missingGuest(const ComparePlan& plan, const std::vector<Configuration>& configurations);

/// A title for people: the RAM, the VMMs' versions, and in what else it differs from the others.
std::string titleOf(const Configuration& one, const Results& results);

/// The address that VM `number` of a comparison answers echo requests at.
std::string guestAddress(unsigned number);

/// A VM for a configuration: `number` is from 0 and no other VM in the scratch directory has it. The sandbox is off, for
/// `vmm-exec` needs it so, and all are to be alike.
VmDefinition guestFor(const Configuration& one, const ComparePlan& plan, const std::string& oldBinary,
                      const std::string& scratchDirectory, MemoryOwner owner, unsigned number, bool network);

/// A VM like one of the user's own, whose disks must have been copied to diskCopy().
VmDefinition guestLike(const VmDefinition& own, const std::string& oldBinary, const std::string& scratchDirectory,
                       MemoryOwner owner, unsigned number);
std::string diskCopy(const std::string& scratchDirectory, const std::string& disk, unsigned number);

}  // namespace vh
