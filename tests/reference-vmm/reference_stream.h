// The reference VMM's main migration stream, framed as QEMU's (migration/savevm.c, migration/ram.c; 10.0 and 11.1): header,
// configuration, RAM, one device "counter", the end, and the description of the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "tests/reference-vmm/reference_guest.h"
#include "vmm-shim/bytes.h"

namespace vh {

/// What the two ends have agreed on.
struct StreamSettings {
    std::string machine;
    bool ignoreShared = false;  ///< Capability x-ignore-shared.
    bool returnPath = false;
    bool cpr = false;  ///< No RAM is copied at all.
};

/// The three parts that are sent one after another. The first is sent while the guest may run, and all in it stays true.
std::string streamBegin(ReferenceGuest& guest, const StreamSettings& settings);
std::string streamRam(ReferenceGuest& guest, const StreamSettings& settings, std::uint64_t& copiedBytes);
std::string streamEnd(ReferenceGuest& guest);

class IncomingStream {
 public:
    enum class Progress { Waiting, RamLoaded, Complete };

    IncomingStream(ReferenceGuest& guest, StreamSettings settings) : guest_(guest), settings_(std::move(settings)) {}

    void append(const char* bytes, std::size_t length) { bytes_.append(bytes, length); }
    /// Loads what has come, up to the next thing worth telling. Throws std::runtime_error on what cannot be loaded.
    Progress advance();

    /// The peer asked for a return path.
    bool returnPath() const { return returnPath_; }
    /// The device's state, when complete.
    const Counter& counter() const { return counter_; }

 private:
    Progress section(ByteReader& reader);
    void configuration(ByteReader& reader) const;
    void ramSetup(ByteReader& reader);
    void ramPages(ByteReader& reader);

    ReferenceGuest& guest_;
    const StreamSettings settings_;
    std::string bytes_;  ///< Not yet loaded.
    bool begun_ = false;
    bool returnPath_ = false;
    bool ended_ = false;
    std::uint32_t ramId_ = 0;
    Counter counter_;
};

}  // namespace vh
