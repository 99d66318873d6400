#include "vmm-shim/tool/vm_description.h"

#include <stdexcept>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/golden_twins.h"
#include "vmm-shim/bytes.h"

namespace vh {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;
using testing::StartsWith;

/// A description of one device, "d".
std::string device(const std::string& rest) {
    return R"({"page_size": 4096, "devices": [{"name": "d", "instance_id": 0, )" + rest + "}]}";
}

std::string field(const std::string& rest) {
    return device(R"("fields": [{"name": "f", )" + rest + "}]");
}

std::uint64_t lengthOf(const std::string& description) {
    return deviceLengths(description).at({"d", 0});
}

std::string refusalOfDescription(const std::string& description) {
    try {
        deviceLengths(description);
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "(accepted)";
}

TEST(VmDescription, addsUpTheFieldsOfEachDevice) {
    EXPECT_THAT(deviceLengths(R"({"devices": [
        {"name": "a", "instance_id": 0, "fields": [{"name": "x", "type": "uint8", "size": 1}, {"name": "y", "size": 8}]},
        {"name": "a", "instance_id": 4294967295, "fields": []}]})"),
                ElementsAre(Pair(Pair("a", 0), 9), Pair(Pair("a", 4294967295), 0)));
}

TEST(VmDescription, countsTheElementsOfAnArray) {
    EXPECT_EQ(lengthOf(field(R"("size": 4, "array_len": 16)")), 64U);
    EXPECT_EQ(lengthOf(field(R"("size": 4, "array_len": 0)")), 0U);
}

TEST(VmDescription, countsWhatIsInAStructOnce) {
    EXPECT_EQ(lengthOf(field(R"("size": 6, "struct": {"vmsd_name": "s", "version": 1, "fields": [{"name": "g", "size": 6}]})")),
              6U);
}

TEST(VmDescription, countsSubsectionsWithTheirHeads) {
    EXPECT_EQ(lengthOf(device(R"("fields": [], "subsections": [
        {"vmsd_name": "d/one", "fields": [{"name": "g", "size": 7}],
         "subsections": [{"vmsd_name": "d/one/two", "fields": []}]}])")),
              (1U + 1 + 5 + 4 + 7) + (1 + 1 + 9 + 4));
}

TEST(VmDescription, refusesWhatIsNoDescription) {
    EXPECT_THAT(refusalOfDescription(""), StartsWith("description: "));
    EXPECT_THAT(refusalOfDescription("{\"devices\": ["), StartsWith("description: "));
    EXPECT_THAT(refusalOfDescription("{\"devices\": []} more"), StartsWith("description: "));
    EXPECT_THAT(refusalOfDescription("{\"devices\": [\"\xff\"]}"), StartsWith("description: "));
    EXPECT_EQ(refusalOfDescription("[]"), "description: is not an object");
    EXPECT_EQ(refusalOfDescription("{}"), "description: has no 'devices'");
    EXPECT_EQ(refusalOfDescription(R"({"devices": {}})"), "description: 'devices' is not an array");
    EXPECT_EQ(refusalOfDescription(R"({"devices": [1]})"), "description: 'devices' holds something that is not an object");
}

TEST(VmDescription, refusesNestingWithoutEnd) {
    const std::string levels(100000, '[');
    EXPECT_EQ(refusalOfDescription(levels), "description: is deeper than 64 levels");
    std::string objects;
    for (int i = 0; i < 1000; ++i) objects += R"({"fields": [)";
    EXPECT_EQ(refusalOfDescription(objects), "description: is deeper than 64 levels");
}

TEST(VmDescription, namesTheDeviceAndTheFieldThatAreWrong) {
    EXPECT_EQ(refusalOfDescription(R"({"devices": [{}]})"), "description: a device has no 'name'");
    EXPECT_EQ(refusalOfDescription(R"({"devices": [{"name": "d"}]})"), "description: device 'd' has no 'instance_id'");
    EXPECT_EQ(refusalOfDescription(R"({"devices": [{"name": "d", "instance_id": -1}]})"),
              "description: device 'd' 'instance_id' is not a whole number from 0 up");
    EXPECT_EQ(refusalOfDescription(R"({"devices": [{"name": "d", "instance_id": 4294967296}]})"),
              "description: device 'd' 'instance_id' is 4294967296; at most 4294967295 is possible");
    EXPECT_EQ(refusalOfDescription(device(R"("version": 1)")), "description: device 'd' has no 'fields'");
    EXPECT_EQ(refusalOfDescription(device(R"("fields": [{}])")), "description: device 'd' a field has no 'name'");
    EXPECT_EQ(refusalOfDescription(device(R"("fields": [{"name": 7}])")),
              "description: device 'd' a field 'name' is not a string");
    EXPECT_EQ(refusalOfDescription(field(R"("type": "uint8")")), "description: device 'd' field 'f' has no 'size'");
    EXPECT_EQ(refusalOfDescription(field(R"("size": "8")")),
              "description: device 'd' field 'f' 'size' is not a whole number from 0 up");
    EXPECT_EQ(refusalOfDescription(field(R"("size": 1.5)")),
              "description: device 'd' field 'f' 'size' is not a whole number from 0 up");
    EXPECT_EQ(refusalOfDescription(device(R"("fields": [], "subsections": [{"vmsd_name": "d/s", "fields": [{"name": "g"}]}])")),
              "description: device 'd' subsection 'd/s' field 'g' has no 'size'");
    EXPECT_EQ(refusalOfDescription(device(R"("fields": [], "subsections": [{"fields": []}])")),
              "description: device 'd' a subsection has no 'vmsd_name'");
    EXPECT_EQ(refusalOfDescription(device(R"("fields": [], "subsections": [{"vmsd_name": ")" + std::string(256, 'n') + R"("}])")),
              "description: device 'd' a subsection 'vmsd_name' is a string of 256 characters");
}

TEST(VmDescription, refusesADeviceThatComesTwice) {
    EXPECT_EQ(
        refusalOfDescription(
            R"({"devices": [{"name": "d", "instance_id": 1, "fields": []}, {"name": "d", "instance_id": 1, "fields": []}]})"),
        "description: device 'd' with instance_id 1 comes twice");
}

TEST(VmDescription, refusesSizesThatNoDeviceHas) {
    EXPECT_EQ(lengthOf(field(R"("size": 4294967296)")), 4294967296U);
    EXPECT_EQ(refusalOfDescription(field(R"("size": 4294967297)")),
              "description: device 'd' field 'f' 'size' is 4294967297; at most 4294967296 is possible");
    EXPECT_EQ(refusalOfDescription(field(R"("size": 18446744073709551616)")),
              "description: device 'd' field 'f' 'size' is not a whole number from 0 up");
    EXPECT_EQ(refusalOfDescription(field(R"("size": 8, "array_len": 2147483648)")),
              "description: device 'd' field 'f' 'array_len' is 2147483648; at most 2147483647 is possible");
    // 2^32 times 2^31 - 1 still fits 64 bits, and ten of those would not.
    EXPECT_EQ(refusalOfDescription(field(R"("size": 4294967296, "array_len": 2147483647)")),
              "description: device 'd' field 'f' is longer than 4294967296 bytes");
    EXPECT_EQ(refusalOfDescription(device(R"("fields": [{"name": "f", "size": 4294967296}, {"name": "g", "size": 1}])")),
              "description: device 'd' field 'g' makes the state longer than 4294967296 bytes");
}

TEST(VmDescription, ofARealQemuPutsEveryFooterWhereItIs) {
    // A single byte more or less of any device, and its footer is not found.
    const std::string bytes = goldenStream("transfer-11.1.main");
    const DeviceLengths lengths = deviceLengths(findDescription(bytes).value());
    ASSERT_GT(lengths.size(), 20U);
    for (const auto& [device, length] : lengths) {
        DeviceLengths wrong = lengths;
        wrong[device] = length + 1;
        EXPECT_THROW(decodeMainStream(bytes, wrong), DecodeError) << device.first;
        wrong[device] = length - 1;
        EXPECT_THROW(decodeMainStream(bytes, wrong), DecodeError) << device.first;
    }
    EXPECT_NO_THROW(decodeMainStream(bytes, lengths));
}

TEST(VmDescription, isNeededToReadAStream) {
    const std::string bytes = goldenStream("bare-10.0.main");
    const std::string without = bytes.substr(0, bytes.size() - findDescription(bytes).value().size() - 5);
    try {
        decodeDescribedStream(without);
        FAIL() << "read a stream without its description";
    } catch (const std::runtime_error& error) {
        EXPECT_THAT(error.what(), HasSubstr("does not end with a description"));
    }
}

}  // namespace
}  // namespace vh
