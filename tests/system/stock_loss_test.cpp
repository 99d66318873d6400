// Guest memory that QEMU loses without a word when something is wrong in what the new one is told: in the CPR channel, or of a
// file that both map. Two QEMUs are driven by their monitors alone, so this describes QEMU, not us, and fails when QEMU changes.
// The same faults in handovers of a guest: handover_loss_test.cpp.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "tests/support/failure_matrix.h"
#include "tests/support/vm_fixture.h"
#include "tests/system/cpr_faults.h"
#include "vmm-shim/unix_socket.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::AnyOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

class StockVmm {
 public:
    StockVmm(const std::string& binary, const std::vector<std::string>& more, const std::string& memory = ownMemory)
        : log_(::memfd_create("stock-vmm-log", MFD_CLOEXEC)) {
        auto [ours, theirs] = unixPair();
        LaunchSpec spec{
            .argv = {binary, "-nodefaults", "-no-user-config", "-display", "none", "-S", "-accel", "tcg", "-m", "64M", "-object",
                     memory, "-device", "VGA,id=video", "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control"},
            .descriptors = {theirs.get()},
            .output = log_.get(),
            .identity = {},
            .endsWithManager = true};
        spec.argv.insert(spec.argv.end(), more.begin(), more.end());
        process_ = ChildProcess::launch(spec);
        monitor_ = std::make_unique<QmpClient>(std::move(ours));
    }
    StockVmm(const StockVmm&) = delete;
    ~StockVmm() {
        process_.killAll();
        turnUntil([this] { return !process_.alive(); }, milliseconds(10'000));
    }

    /// Null when there is no answer, or an error.
    json ask(const std::string& command, const json& arguments = nullptr) {
        std::optional<QmpReply> reply;
        monitor_->execute(command, arguments, milliseconds(10'000), [&](QmpReply answer) { reply = std::move(answer); });
        turnUntil([&] { return reply.has_value(); }, milliseconds(20'000));
        return reply && reply->ok() ? reply->value : json();
    }

    /// `completed` and the like, from query-migrate; how the process ended when it has.
    std::string migration() {
        const json answer = ask("query-migrate");
        if (!answer.is_null()) return answer.value("status", "none");
        turnUntil([this] { return !process_.alive(); }, milliseconds(10'000));
        return process_.howItEnded();
    }

    std::string runState() { return ask("query-status").value("status", ""); }

    std::string said() const {
        char text[4096];
        const ssize_t count = ::pread(log_.get(), text, sizeof(text), 0);
        return {text, count > 0 ? static_cast<std::size_t>(count) : 0};
    }

    /// Where each RAM block is in the process, as x-query-ramblock has it (system/physmem.c:ram_block_format, 10.0 and 11.1).
    std::map<std::string, std::uint64_t> addressesOfBlocks() {
        std::istringstream table(ask("x-query-ramblock").value("human-readable-text", ""));
        std::map<std::string, std::uint64_t> addresses;
        std::string line;
        std::getline(table, line);  // The headings.
        while (std::getline(table, line)) {
            std::istringstream words(line);
            std::vector<std::string> columns;
            for (std::string word; words >> word;) columns.push_back(word);
            if (columns.size() > 2) addresses[columns.front()] = std::stoull(columns[columns.size() - 2], nullptr, 16);
        }
        return addresses;
    }

    bool alive() const { return process_.alive(); }

    static constexpr std::size_t wordLength = 64;
    static constexpr const char* ownMemory = "memory-backend-memfd,id=ram0,share=on,size=64M";

    void write(std::uint64_t blockAddress, const std::string& word) const {
        EXPECT_EQ(::pwrite(memory().get(), word.data(), word.size(), wordIn(blockAddress)), static_cast<ssize_t>(word.size()));
    }
    std::string read(std::uint64_t blockAddress) const {
        std::string word(wordLength, '?');
        EXPECT_EQ(::pread(memory().get(), word.data(), word.size(), wordIn(blockAddress)), static_cast<ssize_t>(word.size()));
        return word;
    }

    std::uint64_t sizeOfFile(const std::string& block) {
        for (const RamBlock& found :
             gatherRamBlocks({.table = ask("x-query-ramblock").value("human-readable-text", ""), .pid = process_.pid()}))
            if (found.idstr.ends_with(block) && found.file) return found.file->size;
        return 0;
    }

 private:
    UniqueFd memory() const {
        return UniqueFd(::open(("/proc/" + std::to_string(process_.pid()) + "/mem").c_str(), O_RDWR | O_CLOEXEC));
    }
    /// Inside of the smallest block, which has 4 KiB.
    static off_t wordIn(std::uint64_t blockAddress) { return static_cast<off_t>(blockAddress) + 1024; }

    UniqueFd log_;
    ChildProcess process_;
    std::unique_ptr<QmpClient> monitor_;
};

struct StockHandover {
    std::string oldBinary = oldQemu(), newBinary = newQemu();
    Change change = nothing;
    std::string newMachine = sharing;
    std::vector<std::string> more;  ///< Of the new VMM's arguments.

    static constexpr const char* sharing = ",aux-ram-share=on";
};

struct StockOutcome {
    std::string old, new_;       ///< How the migration ended on either side, or how the VMM did.
    std::string oldRun, newRun;  ///< Run states of those that live.
    std::string said;            ///< By the new VMM.
    /// What the new VMM has in each block: `intact`, `zeros`, `that of` another block; empty when it never came to have a
    /// machine.
    std::map<std::string, std::string> memory;
    std::uint64_t videoMemoryFile = 0;  ///< Bytes, of the old VMM's.
};

class StockLoss : public testing::Test {
 protected:
    void TearDown() override { workspace.expectNothingLeft(); }

    /// A whole cpr-transfer of a guest that has run no instruction yet, with a word written into each of its RAM blocks.
    StockOutcome handOver(const StockHandover& handover) {
        const auto in = [this](const char* name) { return workspace.path() + "/" + name; };
        const std::string main = in("main.sock"), cpr = in("cpr.sock"), tampered = in("tampered.sock");
        const auto channel = [](const char* type, const std::string& path) {
            return json{{"channel-type", type}, {"addr", {{"transport", "socket"}, {"type", "unix"}, {"path", path}}}};
        };
        StockOutcome outcome;
        StockVmm old(handover.oldBinary, {"-machine", machine + std::string(StockHandover::sharing)});
        const auto blocks = old.addressesOfBlocks();
        EXPECT_EQ(blocks.size(), 8U);
        for (const auto& [block, address] : blocks) old.write(address, wordOf(block));

        std::vector<std::string> arguments{"-machine",  machine + handover.newMachine, "-incoming", channel("main", main).dump(),
                                           "-incoming", channel("cpr", cpr).dump()};
        arguments.insert(arguments.end(), handover.more.begin(), handover.more.end());
        StockVmm newVmm(handover.newBinary, arguments);
        EXPECT_TRUE(turnUntil([&] { return isListening(cpr); }, milliseconds(20'000))) << newVmm.said();
        // The old VMM is held until the new one listens, as by anybody who prepares a new VMM while the guest runs. Without that,
        // QEMU is saved from some faults by an accident: a new VMM that gives the state up hangs up at once, and the old one
        // finds nobody on the main channel yet (migration/cpr.c:cpr_state_load, 11.1).
        auto tamperer = std::make_unique<CprTamperer>(tampered, cpr, handover.change, HangUp::Held);
        old.ask("migrate-set-parameters", {{"mode", "cpr-transfer"}});
        old.ask("migrate", {{"channels", json::array({channel("main", main), channel("cpr", tampered)})}});
        turnUntil([&] { return isListening(main) || !newVmm.alive(); }, milliseconds(20'000));
        tamperer.reset();

        awaitEnd(old, newVmm, blocks, outcome);
        return outcome;
    }

    /// The same with x-ignore-shared, where guest RAM is a file that both are told of: old and new VMM map what they are told.
    StockOutcome shareFile(const std::string& fault, const std::string& newMemory, const std::vector<std::string>& more = {},
                           const json& newCapability = true) {
        const json main{{"channels",
                         {{{"channel-type", "main"},
                           {"addr", {{"transport", "socket"}, {"type", "unix"}, {"path", workspace.path() + "/main.sock"}}}}}}};
        const auto capability = [](const json& state) {
            return json{{"capabilities", {{{"capability", "x-ignore-shared"}, {"state", state}}}}};
        };
        StockOutcome outcome;
        StockVmm old(oldQemu(), {"-machine", machine}, fileMemory("ram"));
        const auto blocks = old.addressesOfBlocks();
        EXPECT_EQ(blocks.size(), 8U);
        for (const auto& [block, address] : blocks) old.write(address, wordOf(block));
        std::vector<std::string> arguments{"-machine", machine, "-incoming", "defer"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        StockVmm newVmm(newQemu(), arguments, newMemory);
        old.ask("migrate-set-capabilities", capability(true));
        newVmm.ask("migrate-set-capabilities", capability(newCapability));
        newVmm.ask("migrate-incoming", main);
        old.ask("migrate", main);
        awaitEnd(old, newVmm, blocks, outcome);
        expectAsInLossMatrix({"x-ignore-shared, 10.0 to 11.1", fault, inWords(outcome)});
        return outcome;
    }

    std::string fileMemory(const std::string& file, const std::string& more = ",share=on,size=64M") const {
        return "memory-backend-file,id=ram0,mem-path=" + workspace.path() + "/" + file + more;
    }

    /// Waits for both sides, and looks at what the new VMM has in memory then.
    static void awaitEnd(StockVmm& old, StockVmm& newVmm, const std::map<std::string, std::uint64_t>& blocks,
                         StockOutcome& outcome) {
        const auto isOver = [](const std::string& migration) {
            return migration == "completed" || migration == "failed" || migration.starts_with("exited") ||
                   migration.starts_with("was killed");
        };
        turnUntil([&] { return isOver(outcome.old = old.migration()); }, milliseconds(20'000));
        turnUntil([&] { return isOver(outcome.new_ = newVmm.migration()); }, milliseconds(20'000));
        outcome.oldRun = old.runState();
        outcome.said = newVmm.said();
        outcome.videoMemoryFile = old.sizeOfFile("vga.vram");
        if (!newVmm.alive()) return;
        outcome.newRun = newVmm.runState();
        for (const auto& [block, address] : newVmm.addressesOfBlocks()) {
            const std::string found = newVmm.read(address);
            const auto owner = std::ranges::find_if(blocks, [&](const auto& other) { return found == wordOf(other.first); });
            const bool zeros = found.find_first_not_of('\0') == std::string::npos;
            outcome.memory[block] = found == wordOf(block)  ? "intact"
                                    : owner != blocks.end() ? "that of " + owner->first
                                    : zeros                 ? "zeros"
                                                            : "something else";
        }
    }

    /// A handover with a fault of which the published matrix says what became of it.
    StockOutcome handOver(const std::string& fault, const StockHandover& handover) {
        const StockOutcome outcome = handOver(handover);
        expectAsInLossMatrix({handover.newBinary == oldQemu() ? "cpr-transfer, 10.0 to 10.0" : "cpr-transfer, 10.0 to 11.1",
                              fault, inWords(outcome)});
        return outcome;
    }

    static std::string inWords(const StockOutcome& outcome) {
        if (outcome.new_ != "completed") return "the new VMM " + outcome.new_;
        std::map<std::string, std::vector<std::string>> contents;
        for (const auto& [block, content] : outcome.memory)
            if (content != "intact") contents[content].push_back(block);
        std::string lost;
        for (const auto& [content, blocks] : contents) {
            lost += lost.empty() ? "" : "; ";
            if (blocks.size() == outcome.memory.size())
                lost += "all memory";
            else if (blocks.size() > 2)
                lost += "all but `ram0`";
            else
                for (const std::string& block : blocks) lost += (block == blocks.front() ? "`" : ", `") + block + "`";
            lost += (blocks.size() > 1 && blocks.size() < outcome.memory.size() ? " are " : " is ") + content;
        }
        return lost.empty() ? "completes, nothing is lost" : "completes, **lost silently**: " + lost;
    }

    /// QEMU says on both sides that all is well, and these blocks are not what they were.
    static void expectSilentLoss(const StockOutcome& outcome, const std::map<std::string, std::string>& lost) {
        SCOPED_TRACE(qemuHasChanged);
        EXPECT_EQ(outcome.old, "completed");
        EXPECT_EQ(outcome.oldRun, "postmigrate");
        EXPECT_EQ(outcome.new_, "completed") << outcome.said;
        EXPECT_EQ(outcome.newRun, "prelaunch");
        EXPECT_EQ(outcome.memory.size(), 8U);
        for (const auto& [block, content] : outcome.memory) {
            const auto expected = lost.find(block);
            EXPECT_EQ(content, expected == lost.end() ? "intact" : expected->second) << "in block '" << block << "'";
        }
    }

    /// The block names of the machine below; `kept` are left out.
    static std::map<std::string, std::string> allZeros(const std::string& kept = {}) {
        std::map<std::string, std::string> lost;
        for (const char* block : {"/rom@etc/acpi/rsdp", "/rom@etc/acpi/tables", "/rom@etc/table-loader", "0000:00:01.0/vga.rom",
                                  "0000:00:01.0/vga.vram", "pc.bios", "pc.rom", "ram0"})
            if (block != kept) lost[block] = "zeros";
        return lost;
    }

    static std::string wordOf(std::string block) {
        block.resize(StockVmm::wordLength, '.');
        return block;
    }

    static constexpr const char* machine = "pc-q35-10.0,memory-backend=ram0";
    static constexpr const char* qemuHasChanged = "this is what QEMU 10.0 and 11.1 did; if QEMU has learnt better, say so here";
    Workspace workspace;
};

TEST_F(StockLoss, losesNothingWhenNobodyTampers) {
    expectSilentLoss(handOver({}), {});
    expectSilentLoss(handOver({.newBinary = oldQemu()}), {});
    expectSilentLoss(handOver({.oldBinary = newQemu()}), {});
}

TEST_F(StockLoss, losesWhatTheNewVmmDoesNotShare) {
    expectSilentLoss(handOver("`aux-ram-share` missing", {.newMachine = ""}), allZeros("ram0"));
}

TEST_F(StockLoss, losesABlockWhoseEntryIsMissing) {
    expectSilentLoss(handOver("an entry removed", {.change = removedEntry}), {{"ram0", "zeros"}});
}

TEST_F(StockLoss, losesABlockWhoseEntryHasAnotherName) {
    expectSilentLoss(handOver("an entry renamed", {.change = renamedEntry}), {{"ram0", "zeros"}});
}

TEST_F(StockLoss, mixesUpBlocksWhoseDescriptorsAreSwapped) {
    expectSilentLoss(
        handOver("two descriptors swapped", {.change = swappedDescriptors}),
        {{"0000:00:01.0/vga.rom", "that of /rom@etc/table-loader"}, {"/rom@etc/table-loader", "that of 0000:00:01.0/vga.rom"}});
}

TEST_F(StockLoss, takesAnotherFileForABlock) {
    expectSilentLoss(handOver("another file", {.change = anotherFile}), {{"ram0", "zeros"}});
}

TEST_F(StockLoss, losesABlockThatItCannotMap) {
    // system/physmem.c:qemu_ram_alloc_internal forgets the entry and takes anonymous memory; 11.1.
    expectSilentLoss(handOver("a descriptor that is read-only", {.change = readOnlyDescriptor}),
                     {{"0000:00:01.0/vga.vram", "zeros"}});
}

TEST_F(StockLoss, losesEverythingByAMalformedServiceByte) {
    // migration/qemu-file.c:qemu_file_get_fd complains, migration/vmstate-types.c:load_fd returns false without an error, and
    // system/vl.c:qemu_init asks only for the error; 11.1.
    const StockOutcome outcome = handOver("a malformed service byte", {.change = badServiceByte});
    expectSilentLoss(outcome, allZeros());
    EXPECT_THAT(outcome.said, HasSubstr("cpr-in unexpected service byte: 88(X)"));
    expectSilentLoss(handOver({.oldBinary = newQemu(), .change = badServiceByte}), allZeros());
    // 10.0 does not look at the byte.
    expectSilentLoss(handOver("a malformed service byte", {.newBinary = oldQemu(), .change = badServiceByte}), {});
}

TEST_F(StockLoss, losesEverythingByAMissingDescriptor) {
    const StockOutcome outcome = handOver("a missing descriptor", {.change = missingDescriptor});
    expectSilentLoss(outcome, allZeros());
    EXPECT_THAT(outcome.said, HasSubstr("cpr-in no FD come with service byte"));
}

TEST_F(StockLoss, losesEverythingByAStreamThatEndsBeforeAServiceByte) {
    expectSilentLoss(handOver("a truncated state", {.change = truncated}), allZeros());
}

TEST_F(StockLoss, endsOnATruncatedStreamInTheOldRelease) {
    for (const auto& [fault, change] :
         std::map<std::string, Change>{{"a truncated state", truncated}, {"a missing descriptor", missingDescriptor}}) {
        SCOPED_TRACE(qemuHasChanged);
        const StockOutcome outcome = handOver(fault, {.newBinary = oldQemu(), .change = change});
        EXPECT_EQ(outcome.old, "failed");
        EXPECT_EQ(outcome.oldRun, "prelaunch");
        EXPECT_EQ(outcome.new_, "exited with status 1") << outcome.said;
    }
}

TEST_F(StockLoss, doesNotMindWhatComesAfterTheEnd) {
    expectSilentLoss(handOver("bytes after the end", {.change = goesOn}), {});
    expectSilentLoss(handOver("bytes after the end", {.newBinary = oldQemu(), .change = goesOn}), {});
}

TEST_F(StockLoss, growsTheOldVmmsVideoMemoryAndLeavesItSo) {
    const StockOutcome outcome = handOver("larger video memory", {.more = {"-global", "VGA.vgamem_mb=32"}});
    SCOPED_TRACE(qemuHasChanged);
    // `completed` once the stream has fitted into the socket, `failed` when the new VMM is quicker: nobody asked for a return
    // path.
    EXPECT_THAT(outcome.old, AnyOf("completed", "failed"));
    EXPECT_EQ(outcome.new_, "exited with status 1");
    EXPECT_THAT(outcome.said, HasSubstr("Size mismatch: 0000:00:01.0/vga.vram: 0x1000000 != 0x2000000"));
    EXPECT_EQ(outcome.videoMemoryFile, 32U * 1024 * 1024);
}

TEST_F(StockLoss, losesNothingOfAFileThatBothWereToldOf) {
    expectSilentLoss(shareFile("nothing", fileMemory("ram")), {});
}

TEST_F(StockLoss, takesAnotherFileThatTheNewVmmWasToldOf) {
    expectSilentLoss(shareFile("another file", fileMemory("somebody-elses")), {{"ram0", "zeros"}});
}

TEST_F(StockLoss, endsOnWhatItCanCompareOfASharedFile) {
    for (const StockOutcome& outcome : {shareFile("a file of another size", fileMemory("ram", ",share=on,size=32M")),
                                        shareFile("larger video memory", fileMemory("ram"), {"-global", "VGA.vgamem_mb=32"}),
                                        shareFile("`x-ignore-shared` missing", fileMemory("ram"), {}, false)}) {
        SCOPED_TRACE(qemuHasChanged);
        EXPECT_THAT(outcome.new_, HasSubstr("exited with status 1")) << outcome.said;
    }
}

TEST_F(StockLoss, doesNotMindAPrivateMappingOfASharedFile) {
    expectSilentLoss(shareFile("a private mapping", fileMemory("ram", ",share=off,size=64M")), {});
}

// No loss, and published beside the others (tests/results/question.md): with cpr-exec QEMU finds out that it may execute nothing
// once it has stopped its guest and written its state, and lets the guest run on.
TEST_F(StockLoss, doesNotComeOfASandboxThatForbidsToExecuteTheNewVmm) {
    const std::vector<std::string> arguments{"-machine", machine + std::string(StockHandover::sharing), "-sandbox",
                                             "on,spawn=deny"};
    StockVmm old(newQemu(), arguments);
    old.ask("cont");
    ASSERT_EQ(old.runState(), "running");
    old.ask("migrate-set-parameters", {{"mode", "cpr-exec"}, {"cpr-exec-command", {newQemu(), "-version"}}});
    old.ask("migrate", {{"uri", "file:" + workspace.path() + "/state"}});
    SCOPED_TRACE(qemuHasChanged);
    EXPECT_TRUE(turnUntil([&] { return old.migration() == "failed"; }, milliseconds(20'000))) << old.migration();
    EXPECT_THAT(old.ask("query-migrate").value("error-desc", ""), HasSubstr("Operation not permitted"));
    EXPECT_TRUE(turnUntil([&] { return old.runState() == "running"; }, milliseconds(20'000))) << old.runState();
    EXPECT_TRUE(fs::exists(workspace.path() + "/state"));
}

}  // namespace
}  // namespace vh::test
