#include "manager/service/vm_summary.h"

#include <gtest/gtest.h>

#include "manager/service/terminal.h"

namespace vh {
namespace {

using nlohmann::json;

const json web1 = {{"vm", "web1"},
                   {"state", "running"},
                   {"pid", 4711},
                   {"vmm", "QEMU"},
                   {"version", "11.1.3"},
                   {"binary", "/usr/bin/qemu"},
                   {"machine", "pc-q35-10.0"},
                   {"accelerator", "tcg"},
                   {"uuid", "6f1c7a52-0b7e-4c39-9c61-0d5f6d0e8a11"},
                   {"passthrough", json::array()}};

TEST(VmSummary, isALineInAListAndWhatIsWrongBelow) {
    json interrupted = web1;
    interrupted["vm"] = "database";
    interrupted["state"] = "handover interrupted";
    const json broken = {{"vm", "b"}, {"state", "unreadable"}, {"error", "vm 'b': its record cannot be used"}};
    EXPECT_EQ(listText({{"vms", {web1, interrupted, broken}}}),
              "VM         STATE                  PID    VMM           MACHINE       ACCELERATOR\n"
              "web1       running                4711   QEMU 11.1.3   pc-q35-10.0   tcg\n"
              "database   handover interrupted   4711   QEMU 11.1.3   pc-q35-10.0   tcg\n"
              "b          unreadable             ?\n"
              "vm 'database': a manager died in the middle of a handover, and its guest may stand still; 'virt-handover upgrade "
              "database --dry-run' finishes or undoes that\n"
              "vm 'b': its record cannot be used\n");
}

TEST(VmSummary, isALineWhenTheVmWasStarted) {
    json vm = web1;
    EXPECT_EQ(startedText(vm), "web1: running on QEMU 11.1.3, pid 4711, pc-q35-10.0, tcg\n");
    vm.erase("pid");
    vm["warnings"] = {"w"};
    EXPECT_EQ(startedText(vm), "web1: running on QEMU 11.1.3, pid ?, pc-q35-10.0, tcg\n  warning: w\n");
}

TEST(VmDetails, areShownLineByLine) {
    json value = web1;
    value["definitionFile"] = "/etc/web1.yaml";
    value["directory"] = "/run/virt-handover/web1/1";
    value["definition"] = {{"name", "web1"}, {"console.enabled", "true"}};
    value["handoverTo"] = {{"pid", 4712}, {"binary", "/opt/qemu"}};
    value["passthrough"] = {{{"id", "hd0"},
                             {"address", "0000:00:10.0"},
                             {"interface", "group"},
                             {"group", 7},
                             {"node", "/dev/vfio/7"},
                             {"bound", true}}};
    value["lastHandover"] = {{"error", "'f' cannot be understood: x"}};
    value["ramBlocks"] = {{"file", "/f"}, {"error", "cannot be understood: y"}};
    EXPECT_EQ(showText(value),
              "vm: web1\nstate: running\npid: 4711\nvmm: QEMU\nversion: 11.1.3\nbinary: /usr/bin/qemu\nmachine: pc-q35-10.0\n"
              "accelerator: tcg\nuuid: 6f1c7a52-0b7e-4c39-9c61-0d5f6d0e8a11\ndefinitionFile: /etc/web1.yaml\n"
              "directory: /run/virt-handover/web1/1\n"
              "passed through: hd0, 0000:00:10.0, by its group ('/dev/vfio/7')\n"
              "last handover: 'f' cannot be understood: x\n"
              "RAM blocks: '/f' cannot be understood: y\n"
              "started with:\n  console.enabled: true\n  name: web1\n");
}

TEST(VmDetails, ofAManagerThatSaysOtherThingsAreWhatIsUnderstood) {
    EXPECT_EQ(listText({{"vms", {5, {{"vm", "a"}, {"pid", "x"}}}}}),
              "VM   STATE   PID   VMM   MACHINE   ACCELERATOR\n?    ?       ?\na    ?       ?\n");
    for (const json& odd : {json(), json::array(), json{{"passthrough", 5}, {"lastHandover", 5}, {"ramBlocks", 5}}})
        EXPECT_NE(showText(odd).find("vm: ?\nstate: ?\npid: ?\n"), std::string::npos) << odd;
}

TEST(VmSummary, comesBackAsItIsTold) {
    EXPECT_EQ(toJson(vmSummaryFromJson(web1)), web1);
    const json broken = {{"vm", "b"}, {"state", "unreadable"}, {"error", "no"}};
    EXPECT_EQ(toJson(vmSummaryFromJson(broken)), broken);
}

}  // namespace
}  // namespace vh
