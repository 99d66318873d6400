// What can be wrong in the CPR channel: each fault is shown to two QEMUs alone (stock_loss_test.cpp) and in handovers of ours
// (handover_loss_test.cpp, vmm_exec_test.cpp).
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/cpr_tamperer.h"
#include "tests/support/vm_fixture.h"
#include "vmm-shim/cpr_state.h"

namespace vh::test {

using Change = CprTamperer::Change;

/// What a new QEMU does (Workspace::impostor) that shares no memory but what its backends say.
inline std::string withoutAuxRamShare() {
    return "for argument; do shift; set -- \"$@\" \"${argument%,aux-ram-share=on}\"; done\nexec " + newQemu() + " \"$@\"";
}

/// Of 32 MiB in place of 16.
inline std::string withLargerVideoMemory() {
    return "exec " + newQemu() + " \"$@\" -global VGA.vgamem_mb=32";
}

/// The entry whose name ends so, and its descriptor's place.
inline std::size_t entryOf(const CprState& state, const std::string& suffix) {
    const auto found = std::ranges::find_if(state.fds, [&](const CprFd& entry) { return entry.name.ends_with(suffix); });
    EXPECT_NE(found, state.fds.end()) << "nothing ends in '" << suffix << "'";
    return static_cast<std::size_t>(found - state.fds.begin());
}

/// A change to the state that is no change to its form.
inline Change inState(const std::function<void(CprState&, std::vector<UniqueFd>&)>& change) {
    return [change](CprTraffic& traffic) {
        CprState state = decodeCprState(traffic.bytes);
        change(state, traffic.descriptors);
        traffic.bytes = encodeCprState(state).bytes;
    };
}

inline void nothing(CprTraffic&) {}

inline const Change removedEntry = inState([](CprState& state, std::vector<UniqueFd>& descriptors) {
    const auto at = static_cast<std::ptrdiff_t>(entryOf(state, "ram0"));
    state.fds.erase(state.fds.begin() + at);
    descriptors.erase(descriptors.begin() + at);
});

inline const Change renamedEntry =
    inState([](CprState& state, std::vector<UniqueFd>&) { state.fds[entryOf(state, "ram0")].name = "ram1"; });

inline const Change swappedDescriptors = inState([](CprState& state, std::vector<UniqueFd>& descriptors) {
    std::swap(descriptors[entryOf(state, "vga.rom")], descriptors[entryOf(state, "etc/table-loader")]);  // 64 KiB each
});

inline const Change anotherFile = inState([](CprState& state, std::vector<UniqueFd>& descriptors) {
    UniqueFd& descriptor = descriptors[entryOf(state, "ram0")];
    struct stat status {};
    ::fstat(descriptor.get(), &status);
    descriptor = UniqueFd(::memfd_create("somebody-elses", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(descriptor.get(), status.st_size), 0);
    ASSERT_EQ(::fchmod(descriptor.get(), 0666), 0);
});

inline const Change readOnlyDescriptor = inState([](CprState& state, std::vector<UniqueFd>& descriptors) {
    UniqueFd& descriptor = descriptors[entryOf(state, "vga.vram")];
    descriptor = UniqueFd(::open(("/proc/self/fd/" + std::to_string(descriptor.get())).c_str(), O_RDONLY | O_CLOEXEC));
});

inline void badServiceByte(CprTraffic& traffic) {
    traffic.bytes[encodeCprState(decodeCprState(traffic.bytes)).serviceBytes.front()] = 'X';
}

inline void missingDescriptor(CprTraffic& traffic) {
    traffic.descriptors.pop_back();
}

inline void truncated(CprTraffic& traffic) {
    traffic.bytes.resize(encodeCprState(decodeCprState(traffic.bytes)).serviceBytes.back());
}

inline void goesOn(CprTraffic& traffic) {
    traffic.bytes += "and more";
}

}  // namespace vh::test
