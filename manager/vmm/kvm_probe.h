// Can KVM run a guest on this host, really? `/dev/kvm` opening is not an answer: nested hosts exist where it opens and guests
// die.
#pragma once

#include <string>

namespace vh {

struct KvmAbility {
    enum class Guests {
        None,
        Plain,  ///< Guests of integer instructions only (see tests/bare-guest): no Linux, no ordinary firmware.
        All,
    } guests = Guests::None;
    std::string why;  ///< Reason when it is not all: `'/dev/kvm': Permission denied`.
};

/// Runs small guests under KVM, for some milliseconds. They execute what firmware and kernels do first: port output in real mode,
/// protected mode, and then an instruction that hardware executes and incomplete emulations of it do not (shlx, which Linux's own
/// decompressor is compiled to on some distributions; KVM answers with an emulation failure on hosts whose hypervisor emulates
/// nested guests in software).
KvmAbility probeKvm();

}  // namespace vh
