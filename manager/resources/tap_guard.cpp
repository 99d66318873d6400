#include "manager/resources/tap_guard.h"

#include "manager/process/descriptors.h"
#include "manager/resources/tap_settings.h"
#include "vmm-shim/proc.h"

namespace vh {

void readTapSettings(AdoptedVm& vm, pid_t old) {
    for (AdoptedVm::Descriptor& descriptor : vm.descriptors)
        if (descriptor.tap) descriptor.settings = tapSettingsOf(Process(old).take(descriptor.of).get());
}

TapGuard::TapGuard(const AdoptedVm& vm, pid_t old) {
    for (const AdoptedVm::Descriptor& descriptor : vm.descriptors)
        if (descriptor.tap) taps_.push_back({Process(old).take(descriptor.of), descriptor.settings});
}

void TapGuard::restore() const {
    for (const Tap& tap : taps_)
        if (tapSettingsOf(tap.fd.get()) != tap.settings) setTap(tap.fd.get(), tap.settings);
}

}  // namespace vh
