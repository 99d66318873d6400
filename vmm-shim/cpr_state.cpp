#include "vmm-shim/cpr_state.h"

#include <set>
#include <unordered_set>
#include <utility>

#include "vmm-shim/bytes.h"

namespace vh {
namespace {

constexpr std::uint32_t cprMagic = 0x51435052;  // "QCPR"
constexpr std::uint32_t cprVersion = 1;
constexpr std::uint8_t elementFollows = 1;
constexpr std::uint8_t listEnds = 0;
constexpr std::uint8_t serviceByte = ' ';
constexpr std::uint8_t subsectionFollows = 5;  // QEMU_VM_SUBSECTION
const std::string vfioDevicesName = "CprState/vfio devices";

/// The byte before each element of a QLIST.
bool anotherElement(ByteReader& reader, const char* what) {
    const std::uint8_t mark = reader.u8(what);
    if (mark > elementFollows)
        throw DecodeError(reader.offset() - 1, std::string(what) + " should be 0 or 1 and is " + std::to_string(mark));
    return mark == elementFollows;
}

std::string cprName(ByteReader& reader, const char* what) {
    const std::size_t at = reader.offset();
    std::string name = reader.nulString(maxCprNameLength, what);
    checkName(at, name, what);
    return name;
}

}  // namespace

CprState decodeCprState(std::string_view bytes) {
    if (bytes.size() > maxCprStateBytes)
        throw DecodeError(maxCprStateBytes, "a CPR state of " + std::to_string(bytes.size()) + " bytes");
    ByteReader reader(bytes);
    if (reader.be32("magic") != cprMagic) throw DecodeError(0, "not a CPR state: it does not begin with 'QCPR'");
    if (const std::uint32_t found = reader.be32("version"); found != cprVersion)
        throw DecodeError(4, "CPR state version " + std::to_string(found) + "; 1 is known");
    CprState state;
    std::unordered_set<std::string_view> seen;  // Name and id of each entry, as they stand in the bytes.
    while (anotherElement(reader, "mark of a descriptor entry")) {
        const std::size_t at = reader.offset();
        CprFd entry;
        entry.name = cprName(reader, "name of a descriptor entry");
        entry.id = static_cast<std::int32_t>(reader.be32("id of a descriptor entry"));
        const std::string_view key = bytes.substr(at, reader.offset() - at);
        if (reader.peek() != serviceByte) reader.expect(serviceByte, ("service byte of '" + entry.name + "'").c_str());
        reader.take(1, "service byte");
        if (!seen.insert(key).second)
            throw DecodeError(at, "'" + entry.name + "' with id " + std::to_string(entry.id) + " comes twice");
        if (state.fds.size() == maxCprEntries) throw DecodeError(at, "more than " + std::to_string(maxCprEntries) + " entries");
        state.fds.push_back(std::move(entry));
    }
    if (reader.atEnd()) return state;
    reader.expect(subsectionFollows, "byte after the descriptor entries");
    const std::size_t nameAt = reader.offset();
    if (const std::string name = reader.shortString("name of a subsection"); name != vfioDevicesName)
        throw DecodeError(nameAt, "unknown subsection '" + name + "'");
    if (const std::uint32_t found = reader.be32("version of the vfio devices"); found != 1)
        throw DecodeError(reader.offset() - 4, "version " + std::to_string(found) + " of the vfio devices; 1 is known");
    state.vfioDevices.emplace();
    std::set<std::string> devices;
    while (anotherElement(reader, "mark of a vfio device")) {
        const std::size_t at = reader.offset();
        CprVfioDevice device;
        device.name = cprName(reader, "name of a vfio device");
        device.devid = static_cast<std::int32_t>(reader.be32("devid of a vfio device"));
        device.ioas_id = reader.be32("ioas_id of a vfio device");
        device.hwpt_id = reader.be32("hwpt_id of a vfio device");
        if (!devices.insert(device.name).second) throw DecodeError(at, "vfio device '" + device.name + "' comes twice");
        if (state.vfioDevices->size() == maxCprEntries)
            throw DecodeError(at, "more than " + std::to_string(maxCprEntries) + " vfio devices");
        state.vfioDevices->push_back(std::move(device));
    }
    if (!reader.atEnd()) reader.fail(std::to_string(reader.left()) + " bytes after the end of the CPR state");
    return state;
}

EncodedCprState encodeCprState(const CprState& state) {
    ByteWriter writer;
    EncodedCprState encoded;
    writer.be32(cprMagic);
    writer.be32(cprVersion);
    for (const CprFd& entry : state.fds) {
        writer.u8(elementFollows);
        writer.nulString(entry.name);
        writer.be32(static_cast<std::uint32_t>(entry.id));
        encoded.serviceBytes.push_back(writer.offset());
        writer.u8(serviceByte);
    }
    writer.u8(listEnds);
    if (state.vfioDevices) {
        writer.u8(subsectionFollows);
        writer.shortString(vfioDevicesName);
        writer.be32(1);
        for (const CprVfioDevice& device : *state.vfioDevices) {
            writer.u8(elementFollows);
            writer.nulString(device.name);
            writer.be32(static_cast<std::uint32_t>(device.devid));
            writer.be32(device.ioas_id);
            writer.be32(device.hwpt_id);
        }
        writer.u8(listEnds);
    }
    encoded.bytes = writer.take();
    return encoded;
}

}  // namespace vh
