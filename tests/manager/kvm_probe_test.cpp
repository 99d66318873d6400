#include "manager/vmm/kvm_probe.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/open_descriptors.h"

namespace vh {
namespace {

using testing::HasSubstr;

// Hosts differ in whether KVM runs a guest; that the answer is right is what the system tests show, by starting one.
class KvmProbe : public NoDescriptorLeaks {};

TEST_F(KvmProbe, saysTheSameTwice) {
    const KvmAbility first = probeKvm(), second = probeKvm();
    EXPECT_EQ(first.guests, second.guests);
    EXPECT_EQ(first.why, second.why);
    EXPECT_EQ(first.why.empty(), first.guests == KvmAbility::Guests::All);
}

TEST_F(KvmProbe, namesTheDeviceThatCannotBeOpened) {
    const int device = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (device >= 0) {
        ::close(device);
        GTEST_SKIP() << "needs a host without '/dev/kvm', or a user who may not open it; this one may";
    }
    EXPECT_THAT(probeKvm().why, HasSubstr("'/dev/kvm'"));
}

}  // namespace
}  // namespace vh
