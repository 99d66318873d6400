// QEMU's argument list from a definition and the descriptors it inherits: a pure function.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "config/vm_definition.h"
#include "manager/record/adopted_vm.h"
#include "manager/resources/image_header.h"
#include "manager/resources/resources.h"

namespace vh {

enum class Incoming {
    None,       ///< A first start.
    Defer,      ///< Waits for `migrate-incoming`; its monitor answers at once.
    Cpr,        ///< Waits like Defer, and builds its machine only when a CPR state has come in on `incoming/cpr.sock`.
    CprAtOnce,  ///< Waits like Cpr, and for nothing after that: it listens for the migration from then on.
};

struct QemuLaunch {
    const VmDefinition& definition;  ///< Resolved: no alias, no `auto`, a uuid.
    const Resources& resources;
    std::string binary;
    std::string directory;  ///< Directory of this VMM process; see vm_directory.h.
    Incoming incoming = Incoming::None;
    /// Put implicit RAM blocks into memfds, so that CPR can carry them (`aux-ram-share`, QEMU 10.0 and newer).
    bool shareImplicitRam = false;
    /// Backing images by disk, of those that QEMU would not find by itself.
    std::map<std::string, BackingImage> backing = {};
    /// Started only to see what becomes of it, next to the VMM that runs the guest: guest RAM need not be there twice.
    bool rehearsal = false;
};

/// QEMU's arguments; argv[0] is the binary. The VMM does not run the guest until it is told to (`-S`).
std::vector<std::string> qemuCommand(const QemuLaunch& launch);

/// Text of a VMM of this definition, with files in the place of the descriptors that it knows them by (`/dev/fdset/1`).
std::string withFileNames(const std::string& text, const VmDefinition& definition);

/// Arguments like qemuCommand()'s for a VM that another manager started, to take over by CPR: its own, and a second monitor on
/// the listening socket `monitor`, chardev `virt-handover`, which is left to whoever hands it over next.
std::vector<std::string> adoptedCommand(const AdoptedVm& vm, const std::string& binary, const std::string& directory,
                                        int monitor);

/// The set, above those of the command line, of a file that a VMM writes its state to or reads it from; an executed VMM has it as
/// a resource of that name.
constexpr int stateFdset = 1000;
constexpr int shimFdset = stateFdset + 1;  ///< vmm-shim, which an executed VMM begins as.
constexpr const char* execStateResource = "exec/state";

/// Device models named in extra arguments (`-device MODEL,...` or its JSON form), for preflight.
std::vector<std::string> deviceModels(const VmDefinition& definition);

}  // namespace vh
