// Guest memory that QEMU loses without a word when something is wrong in the CPR channel, and that `relayed` does not let it
// lose.
//
// Each fault is shown twice. StockLoss drives two QEMUs by their monitors alone and says what becomes of the memory: it describes
// QEMU, not us, and fails when QEMU changes. RelayedLoss has the same fault in a handover of a guest, which must stay where it
// is.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <vector>

#include <gmock/gmock.h>

#include "tests/support/cpr_tamperer.h"
#include "tests/support/failure_matrix.h"
#include "tests/support/vm_fixture.h"
#include "vmm-shim/cpr_state.h"
#include "vmm-shim/file_identity.h"
#include "vmm-shim/unix_socket.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::AllOf;
using testing::AnyOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Key;
namespace fs = std::filesystem;

// The faults.

using Change = CprTamperer::Change;

/// The entry whose name ends so, and its descriptor's place.
std::size_t entryOf(const CprState& state, const std::string& suffix) {
    const auto found = std::ranges::find_if(state.fds, [&](const CprFd& entry) { return entry.name.ends_with(suffix); });
    EXPECT_NE(found, state.fds.end()) << "nothing ends in '" << suffix << "'";
    return static_cast<std::size_t>(found - state.fds.begin());
}

/// A change to the state that is no change to its form.
Change inState(const std::function<void(CprState&, std::vector<UniqueFd>&)>& change) {
    return [change](CprTraffic& traffic) {
        CprState state = decodeCprState(traffic.bytes);
        change(state, traffic.descriptors);
        traffic.bytes = encodeCprState(state).bytes;
    };
}

void nothing(CprTraffic&) {}

const Change removedEntry = inState([](CprState& state, std::vector<UniqueFd>& descriptors) {
    const auto at = static_cast<std::ptrdiff_t>(entryOf(state, "ram0"));
    state.fds.erase(state.fds.begin() + at);
    descriptors.erase(descriptors.begin() + at);
});

const Change renamedEntry =
    inState([](CprState& state, std::vector<UniqueFd>&) { state.fds[entryOf(state, "ram0")].name = "ram1"; });

const Change swappedDescriptors = inState([](CprState& state, std::vector<UniqueFd>& descriptors) {
    std::swap(descriptors[entryOf(state, "vga.rom")], descriptors[entryOf(state, "etc/table-loader")]);  // 64 KiB each
});

const Change anotherFile = inState([](CprState& state, std::vector<UniqueFd>& descriptors) {
    UniqueFd& descriptor = descriptors[entryOf(state, "ram0")];
    struct stat status {};
    ::fstat(descriptor.get(), &status);
    descriptor = UniqueFd(::memfd_create("somebody-elses", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(descriptor.get(), status.st_size), 0);
    ASSERT_EQ(::fchmod(descriptor.get(), 0666), 0);
});

const Change readOnlyDescriptor = inState([](CprState& state, std::vector<UniqueFd>& descriptors) {
    UniqueFd& descriptor = descriptors[entryOf(state, "vga.vram")];
    descriptor = UniqueFd(::open(("/proc/self/fd/" + std::to_string(descriptor.get())).c_str(), O_RDONLY | O_CLOEXEC));
});

void badServiceByte(CprTraffic& traffic) {
    traffic.bytes[encodeCprState(decodeCprState(traffic.bytes)).serviceBytes.front()] = 'X';
}

void missingDescriptor(CprTraffic& traffic) {
    traffic.descriptors.pop_back();
}

void truncated(CprTraffic& traffic) {
    traffic.bytes.resize(encodeCprState(decodeCprState(traffic.bytes)).serviceBytes.back());
}

void goesOn(CprTraffic& traffic) {
    traffic.bytes += "and more";
}

// Two QEMUs without virt-handover.

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
    std::string old, fresh;        ///< How the migration ended on either side, or how the VMM did.
    std::string oldRun, freshRun;  ///< Run states of those that live.
    std::string said;              ///< By the new VMM.
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
        StockVmm fresh(handover.newBinary, arguments);
        EXPECT_TRUE(turnUntil([&] { return isListening(cpr); }, milliseconds(20'000))) << fresh.said();
        // The old VMM is held until the new one listens, as by anybody who prepares a new VMM while the guest runs. Without that,
        // QEMU is saved from some faults by an accident: a new VMM that gives the state up hangs up at once, and the old one
        // finds nobody on the main channel yet (migration/cpr.c:cpr_state_load, 11.1).
        auto tamperer = std::make_unique<CprTamperer>(tampered, cpr, handover.change, HangUp::Held);
        old.ask("migrate-set-parameters", {{"mode", "cpr-transfer"}});
        old.ask("migrate", {{"channels", json::array({channel("main", main), channel("cpr", tampered)})}});
        turnUntil([&] { return isListening(main) || !fresh.alive(); }, milliseconds(20'000));
        tamperer.reset();

        awaitEnd(old, fresh, blocks, outcome);
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
        StockVmm fresh(newQemu(), arguments, newMemory);
        old.ask("migrate-set-capabilities", capability(true));
        fresh.ask("migrate-set-capabilities", capability(newCapability));
        fresh.ask("migrate-incoming", main);
        old.ask("migrate", main);
        awaitEnd(old, fresh, blocks, outcome);
        expectAsInLossMatrix({"x-ignore-shared, 10.0 to 11.1", fault, inWords(outcome)});
        return outcome;
    }

    std::string fileMemory(const std::string& file, const std::string& more = ",share=on,size=64M") const {
        return "memory-backend-file,id=ram0,mem-path=" + workspace.path() + "/" + file + more;
    }

    /// Waits for both sides, and looks at what the new VMM has in memory then.
    static void awaitEnd(StockVmm& old, StockVmm& fresh, const std::map<std::string, std::uint64_t>& blocks,
                         StockOutcome& outcome) {
        const auto isOver = [](const std::string& migration) {
            return migration == "completed" || migration == "failed" || migration.starts_with("exited") ||
                   migration.starts_with("was killed");
        };
        turnUntil([&] { return isOver(outcome.old = old.migration()); }, milliseconds(20'000));
        turnUntil([&] { return isOver(outcome.fresh = fresh.migration()); }, milliseconds(20'000));
        outcome.oldRun = old.runState();
        outcome.said = fresh.said();
        outcome.videoMemoryFile = old.sizeOfFile("vga.vram");
        if (!fresh.alive()) return;
        outcome.freshRun = fresh.runState();
        for (const auto& [block, address] : fresh.addressesOfBlocks()) {
            const std::string found = fresh.read(address);
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
        if (outcome.fresh != "completed") return "the new VMM " + outcome.fresh;
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
        EXPECT_EQ(outcome.fresh, "completed") << outcome.said;
        EXPECT_EQ(outcome.freshRun, "prelaunch");
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
        EXPECT_EQ(outcome.fresh, "exited with status 1") << outcome.said;
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
    EXPECT_EQ(outcome.fresh, "exited with status 1");
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
        EXPECT_THAT(outcome.fresh, HasSubstr("exited with status 1")) << outcome.said;
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

// The same faults in handovers of a guest, and many more of no name. One VM lives through all of them, in this order, and is well
// at the end: first on the old release, then, after an upgrade, on the new one.

std::vector<FileIdentity> filesOf(const CprTraffic& traffic) {
    std::vector<FileIdentity> files;
    for (const UniqueFd& descriptor : traffic.descriptors) files.push_back(FileIdentity::of(descriptor.get()));
    return files;
}

/// Changes something at random; what, in words. What is left as it was is changed again.
std::string mutate(CprTraffic& traffic, std::mt19937& random) {
    const std::string before = traffic.bytes;
    const std::vector<FileIdentity> filesBefore = filesOf(traffic);
    const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random() % bound); };
    std::string& bytes = traffic.bytes;
    std::vector<UniqueFd>& descriptors = traffic.descriptors;
    std::string what;
    while (bytes == before && filesOf(traffic) == filesBefore) {
        const std::size_t at = below(bytes.size()), length = 1 + below(std::min<std::size_t>(64, bytes.size() - at)),
                          one = below(descriptors.size()), other = below(descriptors.size());
        const std::string place = std::to_string(at), extent = std::to_string(length) + " bytes at " + place;
        switch (below(9)) {
            case 0:
                bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
                what = "a bit of byte " + place;
                break;
            case 1:
                bytes[at] = static_cast<char>(below(256));
                what = "byte " + place;
                break;
            case 2:
                bytes.insert(at, length, static_cast<char>(below(256)));
                what = "inserted " + extent;
                break;
            case 3:
                bytes.erase(at, length);
                what = "deleted " + extent;
                break;
            case 4:
                bytes.resize(at);
                what = "cut off at " + place;
                break;
            case 5:
                bytes.insert(below(bytes.size()), bytes.substr(at, length));
                what = "repeated elsewhere: " + extent;
                break;
            case 6:
                std::ranges::shuffle(descriptors, random);
                what = "shuffled descriptors";
                break;
            case 7:
                descriptors.erase(descriptors.begin() + static_cast<std::ptrdiff_t>(one));
                what = "without descriptor " + std::to_string(one);
                break;
            default:
                descriptors[one] = UniqueFd(::fcntl(descriptors[other].get(), F_DUPFD_CLOEXEC, 0));
                what = "descriptor " + std::to_string(other) + " also for " + std::to_string(one);
        }
    }
    return what;
}

/// Of a handover of ours.
std::string inWords(const json& report) {
    const std::string outcome = report.value("outcome", "refused");
    if (outcome != "rolled back") return outcome;
    return report["vmm"]["stopToResumeMs"].is_null() ? "rolled back, never stopped" : "rolled back";
}

/// Where the state is changed on its way.
enum class Leg {
    ToRelay,   ///< What virt-handover is told by the old VMM.
    ToNewVmm,  ///< What the new VMM makes of what virt-handover has found good.
};

class RelayedLoss : public testing::Test {
 protected:
    static void SetUpTestSuite() {
        vm = std::make_unique<OwnHost>();
        // All of its memory goes over the CPR channel.
        const VerbResult started = vm->start({.owner = "vmm", .withLinux = true}, patience);
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
        filesAtFirst = filesOfBlocks();
        ASSERT_THAT(filesAtFirst, AllOf(Contains(Key("ram0")), Contains(Key("pc.bios"))));
    }
    static void TearDownTestSuite() {
        EXPECT_EQ(vm->destroy().code, ExitCode::Done);
        vm->end();
        vm.reset();
    }

    void SetUp() override {
        pid = vmmPid(vm->host, "vm");
        ASSERT_GT(pid, 0) << "an earlier test lost the VM";
    }

    static std::string generation() { return vm->show()["directory"]; }

    static json upgradeTo(const std::string& binary, const Handover::Observer& observer = nullptr,
                          Design design = Design::Relayed) {
        return vm->upgrade({.binary = binary, .design = design}, observer);
    }

    static json tamperedUpgrade(const Change& change, Leg leg = Leg::ToRelay, Design design = Design::Relayed) {
        int changes = 0;
        const auto counted = [&](CprTraffic& traffic) {
            change(traffic);
            ++changes;
        };
        json report;
        if (leg == Leg::ToRelay) {
            const HandoverTamperer tamperer(generation(), counted);
            report = upgradeTo(newQemu());
        } else {
            const fs::path old = generation();
            const std::string fresh = old.parent_path() / std::to_string(std::stoul(old.filename()) + 1);
            std::unique_ptr<CprTamperer> tamperer;
            report = upgradeTo(
                newQemu(),
                [&](const HandoverProgress& progress) {
                    if (progress.state != State::Exchanging) return;
                    const std::string path = cprChannelPath(fresh);
                    fs::rename(path, path + ".real");
                    tamperer = std::make_unique<CprTamperer>(path, path + ".real", counted);
                },
                design);
        }
        EXPECT_EQ(changes, 1) << "the state did not come by, so the handover met no fault";
        return report;
    }

    /// Block -> its file, how long that is, and a checksum of those that hold firmware and tables, which nobody writes to once
    /// the guest is up. A VM keeps these for life, whichever VMM runs it.
    static std::map<std::string, std::string> filesOfBlocks() {
        constexpr std::uint64_t longestFirmware = 2 * 1024 * 1024;
        const std::string table = vm->ask("x-query-ramblock").value("human-readable-text", "");
        const pid_t vmm = vmmPid(vm->host, "vm");
        std::map<std::string, std::string> files;
        for (const RamBlock& block : gatherRamBlocks({.table = table, .pid = vmm})) {
            std::string& file = files[block.idstr] = "none";
            if (!block.file) continue;
            file = "inode " + std::to_string(block.file->identity.inode) + ", " + std::to_string(block.file->size) + " bytes";
            if (block.max_length > longestFirmware) continue;
            std::string content(block.file->size, '\0');
            std::ifstream("/proc/" + std::to_string(vmm) + "/fd/" + std::to_string(block.file->fd), std::ios::binary)
                .read(content.data(), static_cast<std::streamsize>(content.size()));
            file += ", checksum " + std::to_string(std::hash<std::string>()(content));
        }
        return files;
    }

    void expectNothingLost(const json& report) {
        test::expectNothingLost(report);
        EXPECT_EQ(vm->ask("query-status").value("status", ""), "running");
        EXPECT_EQ(filesOfBlocks(), filesAtFirst);
    }

    /// The guest was not stopped for a moment and runs where it ran.
    void expectGuestStayed(const json& report) {
        ASSERT_EQ(report.value("outcome", ""), "rolled back") << report.dump(2);
        EXPECT_TRUE(report["vmm"]["stopToResumeMs"].is_null()) << report.dump(2);
        ASSERT_EQ(vmmPid(vm->host, "vm"), pid);
        expectNothingLost(report);
    }

    void expectUpgraded(const json& report) {
        ASSERT_EQ(report.value("outcome", ""), "upgraded") << report.dump(2);
        EXPECT_NE(vmmPid(vm->host, "vm"), pid);
        pid = vmmPid(vm->host, "vm");
        expectNothingLost(report);
        expectGuestIsWell(vm->host, "vm");
    }

    void expectFaultsToBeMet();
    void expectMutationsToBeMet(Leg leg, int count);

    static inline std::unique_ptr<OwnHost> vm;
    static inline std::map<std::string, std::string> filesAtFirst;
    int pid = 0;
};

void RelayedLoss::expectFaultsToBeMet() {
    struct Fault {
        const char* name;
        Change change;
        testing::Matcher<std::string> whenRelayMeetsIt, whenNewVmmMeetsIt;
    };
    const auto missing = HasSubstr("RAM block 'ram0' is not in the CPR state"),
               foreign = HasSubstr("is another file than the one that the old VMM has mapped"),
               otherRam = HasSubstr("the new VMM maps another file"),
               unmapped = HasSubstr("the new VMM has memory of its own for it");
    const auto everything = AllOf(otherRam, HasSubstr("(and 7 more)"));
    const Fault faults[] = {
        {"an entry removed", removedEntry, missing, otherRam},
        {"an entry renamed", renamedEntry, missing, otherRam},
        {"two descriptors swapped", swappedDescriptors, foreign,
         HasSubstr("maps the file of the old VMM's block '/rom@etc/table-loader'")},
        {"another file", anotherFile, foreign, otherRam},
        // The file is the right one; what the new VMM makes of it is not.
        {"a descriptor that is read-only", readOnlyDescriptor, HasSubstr("vga.vram' in the CPR state cannot be written to"),
         unmapped},
        {"a malformed service byte", badServiceByte, HasSubstr("should be 32 and is 88"), everything},
        {"a missing descriptor", missingDescriptor, AllOf(HasSubstr("the CPR state names"), HasSubstr("came with it")),
         everything},
        {"a truncated state", truncated, AllOf(HasSubstr("service byte of"), HasSubstr("0 are left")), everything},
    };
    for (const Fault& fault : faults) {
        SCOPED_TRACE(fault.name);
        const json relayMetIt = tamperedUpgrade(fault.change);
        EXPECT_THAT(relayMetIt.value("cause", ""), fault.whenRelayMeetsIt);
        expectAsInLossMatrix({"relayed", fault.name, inWords(relayMetIt)});
        expectGuestStayed(relayMetIt);
        const json newVmmMetIt = tamperedUpgrade(fault.change, Leg::ToNewVmm);
        EXPECT_THAT(newVmmMetIt.value("cause", ""), fault.whenNewVmmMeetsIt);
        expectAsInLossMatrix({"relayed, behind the relay", fault.name, inWords(newVmmMetIt)});
        expectGuestStayed(newVmmMetIt);
        if (HasFatalFailure()) return;
    }
    const json goesOnReport = tamperedUpgrade(goesOn);
    EXPECT_THAT(goesOnReport.value("cause", ""), AnyOf(HasSubstr("byte after the descriptor entries should be 5 and is 97"),
                                                       HasSubstr("8 bytes after the end of the CPR state")));
    expectAsInLossMatrix({"relayed", "bytes after the end", inWords(goesOnReport)});
    expectGuestStayed(goesOnReport);
    const json unshared = upgradeTo(vm->workspace.impostor(
        "for argument; do shift; set -- \"$@\" \"${argument%,aux-ram-share=on}\"; done\nexec " + newQemu() + " \"$@\""));
    EXPECT_THAT(unshared.value("cause", ""), HasSubstr("aux-ram-share=on, or share=on of its backend, is missing"));
    expectAsInLossMatrix({"relayed", "`aux-ram-share` missing", inWords(unshared)});
    expectGuestStayed(unshared);
    expectGuestIsWell(vm->host, "vm");
}

void RelayedLoss::expectMutationsToBeMet(Leg leg, int count) {
    const auto seed = static_cast<std::mt19937::result_type>(numberFrom("VH_TEST_SEED", 20'250'801));
    std::mt19937 random(seed);
    int upgrades = 0;
    for (int i = 1; i <= count; ++i) {
        std::string mutation;
        const json report = tamperedUpgrade([&](CprTraffic& traffic) { mutation = mutate(traffic, random); }, leg);
        const std::string cause = report.value("cause", "");
        SCOPED_TRACE("mutation " + std::to_string(i) + ": " + mutation + "; " + cause);
        if (leg == Leg::ToNewVmm && report.value("outcome", "") == "upgraded") {
            // The new VMM understood what it was told, as the files of its blocks prove.
            ++upgrades;
            std::cout << "without effect: " << mutation << std::endl;
            expectUpgraded(report);
        } else {
            // QEMU may wait for ever for what it thinks is still to come, which is what the deadline is for; the relay may not.
            EXPECT_THAT(cause, leg == Leg::ToRelay ? testing::Matcher<std::string>(HasSubstr("CPR state"))
                                                   : AnyOf(HasSubstr("new VMM"), HasSubstr("exchanging took longer")));
            expectGuestStayed(report);
        }
        if (i % 50 == 0) expectGuestIsWell(vm->host, "vm");
        if (HasFailure()) break;
    }
    std::cout << count << " mutations with VH_TEST_SEED=" << seed << ": " << upgrades << " without effect, the rest rolled back"
              << std::endl;
}

TEST_F(RelayedLoss, isMetAndNamed) {
    expectFaultsToBeMet();
}

// Nobody of ours stands in the channel of vmm-owned: what QEMU made of the fault is found by comparing both VMMs' blocks.
TEST_F(RelayedLoss, isMetInVmmOwnedToo) {
    for (const auto& [name, change] : std::map<std::string, Change>{{"an entry removed", removedEntry},
                                                                    {"an entry renamed", renamedEntry},
                                                                    {"two descriptors swapped", swappedDescriptors},
                                                                    {"another file", anotherFile},
                                                                    {"a descriptor that is read-only", readOnlyDescriptor},
                                                                    {"a malformed service byte", badServiceByte},
                                                                    {"a missing descriptor", missingDescriptor},
                                                                    {"a truncated state", truncated}}) {
        SCOPED_TRACE(name);
        const json report = tamperedUpgrade(change, Leg::ToNewVmm, Design::VmmOwned);
        expectAsInLossMatrix({"vmm-owned", name, inWords(report)});
        expectGuestStayed(report);
        if (HasFatalFailure()) return;
    }
    const json unshared =
        upgradeTo(vm->workspace.impostor("for argument; do shift; set -- \"$@\" \"${argument%,aux-ram-share=on}\"; done\nexec " +
                                         newQemu() + " \"$@\""),
                  nullptr, Design::VmmOwned);
    expectAsInLossMatrix({"vmm-owned", "`aux-ram-share` missing", inWords(unshared)});
    expectGuestStayed(unshared);
    const json larger =
        upgradeTo(vm->workspace.impostor("exec " + newQemu() + " \"$@\" -global VGA.vgamem_mb=32"), nullptr, Design::VmmOwned);
    expectAsInLossMatrix({"vmm-owned", "larger video memory", inWords(larger)});
    expectGuestStayed(larger);
    expectGuestIsWell(vm->host, "vm");
}

TEST_F(RelayedLoss, isUndoneWhereTheNewVmmGrewTheOldOnesMemory) {
    const json report = upgradeTo(vm->workspace.impostor("exec " + newQemu() + " \"$@\" -global VGA.vgamem_mb=32"));
    EXPECT_THAT(report.value("cause", ""), HasSubstr("vga.vram"));
    EXPECT_THAT(report["warnings"].dump(), HasSubstr("it was cut back to what the old VMM has"));
    expectAsInLossMatrix({"relayed", "larger video memory", inWords(report)});
    expectGuestStayed(report);
    expectGuestIsWell(vm->host, "vm");
}

TEST_F(RelayedLoss, doesNotComeOfMutatedStates) {
    expectMutationsToBeMet(Leg::ToRelay, 75);
}

TEST_F(RelayedLoss, isNotSuspectedInEntriesOfAnotherOrder) {
    expectUpgraded(tamperedUpgrade(inState([](CprState& state, std::vector<UniqueFd>& descriptors) {
        std::ranges::reverse(state.fds);
        std::ranges::reverse(descriptors);
    })));
}

TEST_F(RelayedLoss, isMetAndNamedFromTheNewRelease) {
    expectFaultsToBeMet();
}

TEST_F(RelayedLoss, doesNotComeOfMutatedStatesOfTheNewRelease) {
    expectMutationsToBeMet(Leg::ToRelay, 75);
}

TEST_F(RelayedLoss, doesNotComeOfAStateThatTheNewVmmMisunderstands) {
    expectMutationsToBeMet(Leg::ToNewVmm, 150);
}

TEST_F(RelayedLoss, leavesAGuestThatIsUpgradedAsEver) {
    expectUpgraded(upgradeTo(newQemu()));
}

// manager-owned tells the new VMM one file and its length, by its arguments; nothing else of RAM is told at all.
class ManagerOwnedLoss : public HostFixture {
 protected:
    /// An upgrade to a QEMU that was told something else than the manager said.
    void expectMet(const std::string& fault, const std::string& script) {
        SCOPED_TRACE(fault);
        const int pid = vmmPid(host, "vm");
        const json report = upgrade({.binary = workspace.impostor(script), .design = Design::ManagerOwned});
        expectAsInLossMatrix({"manager-owned", fault, inWords(report)});
        EXPECT_EQ(report.value("outcome", ""), "rolled back") << report.dump(2);
        EXPECT_EQ(vmmPid(host, "vm"), pid);
        std::cout << fault << ": " << report.value("cause", "") << std::endl;
        expectGuestIsWell(host, "vm");
    }

    /// Changes each argument by a command of sed, and starts the new QEMU with that.
    static std::string changed(const std::string& command) {
        return "for argument; do shift; set -- \"$@\" \"$(printf %s \"$argument\" | sed '" + command + "')\"; done\nexec " +
               newQemu() + " \"$@\"";
    }
};

TEST_F(ManagerOwnedLoss, isMetAndNamed) {
    ASSERT_EQ(start({}, patience).code, ExitCode::Done);
    const std::string other = workspace.file("somebody-elses", "");
    std::filesystem::resize_file(other, 192 * 1024 * 1024);
    ASSERT_EQ(::chmod(other.c_str(), 0666), 0);
    expectMet("another file", changed("s#mem-path=[^,]*#mem-path=" + other + "#"));
    expectMet("a private mapping", changed("/mem-path/s/share=on/share=off/"));
    expectMet("a file of another size", changed("/mem-path/s/size=201326592/size=134217728/"));
    expectMet("larger video memory", "exec " + newQemu() + " \"$@\" -global VGA.vgamem_mb=32");
}

}  // namespace
}  // namespace vh::test
