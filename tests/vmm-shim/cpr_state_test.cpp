#include "vmm-shim/cpr_state.h"

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/golden_twins.h"
#include "vmm-shim/bytes.h"

namespace vh {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

using namespace std::string_literals;

std::string be32(std::uint32_t value) {
    ByteWriter writer;
    writer.be32(value);
    return writer.take();
}

std::string nameField(const std::string& name) {
    return be32(static_cast<std::uint32_t>(name.size() + 1)) + name + "\0"s;
}

std::string entry(const std::string& name, std::uint32_t id = 0) {
    return "\1"s + nameField(name) + be32(id) + " ";
}

std::string device(const std::string& name) {
    return "\1"s + nameField(name) + be32(1) + be32(2) + be32(3);
}

const std::string cprHeader = "QCPR\0\0\0\1"s;
const std::string vfioHead = "\5\25CprState/vfio devices\0\0\0\1"s;  // 25 is octal for 21 characters.

/// What the decoder says about bytes that it does not take.
std::string refusalOfState(const std::string& bytes) {
    try {
        decodeCprState(bytes);
    } catch (const DecodeError& error) {
        EXPECT_LE(error.offset(), bytes.size());
        return error.what();
    }
    return "(accepted)";
}

std::string render(const CprState& state) {
    std::string text;
    for (const CprFd& fd : state.fds) text += "fd " + fd.name + " id " + std::to_string(fd.id) + "\n";
    if (!state.vfioDevices) return text + "no list of vfio devices\n";
    text += std::to_string(state.vfioDevices->size()) + " vfio devices\n";
    for (const CprVfioDevice& vfio : *state.vfioDevices) text += vfio.name + "\n";
    return text;
}

TEST(CprState, readsEveryFieldOfTheWire) {
    CprState expected;
    expected.fds = {{"ram0", 0}, {"0000:00:02.0_interrupt", 7}, {"negative", -1}};
    expected.vfioDevices = {{"vfio0", 1, 2, 3}};
    EXPECT_EQ(decodeCprState(cprHeader + entry("ram0") + entry("0000:00:02.0_interrupt", 7) + entry("negative", 0xffffffff) +
                             "\0"s + vfioHead + device("vfio0") + "\0"s),
              expected);
}

TEST(CprState, tellsNoVfioListFromAnEmptyOne) {
    EXPECT_EQ(decodeCprState(cprHeader + "\0"s).vfioDevices, std::nullopt);
    EXPECT_EQ(decodeCprState(cprHeader + "\0"s + vfioHead + "\0"s).vfioDevices, std::vector<CprVfioDevice>{});
}

TEST(CprState, writesWhatItReads) {
    for (const std::string& bytes :
         {cprHeader + "\0"s, cprHeader + entry("a") + entry("a", 1) + "\0"s, cprHeader + entry("a") + "\0"s + vfioHead + "\0"s,
          cprHeader + "\0"s + vfioHead + device("v") + device("w") + "\0"s})
        EXPECT_EQ(encodeCprState(decodeCprState(bytes)).bytes, bytes);
}

TEST(CprState, saysWhichByteCarriesWhichDescriptor) {
    const EncodedCprState encoded = encodeCprState({{{"a", 0}, {"bcd", 0}}, std::nullopt});
    const std::size_t first = (cprHeader + entry("a")).size() - 1;
    EXPECT_THAT(encoded.serviceBytes, testing::ElementsAre(first, first + entry("bcd").size()));
}

TEST(CprState, dropsOnlyTheVfioListForAReaderThatDoesNotKnowIt) {
    CprState state = decodeCprState(goldenStream("transfer-11.1.cpr"));
    state.vfioDevices.reset();
    const std::string whole = goldenStream("transfer-11.1.cpr");
    EXPECT_EQ(encodeCprState(state).bytes, whole.substr(0, whole.size() - 28));
}

TEST(CprState, refusesOtherFormats) {
    EXPECT_EQ(refusalOfState("QEVM\0\0\0\3"s), "offset 0: not a CPR state: it does not begin with 'QCPR'");
    EXPECT_EQ(refusalOfState("QCPR\0\0\0\2\0"s), "offset 4: CPR state version 2; 1 is known");
}

TEST(CprState, refusesToReadPastTheEnd) {
    const std::string without = cprHeader + entry("ram0") + entry("pc.bios", 3) + "\0"s;
    const std::string whole = without + vfioHead + device("vfio0") + "\0"s;
    ASSERT_EQ(refusalOfState(whole), "(accepted)");
    for (std::size_t length = 0; length < whole.size(); ++length) {
        if (length == without.size()) continue;  // That is what 10.0 sends.
        EXPECT_THAT(refusalOfState(whole.substr(0, length)), HasSubstr("are left")) << "of the first " << length << " bytes";
    }
    EXPECT_EQ(refusalOfState(cprHeader + "\1"s + be32(5) + "ra"s),
              "offset 13: name of a descriptor entry needs 5 bytes, 2 are left");
}

TEST(CprState, refusesBytesAfterTheEnd) {
    EXPECT_EQ(refusalOfState(cprHeader + "\0x"s), "offset 9: byte after the descriptor entries should be 5 and is 120");
    EXPECT_EQ(refusalOfState(cprHeader + "\0"s + vfioHead + "\0xy"s),
              "offset " + std::to_string(9 + vfioHead.size() + 1) + ": 2 bytes after the end of the CPR state");
}

TEST(CprState, refusesAnotherServiceByte) {
    // 11.1 prints an error for it and goes on with memory full of zeroes (migration/vmstate-types.c:load_fd).
    std::string bytes = cprHeader + entry("ram0") + "\0"s;
    bytes[bytes.size() - 2] = 'X';
    EXPECT_EQ(refusalOfState(bytes),
              "offset " + std::to_string(bytes.size() - 2) + ": service byte of 'ram0' should be 32 and is 88");
}

TEST(CprState, refusesAListMarkThatIsNone) {
    EXPECT_EQ(refusalOfState(cprHeader + "\2"s), "offset 8: mark of a descriptor entry should be 0 or 1 and is 2");
    EXPECT_THAT(refusalOfState(cprHeader + "\0"s + vfioHead + "\7"s),
                HasSubstr("mark of a vfio device should be 0 or 1 and is 7"));
}

TEST(CprState, refusesAnEntryThatComesTwice) {
    EXPECT_EQ(refusalOfState(cprHeader + entry("ram0", 4) + entry("ram0", 4) + "\0"s),
              "offset " + std::to_string(8 + entry("ram0").size() + 1) + ": 'ram0' with id 4 comes twice");
    EXPECT_EQ(refusalOfState(cprHeader + entry("ram0", 4) + entry("ram0", 5) + "\0"s), "(accepted)");
    EXPECT_THAT(refusalOfState(cprHeader + "\0"s + vfioHead + device("v") + device("v") + "\0"s),
                HasSubstr("vfio device 'v' comes twice"));
}

TEST(CprState, refusesNamesThatAreNoText) {
    EXPECT_EQ(refusalOfState(cprHeader + entry("ra\nm") + "\0"s),
              "offset 9: name of a descriptor entry contains a control character");
    EXPECT_EQ(refusalOfState(cprHeader + entry("\x7f") + "\0"s),
              "offset 9: name of a descriptor entry contains a control character");
    EXPECT_EQ(refusalOfState(cprHeader + entry("") + "\0"s), "offset 9: name of a descriptor entry is empty");
    EXPECT_EQ(refusalOfState(cprHeader + entry("ra\0m"s) + "\0"s),
              "offset 9: name of a descriptor entry is not a string of its length");
    EXPECT_EQ(refusalOfState(cprHeader + "\1"s + be32(2) + "ab"s),
              "offset 9: name of a descriptor entry is not a string of its length");
    EXPECT_EQ(refusalOfState(cprHeader + "\1"s + be32(0)), "offset 9: name of a descriptor entry has a length of 0");
}

TEST(CprState, refusesWhatIsTooLong) {
    EXPECT_EQ(refusalOfState(cprHeader + entry(std::string(maxCprNameLength - 1, 'n')) + "\0"s), "(accepted)");
    EXPECT_EQ(refusalOfState(cprHeader + entry(std::string(maxCprNameLength, 'n')) + "\0"s),
              "offset 9: name of a descriptor entry has a length of 1025");
    EXPECT_EQ(refusalOfState(cprHeader + "\1\xff\xff\xff\xff"s),
              "offset 9: name of a descriptor entry has a length of 4294967295");
    EXPECT_THAT(refusalOfState(cprHeader + std::string(maxCprStateBytes, '\0')), HasSubstr("a CPR state of 4194312 bytes"));
    std::string many = cprHeader, devices = cprHeader + "\0"s + vfioHead;
    for (std::size_t i = 0; i <= maxCprEntries; ++i) {
        many += entry("e", static_cast<std::uint32_t>(i));
        devices += device(std::to_string(i));
    }
    EXPECT_THAT(refusalOfState(many + "\0"s), HasSubstr("more than 16384 entries"));
    EXPECT_THAT(refusalOfState(devices + "\0"s), HasSubstr("more than 16384 vfio devices"));
}

TEST(CprState, refusesAnUnknownSubsectionByName) {
    EXPECT_EQ(refusalOfState(cprHeader + "\0\5\20CprState/sockets\0\0\0\1\0"s),
              "offset 10: unknown subsection 'CprState/sockets'");
    std::string newer = vfioHead;
    newer.back() = '\2';
    EXPECT_THAT(refusalOfState(cprHeader + "\0"s + newer + "\0"s),
                AllOf(StartsWith("offset 32: "), HasSubstr("version 2 of the vfio devices; 1 is known")));
}

TEST(CprState, ofRealQemusIsWrittenAsItWasRead) {
    expectGoldenTwins(".cpr", [](const std::string& bytes) {
        const CprState state = decodeCprState(bytes);
        EXPECT_EQ(encodeCprState(state).bytes, bytes);
        return render(state);
    });
}

}  // namespace
}  // namespace vh
