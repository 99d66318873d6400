// The tool as its user has it: the program, on real QEMUs in their firmware.
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/main_stream_encoder.h"
#include "tests/support/required.h"
#include "tests/support/temporary_directory.h"
#include "tests/vmm-shim/tool_process.h"
#include "vmm-shim/file.h"
#include "vmm-shim/main_stream.h"
#include "vmm-shim/qmp/monitor.h"
#include "vmm-shim/ram_block_section.h"
#include "vmm-shim/unique_fd.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::milliseconds, std::chrono::steady_clock;
using test::required;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

constexpr milliseconds longEnough{30'000};
constexpr int done = 0, usage = 1, refused = 2, unreachable = 5;

class VmmShimTool : public testing::Test {
 protected:
    VmmShimTool() {
        for (const char* variable : {"VH_SHIM", "VH_QEMU_OLD", "VH_QEMU_NEW"}) required(variable);
        // The tool's own directories are made in here, too, so that one that is left is seen.
        ::setenv("TMPDIR", directory_.path().c_str(), 1);
    }
    ~VmmShimTool() override {
        for (const auto& entry : fs::directory_iterator(directory_.path()))
            EXPECT_FALSE(entry.path().filename().string().starts_with("vmm-shim-")) << "left behind: " << entry.path();
        ::unsetenv("TMPDIR");
    }

    std::string path(const std::string& name) const { return directory_.file(name); }
    std::string file(const std::string& name, const std::string& content) const { return directory_.write(name, content); }

    /// Starts a QEMU in its firmware. Its monitor is NAME.qmp, and it has another one, NAME.second.
    struct Vm {
        std::string monitor, second;
        std::unique_ptr<ToolProcess> process;
    };
    Vm& start(const std::string& name, const std::string& qemu, const std::vector<std::string>& more = {},
              const std::string& machine = "pc-q35-10.0,accel=tcg,memory-backend=ram0,aux-ram-share=on", int inherited = -1) {
        std::vector<std::string> command{
            qemu,    "-nodefaults", "-display", "none",    "-machine",
            machine, "-m",          "32M",      "-object", "memory-backend-memfd,id=ram0,size=32M,share=on"};
        Vm& vm = vms_[name];
        vm.monitor = path(name + ".qmp");
        vm.second = path(name + ".second");
        const auto monitor = [&](const std::string& id, const std::string& where) {
            command.insert(command.end(), {"-chardev", "socket,id=" + id + "," + where + ",server=on,wait=off", "-mon",
                                           "chardev=" + id + ",mode=control"});
        };
        monitor("first", inherited >= 0 ? "fd=" + std::to_string(inherited) : "path=" + vm.monitor);
        monitor("second", "path=" + vm.second);
        command.insert(command.end(), more.begin(), more.end());
        vm.process = std::make_unique<ToolProcess>(command, path(name + ".out"), path(name + ".log"), inherited);
        const auto deadline = steady_clock::now() + longEnough;
        while (!isListening(vm.monitor) || !isListening(vm.second)) {
            if (steady_clock::now() > deadline)
                throw std::runtime_error(qemu + " does not start: " + readIfThere(path(name + ".log")));
            std::this_thread::sleep_for(milliseconds(5));
        }
        return vm;
    }

    Answer run(const std::vector<std::string>& arguments) const { return runTool(arguments, directory_); }

    std::unique_ptr<ToolProcess> runBeside(std::vector<std::string> arguments) const {
        arguments.insert(arguments.begin(), required("VH_SHIM"));
        return std::make_unique<ToolProcess>(arguments, path("beside.out"), path("beside.err"));
    }

    /// What the VMM says of itself on its second monitor: run state, migration, mode.
    struct Condition {
        std::string status, migration, mode;
        bool operator==(const Condition&) const = default;
    };
    static Condition conditionOf(const Vm& vm) {
        Monitor monitor(vm.second, longEnough);
        return {monitor.execute("query-status").at("status"), monitor.execute("query-migrate").value("status", "none"),
                monitor.execute("query-migrate-parameters").at("mode")};
    }

    const TemporaryDirectory directory_;
    std::map<std::string, Vm> vms_;
};

class OnEachQemu : public VmmShimTool, public testing::WithParamInterface<const char*> {
 protected:
    static std::string qemu() { return required(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Real, OnEachQemu, testing::Values("VH_QEMU_OLD", "VH_QEMU_NEW"),
                         [](const auto& instance) { return std::string(instance.param + 3); });

TEST_P(OnEachQemu, givesItsCprStateWhileTheGuestRuns) {
    Vm& vm = start("vm", qemu(), {"-device", "VGA,vgamem_mb=8"});
    UniqueFd listener = connectUnix(vm.second);  // Takes down every event.
    const std::string hello = "{\"execute\": \"qmp_capabilities\"}\n";
    ASSERT_EQ(sendSome(listener.get(), hello.data(), hello.size()), hello.size());

    const Answer first = run({"capture", vm.monitor, "--json"});
    ASSERT_EQ(first.code, done) << first.errors;
    const json value = first.value();
    EXPECT_EQ(value["pid"], vm.process->pid());
    EXPECT_EQ(value["status"], "running");
    std::set<std::string> names;
    for (const json& entry : value["cprState"]["fds"]) {
        EXPECT_EQ(entry["ramBlock"], entry["name"]) << "the entry's file is that of the block of its name";
        names.insert(entry["name"]);
    }
    EXPECT_EQ(names, (std::set<std::string>{"/rom@etc/acpi/rsdp", "/rom@etc/acpi/tables", "/rom@etc/table-loader",
                                            "0000:00:01.0/vga.rom", "0000:00:01.0/vga.vram", "pc.bios", "pc.rom", "ram0"}));
    std::set<std::string> blocks;
    for (const json& block : value["ramBlocks"]) {
        blocks.insert(block["idstr"]);
        EXPECT_EQ(block["shared"], true) << block;
        EXPECT_EQ(block["file"]["st_size"], block["max_length"]) << block;
    }
    EXPECT_EQ(blocks, names);

    const Answer second = run({"capture", vm.monitor, "--json"});
    ASSERT_EQ(second.code, done) << second.errors;
    EXPECT_EQ(second.value()["ramBlocks"], value["ramBlocks"]);
    std::cout << "CPR state taken and given up in " << value["takenMs"] << " ms, and in " << second.value()["takenMs"] << " ms\n";

    std::string heard;
    std::vector<UniqueFd> none;
    const auto deadline = steady_clock::now() + longEnough;
    while (heard.find("\"return\"") == std::string::npos && awaitReadable({listener.get()}, deadline) >= 0)
        receiveSome(listener.get(), heard, none);
    EXPECT_THAT(heard, AllOf(HasSubstr("\"return\""), Not(HasSubstr("STOP")))) << "the guest was stopped";
    listener.reset();
    EXPECT_EQ(conditionOf(vm), (Condition{"running", "cancelled", "normal"}));
}

TEST_P(OnEachQemu, hasTheModeAfterwardsThatItHadBefore) {
    Vm& vm = start("vm", qemu());
    Monitor(vm.second, longEnough).execute("migrate-set-parameters", {{"mode", "cpr-reboot"}});
    EXPECT_EQ(run({"capture", vm.monitor}).code, done);
    EXPECT_EQ(conditionOf(vm), (Condition{"running", "cancelled", "cpr-reboot"}));
}

TEST_P(OnEachQemu, isLeftAloneWhenItsMemoryCannotBeShared) {
    Vm& vm = start("vm", qemu(), {}, "pc-q35-10.0,accel=tcg,memory-backend=ram0");
    const Answer answer = run({"capture", vm.monitor});
    EXPECT_EQ(answer.code, refused);
    EXPECT_THAT(answer.errors, AllOf(StartsWith("vmm-shim: "), HasSubstr("pc.bios"), HasSubstr("aux-ram-share=on")));
    EXPECT_EQ(conditionOf(vm), (Condition{"running", "none", "normal"}));
}

TEST_P(OnEachQemu, isLeftAloneWhenAMigrationIsUnderWay) {
    Vm& vm = start("vm", qemu());
    const UniqueFd receiver = listenUnix(path("cpr"));
    const auto channel = [](const char* type, const std::string& where) {
        return json{{"channel-type", type}, {"addr", {{"transport", "socket"}, {"type", "unix"}, {"path", where}}}};
    };
    {
        Monitor monitor(vm.second, longEnough);
        monitor.execute("migrate-set-parameters", {{"mode", "cpr-transfer"}});
        monitor.execute("migrate", {{"channels", {channel("main", path("nobody")), channel("cpr", path("cpr"))}}});
    }
    const Answer answer = run({"capture", vm.monitor});
    EXPECT_EQ(answer.code, refused);
    EXPECT_THAT(answer.errors, HasSubstr("'setup'"));
    EXPECT_EQ(conditionOf(vm), (Condition{"running", "setup", "cpr-transfer"}));
    Monitor(vm.second, longEnough).execute("migrate_cancel");
}

TEST_P(OnEachQemu, isLeftAsItWasWhenTheToolIsInterruptedAtWhateverMoment) {
    Vm& vm = start("vm", qemu());
    for (int i = 0; i < 20; ++i) {
        const auto capture = runBeside({"capture", vm.monitor});
        std::this_thread::sleep_for(milliseconds(2 * i));
        capture->signal(i % 2 ? SIGTERM : SIGINT);
        const int code = capture->wait();
        EXPECT_TRUE(code == done || code == -SIGTERM || code == -SIGINT) << code << readIfThere(path("beside.err"));
        const Condition now = conditionOf(vm);
        EXPECT_EQ(now.status, "running");
        EXPECT_EQ(now.mode, "normal");
        EXPECT_THAT(now.migration, testing::AnyOf("none", "cancelled"));
    }
}

TEST_P(OnEachQemu, runsOnWhenTheToolIsKilledAtWhateverMoment) {
    Vm& vm = start("vm", qemu());
    for (int i = 0; i < 20; ++i) {
        const auto capture = runBeside({"capture", vm.monitor});
        std::this_thread::sleep_for(milliseconds(2 * i));
        capture->signal(SIGKILL);
        capture->wait();
        // The hang-up sends the VMM to its main channel, where nobody listens.
        const auto deadline = steady_clock::now() + longEnough;
        while (conditionOf(vm).migration == "setup" && steady_clock::now() < deadline) continue;
        EXPECT_EQ(conditionOf(vm).status, "running");
    }
    // A command that the killed tool had sent may be read only now: then a migration is under way for a moment, and the next one
    // is refused as long as it is.
    Answer answer;
    const auto deadline = steady_clock::now() + longEnough;
    while ((answer = run({"capture", vm.monitor})).code == refused && steady_clock::now() < deadline) continue;
    EXPECT_EQ(answer.code, done) << "the next one can have it: " << answer.errors;
    for (const auto& entry : fs::directory_iterator(directory_.path()))
        if (entry.path().filename().string().starts_with("vmm-shim-")) fs::remove_all(entry.path());
}

TEST_P(OnEachQemu, isFoundBehindASocketThatItHasInherited) {
    UniqueFd listener = listenUnix(path("vm.qmp"));
    Vm& vm = start("vm", qemu(), {}, "pc-q35-10.0,accel=tcg,memory-backend=ram0,aux-ram-share=on", listener.get());
    const Answer answer = run({"capture", vm.monitor, "--json"});
    ASSERT_EQ(answer.code, done) << answer.errors;
    EXPECT_EQ(answer.value()["pid"], vm.process->pid());
}

TEST_P(OnEachQemu, hasItsSavedStateAndRecordPrinted) {
    Vm& vm = start("vm", qemu());
    const Answer taken = run({"capture", vm.monitor, "--json", "--save", path("cpr"), "--record", path("record")});
    ASSERT_EQ(taken.code, done) << taken.errors;
    const Answer state = run({"dump", path("cpr"), "--json"}), record = run({"dump", path("record"), "--json"});
    ASSERT_EQ(state.code, done) << state.errors;
    ASSERT_EQ(record.code, done) << record.errors;
    EXPECT_EQ(state.value()["kind"], "cpr-state");
    EXPECT_EQ(state.value()["bytes"], taken.value()["bytes"]);
    std::set<std::string> now, then;
    const json takenFds = taken.value()["cprState"]["fds"], stateFds = state.value()["fds"];
    for (const json& entry : takenFds) then.insert(entry["name"]);
    for (const json& entry : stateFds) now.insert(entry["name"]);
    EXPECT_EQ(now, then);
    EXPECT_EQ(record.value()["ramBlocks"], taken.value()["ramBlocks"]);
    EXPECT_THAT(run({"dump", path("cpr")}).output, AllOf(HasSubstr("CPR state"), HasSubstr("pc.bios")));
    EXPECT_THAT(run({"dump", path("record")}).output, AllOf(HasSubstr("record of RAM blocks"), HasSubstr("pc.bios")));
}

TEST_F(VmmShimTool, findsNothingFatalBetweenTwoQemusOfOneMachine) {
    Vm& old = start("old", required("VH_QEMU_OLD"), {"-device", "VGA,vgamem_mb=8"});
    Vm& newVm = start("new", required("VH_QEMU_NEW"), {"-device", "VGA,vgamem_mb=8"});
    for (const char* transfer : {"all-shared", "named-files", "copied"}) {
        const Answer answer = run({"diff", old.monitor, newVm.monitor, "--transfer", transfer});
        EXPECT_EQ(answer.code, done) << transfer << answer.errors;
        EXPECT_EQ(answer.output, "") << transfer;
    }
}

TEST_F(VmmShimTool, seesOnDemandThatTheNewVmmHasNotTheOldOnesFiles) {
    Vm& old = start("old", required("VH_QEMU_OLD"));
    Vm& newVm = start("new", required("VH_QEMU_NEW"));
    const Answer answer = run({"diff", old.monitor, newVm.monitor, "--same-files", "--json"});
    EXPECT_EQ(answer.code, refused);
    std::set<std::string> fields;
    for (const json& difference : answer.value()) fields.insert(difference["field"]);
    EXPECT_EQ(fields, std::set<std::string>{"file"});
    EXPECT_EQ(run({"diff", old.monitor, old.second, "--same-files"}).code, done) << "its own, it has";
}

TEST_F(VmmShimTool, seesVideoMemoryOfAnotherSize) {
    Vm& old = start("old", required("VH_QEMU_OLD"), {"-device", "VGA,vgamem_mb=16"});
    Vm& newVm = start("new", required("VH_QEMU_NEW"), {"-device", "VGA,vgamem_mb=32"});
    const Answer answer = run({"diff", old.monitor, newVm.monitor});
    EXPECT_EQ(answer.code, refused);
    EXPECT_THAT(answer.output,
                HasSubstr("fatal: 0000:00:01.0/vga.vram: used_length 16 MiB on the old VMM, 32 MiB on the new one"));
    EXPECT_THAT(answer.output,
                HasSubstr("fatal: 0000:00:01.0/vga.vram: max_length 16 MiB on the old VMM, 32 MiB on the new one"));
    EXPECT_THAT(
        run({"diff", old.monitor, newVm.monitor, "--transfer", "copied"}).output,
        AllOf(HasSubstr("fatal: 0000:00:01.0/vga.vram: used_length"), HasSubstr("harmless: 0000:00:01.0/vga.vram: max_length")));
}

TEST_F(VmmShimTool, seesARomFileOfAnotherSizeAlsoInSavedRecords) {
    const auto device = [&](std::size_t kib) {
        return "virtio-net-pci,romfile=" + file(std::to_string(kib) + ".rom", std::string(kib * 1024, '\0'));
    };
    Vm& old = start("old", required("VH_QEMU_NEW"), {"-device", device(64)});
    Vm& newVm = start("new", required("VH_QEMU_NEW"), {"-device", device(128)});
    ASSERT_EQ(run({"capture", old.monitor, "--record", path("old.record")}).code, done);
    ASSERT_EQ(run({"capture", newVm.monitor, "--record", path("new.record")}).code, done);
    const Answer answer = run({"diff", path("old.record"), path("new.record"), "--json"});
    EXPECT_EQ(answer.code, refused);
    EXPECT_EQ(answer.value()[0]["idstr"], "0000:00:01.0/virtio-net-pci.rom");
    EXPECT_EQ(answer.value()[0]["field"], "used_length");
    EXPECT_EQ(answer.value()[0]["severity"], "fatal");
    EXPECT_THAT(answer.value()[0]["why"], HasSubstr("romsize="));
    EXPECT_EQ(run({"diff", path("old.record"), old.monitor, "--same-files"}).code, done);
}

TEST_F(VmmShimTool, givesItsRecordToOneClientOfASocket) {
    Vm& vm = start("vm", required("VH_QEMU_OLD"));
    const std::string socket = path("exchange");
    const auto serving = runBeside({"capture", vm.monitor, "--exchange", socket});
    const auto deadline = steady_clock::now() + longEnough;
    while (!isListening(socket) && steady_clock::now() < deadline) std::this_thread::sleep_for(milliseconds(5));
    const Answer answer = run({"diff", socket, vm.monitor, "--same-files"});
    EXPECT_EQ(answer.code, done) << answer.errors << readIfThere(path("beside.err"));
    EXPECT_EQ(answer.output, "");
    EXPECT_EQ(serving->wait(), done);
    EXPECT_FALSE(fs::exists(socket));
}

TEST_F(VmmShimTool, provesByDescriptorsWhichFilesItsRecordIsOf) {
    Vm& vm = start("vm", required("VH_QEMU_OLD"));
    const auto serving = runBeside({"capture", vm.monitor, "--exchange", path("exchange")});
    const auto deadline = steady_clock::now() + longEnough;
    while (!isListening(path("exchange")) && steady_clock::now() < deadline) std::this_thread::sleep_for(milliseconds(5));
    const RamBlockExchange exchange = receiveRamBlocks(connectUnix(path("exchange")).get(), longEnough);
    EXPECT_EQ(exchange.blocks.size(), 6U);
    for (const UniqueFd& descriptor : exchange.descriptors) {
        char byte = 0;
        EXPECT_LT(::read(descriptor.get(), &byte, 1), 0) << "a proof of identity, and no way into the guest's memory";
    }
    EXPECT_EQ(serving->wait(), done);
}

TEST_F(VmmShimTool, takesItsSocketAwayWhenNobodyComesAndItIsInterrupted) {
    Vm& vm = start("vm", required("VH_QEMU_OLD"));
    const auto serving = runBeside({"capture", vm.monitor, "--exchange", path("exchange")});
    const auto deadline = steady_clock::now() + longEnough;
    while (!isListening(path("exchange")) && steady_clock::now() < deadline) std::this_thread::sleep_for(milliseconds(5));
    serving->signal(SIGTERM);
    EXPECT_EQ(serving->wait(), -SIGTERM);
    EXPECT_FALSE(fs::exists(path("exchange")));
}

TEST_F(VmmShimTool, saysWhyAMonitorCannotBeReached) {
    for (const char* verb : {"capture", "diff"}) {
        const auto ask = [&](const std::string& monitor) {
            return run(std::string(verb) == "diff" ? std::vector<std::string>{verb, monitor, monitor, "--timeout-ms", "200"}
                                                   : std::vector<std::string>{verb, monitor, "--timeout-ms", "200"});
        };
        { const UniqueFd nobody = listenUnix(path("nobody")); }  // The socket stays, and nobody listens.
        const Answer silent = ask(path("nobody"));
        EXPECT_EQ(silent.code, unreachable) << verb;
        EXPECT_THAT(silent.errors, AllOf(StartsWith("vmm-shim: "), HasSubstr("nobody'"), HasSubstr("refused"))) << verb;
        fs::remove(path("nobody"));

        const UniqueFd mute = listenUnix(path("mute"));
        const Answer busy = ask(path("mute"));
        EXPECT_EQ(busy.code, unreachable) << verb;
        EXPECT_THAT(busy.errors, AllOf(HasSubstr("mute'"), HasSubstr("another one may be connected"))) << verb;
        fs::remove(path("mute"));
    }
    const Answer absent = run({"capture", path("absent")}), plain = run({"capture", file("plain", "text")});
    EXPECT_EQ(absent.code, unreachable);
    EXPECT_THAT(absent.errors, HasSubstr("No such file"));
    EXPECT_EQ(plain.code, unreachable);
}

TEST_F(VmmShimTool, waitsNoLongerThanToldForAMonitorThatAnotherClientHas) {
    Vm& vm = start("vm", required("VH_QEMU_OLD"));
    Monitor other(vm.monitor, longEnough);
    for (int i = 0; i < 3; ++i) {  // Also when the backlog is full.
        const Answer answer = run({"capture", vm.monitor, "--timeout-ms", "200"});
        EXPECT_EQ(answer.code, unreachable);
        EXPECT_THAT(answer.errors, HasSubstr("another one may be connected"));
    }
    EXPECT_EQ(other.execute("query-status").at("status"), "running") << "the other client is not disturbed";
}

TEST_F(VmmShimTool, doesNotTakeOneProcessForAnother) {
    Vm& vm = start("vm", required("VH_QEMU_OLD"));
    const Answer answer = run({"capture", vm.monitor, "--pid", std::to_string(::getpid())});
    EXPECT_EQ(answer.code, refused);
    EXPECT_THAT(answer.errors, HasSubstr("process " + std::to_string(::getpid())));
    EXPECT_EQ(conditionOf(vm), (Condition{"running", "none", "normal"}));
}

TEST_F(VmmShimTool, printsAMainStream) {
    MainStream stream;
    stream.configuration.machine = "pc-q35-10.0";
    stream.configuration.capabilities = {"x-ignore-shared"};
    RamPart ram;
    ram.kind = RamPart::Kind::START;
    ram.section_id = 1;
    ram.records = {RamSetup{{{"ram0", 8192, std::nullopt, 0x100000}}}, RamPage{0, "ram0", std::uint8_t{0}},
                   RamPage{4096, std::nullopt, std::string(4096, 'x')}};
    RamPart end;
    end.kind = RamPart::Kind::END;
    end.section_id = 1;
    stream.parts = {ram, end, DevicePart{2, "timer", 0, 3, "12345678"}};
    stream.description = R"({"devices": [{"name": "timer", "instance_id": 0, "fields": [{"name": "ticks", "size": 8}]}]})";
    const std::string saved = file("stream", encodeMainStream(stream));
    const Answer answer = run({"dump", saved, "--json"}), text = run({"dump", saved});
    ASSERT_EQ(answer.code, done) << answer.errors;
    const json expected = R"([
        {"kind": "START", "section_id": 1, "idstr": "ram", "copiedPages": {"ram0": 1}, "zeroPages": {"ram0": 1},
         "blocks": [{"idstr": "ram0", "used_length": 8192, "mr_addr": 1048576}]},
        {"kind": "END", "section_id": 1, "idstr": "ram", "copiedPages": {}, "zeroPages": {}, "blocks": []},
        {"kind": "FULL", "section_id": 2, "idstr": "timer", "instance_id": 0, "version_id": 3, "bytes": 8}])"_json;
    EXPECT_EQ(answer.value()["parts"], expected);
    EXPECT_EQ(answer.value()["capabilities"], json::array({"x-ignore-shared"}));
    EXPECT_THAT(text.output, AllOf(HasSubstr("machine pc-q35-10.0"), HasSubstr("1 block, 1 page copied, 1 of zeroes"),
                                   HasSubstr("timer"), HasSubstr("instance 0, version 3, 8 bytes")));
}

TEST_F(VmmShimTool, refusesFilesThatAreNotWhatTheyShouldBe) {
    for (const auto& [name, content] : {std::pair<std::string, std::string>{"noise", "hello"},
                                        {"empty", ""},
                                        {"cut-cpr", std::string("QCPR\0\0\0\1", 8)},
                                        {"cut-record", encodeRamBlocks({}).substr(0, 50)},
                                        {"cut-stream", std::string("QEVM\0\0\0\3\7", 9)}}) {
        const Answer answer = run({"dump", file(name, content)});
        EXPECT_EQ(answer.code, refused) << name;
        EXPECT_EQ(answer.output, "") << name;
        EXPECT_THAT(answer.errors, StartsWith("vmm-shim: '" + path(name) + "': ")) << name;
        EXPECT_EQ(run({"diff", path(name), path(name)}).code, refused) << name;
    }
    EXPECT_THAT(run({"dump", path("absent")}).errors, HasSubstr("No such file"));
    EXPECT_THAT(run({"dump", path("")}).errors, HasSubstr("directory"));
}

TEST_F(VmmShimTool, tellsAUsageErrorFromARefusal) {
    EXPECT_EQ(run({}).code, usage);
    EXPECT_EQ(run({"capture"}).code, usage);
    EXPECT_EQ(run({"diff", "a"}).code, usage);
    EXPECT_EQ(run({"diff", "a", "b", "--transfer", "magic"}).code, usage);
    EXPECT_EQ(run({"conjure"}).code, usage);
    EXPECT_EQ(run({"--help"}).code, done);
    EXPECT_THAT(run({"--version"}).output, StartsWith("vmm-shim "));
}

}  // namespace
}  // namespace vh
