// Can KVM run a guest on this host, really? `/dev/kvm` opening is not an answer: nested hosts exist where it opens and guests
// die.
#pragma once

#include <string>

namespace vh {

/// Empty when a small guest ran under KVM as it should, else why not: `'/dev/kvm': Permission denied`. Takes some milliseconds.
///
/// The guest executes what firmware and kernels do first: port output in real mode, then protected mode and an instruction that
/// hardware executes and incomplete emulations of it do not (shlx, which Linux's own decompressor is compiled to on some
/// distributions; KVM answers with an emulation failure on hosts whose hypervisor emulates nested guests in software).
std::string whyKvmCannotRun();

}  // namespace vh
