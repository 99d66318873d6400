#include "manager/record/vm_record.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/record/vm_directory.h"
#include "tests/support/golden.h"
#include "tests/support/main_loop.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/file.h"

namespace vh {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
namespace fs = std::filesystem;

const std::string definitionText = R"(name: web1
machine: q35
memory: { size: 256MiB }
boot: { kernel: /vm/vmlinuz }
)";

VmRecord exampleRecord() {
    VmRecord record;
    record.definitionFile = "/etc/virt-handover/vms/web1.yaml";
    record.definitionText = definitionText;
    record.uuid = "6f1c7a52-0b7e-4c39-9c61-0d5f6d0e8a11";
    record.machine = "pc-q35-10.0";
    record.accelerator = Accelerator::Kvm;
    record.vmm = {.generation = 3,
                  .pid = 4711,
                  .startTime = ~std::uint64_t{0},
                  .binary = "/usr/bin/qemu",
                  .version = "10.0.13",
                  .ramDescriptor = 7,
                  .ram = {.device = 1, .inode = std::uint64_t{1} << 63},
                  .disks = {{"root", {.device = 2049, .inode = 77}}}};
    record.guestWasRunning = false;
    return record;
}

unsigned modeOf(const std::string& path) {
    struct stat status {};
    EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
    return status.st_mode & 07777;
}

class VmRecordTest : public NoDescriptorLeaks {
 protected:
    VmRecordTest() { fs::create_directories(directory_.path()); }
    ~VmRecordTest() override { ::umask(umask_); }

    void writeRaw(const std::string& text) const { std::ofstream(recordFile()) << text; }
    std::string recordFile() const { return directory_.path() + "/record.json"; }
    std::string readError() const {
        try {
            directory_.read();
        } catch (const std::runtime_error& error) {
            EXPECT_THAT(obstacleOf(error).remedy, HasSubstr("put the right record back"));
            return error.what();
        }
        return "(read)";
    }

    const mode_t umask_ = ::umask(077);  // The strictest: modes are what the code says, not what it is left with.
    TemporaryDirectory runtime_;
    VmDirectory directory_{runtime_.path(), "web1"};
};

/// A file system of 256 KiB under a directory.
class SmallFileSystem {
 public:
    explicit SmallFileSystem(const std::string& directory) : directory_(directory) {
        isThere_ = ::mount("tmpfs", directory_.c_str(), "tmpfs", 0, "size=256k,mode=755") == 0;
    }
    SmallFileSystem(const SmallFileSystem&) = delete;
    ~SmallFileSystem() {
        if (isThere_) ::umount2(directory_.c_str(), MNT_DETACH);
    }
    bool isThere() const { return isThere_; }
    void fill() const {
        std::ofstream filling(directory_ + "/filling");
        while (filling << std::string(4096, 'x') << std::flush) continue;
    }

 private:
    std::string directory_;
    bool isThere_ = false;
};

TEST_F(VmRecordTest, canBeSettledWhereNothingMoreCanBeWritten) {
    const SmallFileSystem small(runtime_.path());
    if (!small.isThere()) GTEST_SKIP() << "needs to mount a tmpfs";
    directory_.makeGeneration(1, ::geteuid(), ::getegid());
    VmRecord record = exampleRecord();
    record.retiring = record.vmm;
    directory_.write(record);
    small.fill();
    EXPECT_THROW(replaceFile(runtime_.path() + "/more", "x"), std::system_error) << "there is room";
    record.retiring.reset();
    record.forgetHandover();
    directory_.write(record);
    EXPECT_FALSE(directory_.read().value().isHalfDone());
    EXPECT_FALSE(std::filesystem::exists(directory_.path() + "/record.json.reserved")) << "the room that was kept is given back";
}

TEST_F(VmRecordTest, isNotThereAtFirst) {
    EXPECT_EQ(directory_.read(), std::nullopt);
}

TEST_F(VmRecordTest, comesBackAsItWasWritten) {
    VmRecord record = exampleRecord();
    record.vmm.vfio = {{"iommufd0", {5, {1, 2}}}, {"vfio/hd0", {6, {1, 3}}}};
    record.passthrough = {{.id = "hd0",
                           .address = "0000:00:10.0",
                           .group = 7,
                           .node = "/dev/vfio/devices/vfio0",
                           .bound = true,
                           .formerOwner = NodeOwner{1, 2}}};
    for (const bool underHandover : {false, true}) {
        if (underHandover) record.memoryBefore = {{{.device = 1, .inode = 77}, 16 << 20}};
        if (underHandover) record.oomScore = -500;
        if (underHandover) record.parametersBefore = {{"downtime-limit", 300}, {"max-bandwidth", std::uint64_t{1} << 63}};
        record.starting = !underHandover;
        record.toldToRun = underHandover;
        if (underHandover) record.retiring = VmmRecord{.generation = 2, .pid = 4710, .startTime = 11, .binary = "/usr/bin/qemu"};
        if (underHandover)
            record.new_ = VmmRecord{.generation = 4,
                                    .pid = 4712,
                                    .startTime = 12,
                                    .binary = "/opt/qemu",
                                    .version = {},
                                    .ramDescriptor = {},
                                    .ram = {},
                                    .inboxDescriptor = 9};
        directory_.write(record);
        const auto back = directory_.read();
        ASSERT_TRUE(back);
        EXPECT_EQ(back->definitionFile, record.definitionFile);
        EXPECT_EQ(back->definitionText, record.definitionText);
        EXPECT_EQ(back->uuid, record.uuid);
        EXPECT_EQ(back->machine, record.machine);
        EXPECT_EQ(back->accelerator, record.accelerator);
        EXPECT_TRUE(back->vmm == record.vmm);
        EXPECT_TRUE(back->new_ == record.new_);
        EXPECT_TRUE(back->retiring == record.retiring);
        EXPECT_EQ(back->starting, record.starting);
        EXPECT_EQ(back->toldToRun, record.toldToRun);
        EXPECT_EQ(back->passthrough, record.passthrough);
        EXPECT_EQ(back->guestWasRunning, record.guestWasRunning);
        EXPECT_EQ(back->memoryBefore, record.memoryBefore);
        EXPECT_EQ(back->oomScore, record.oomScore);
        EXPECT_EQ(back->parametersBefore, record.parametersBefore);
    }
}

TEST_F(VmRecordTest, hasTheFormatThatOtherReleasesRead) {
    directory_.write(exampleRecord());
    ::umask(umask_);  // For a golden that is written anew.
    expectGolden("record.json", fileText(recordFile()));
}

TEST_F(VmRecordTest, resolvesTheDefinitionItKeeps) {
    const VmDefinition definition = exampleRecord().definition();
    EXPECT_EQ(definition.name, "web1");
    EXPECT_EQ(definition.machine, "pc-q35-10.0") << "not the alias";
    EXPECT_EQ(definition.uuid, exampleRecord().uuid);
    EXPECT_EQ(definition.accelerator, Accelerator::Kvm);
}

TEST_F(VmRecordTest, isReadableByItsOwnerOnly) {
    ::umask(0);
    directory_.write(exampleRecord());
    EXPECT_EQ(modeOf(recordFile()), 0600U);
}

TEST_F(VmRecordTest, ofAForeignFormatIsRefused) {
    directory_.write(exampleRecord());
    std::string text = fileText(recordFile());
    const std::string ours = "\"format\": 1";
    ASSERT_NE(text.find(ours), std::string::npos);
    writeRaw(text.replace(text.find(ours), ours.size(), "\"format\": 2"));
    EXPECT_THAT(readError(), AllOf(HasSubstr("'" + recordFile() + "'"), HasSubstr("its format is 2")));
}

TEST_F(VmRecordTest, thatWasCutOffAnywhereNamesItsFile) {
    directory_.write(exampleRecord());
    const std::string text = fileText(recordFile());
    // The last byte is the line end, without which the record is whole.
    for (std::size_t length = 0; length + 1 < text.size(); ++length) {
        writeRaw(text.substr(0, length));
        EXPECT_THAT(readError(), AllOf(HasSubstr("vm 'web1'"), HasSubstr("'" + recordFile() + "'")))
            << "after " << length << " bytes";
    }
}

TEST_F(VmRecordTest, ofOddShapesNamesItsFile) {
    for (const char* text :
         {"[]", "null", "5", "\"x\"", "{}", R"({"format": 1})", R"({"format": "1"})", R"({"format": 1, "vmm": []})"}) {
        writeRaw(text);
        EXPECT_THAT(readError(), HasSubstr("'" + recordFile() + "'")) << text;
    }
}

TEST_F(VmRecordTest, namesTheNewVmmAlsoAsEarlierReleasesCalledIt) {
    VmRecord record = exampleRecord();
    record.new_ = VmmRecord{.generation = 4, .pid = 4712, .startTime = 12, .binary = "/opt/qemu"};
    directory_.write(record);
    std::string text = fileText(recordFile());
    text.replace(text.find("\"new\""), 5, "\"fresh\"");
    writeRaw(text);
    EXPECT_TRUE(directory_.read()->new_ == record.new_);
}

TEST_F(VmRecordTest, isOfTheVmInWhoseDirectoryItIs) {
    const VmDirectory other(runtime_.path(), "web2");
    fs::create_directories(other.path());
    directory_.write(exampleRecord());
    const std::string ours = fileText(recordFile());
    // Records of earlier releases have no name but the definition's.
    const std::string nameless = std::string(ours).erase(ours.find("  \"vm\": \"web1\",\n"), 16);
    for (const std::string& text : {ours, nameless}) {
        ASSERT_EQ(text.find("\"vm\": \"") == std::string::npos, text == nameless);
        writeRaw(text);
        EXPECT_EQ(readError(), "(read)");
        std::ofstream(other.path() + "/record.json") << text;
        EXPECT_THROW(
            try { other.read(); } catch (const std::runtime_error& error) {
                EXPECT_THAT(obstacleOf(error).text(),
                            AllOf(HasSubstr("it is the record of vm 'web1'"), HasSubstr("destroy web2")));
                throw;
            },
            std::runtime_error);
    }
}

TEST_F(VmRecordTest, thatIsDamagedIsNotToldWhole) {
    VmRecord record = exampleRecord();
    record.definitionText += std::string(5000, '#');
    directory_.write(record);
    const std::string text = fileText(recordFile());
    for (const std::string& damaged :
         {text.substr(0, text.find("#####") + 3000),
          std::string(text).replace(text.find("\"definitionText\": "), 18, "\"definitionText\": 1")}) {
        writeRaw(damaged);
        EXPECT_THAT(readError(), AllOf(HasSubstr("nobody but you can tell"), testing::Not(HasSubstr("####"))));
        EXPECT_LT(readError().size(), 800U);
    }
}

TEST_F(VmRecordTest, staysTheOldOneWhenTheDiskIsFull) {
    directory_.write(exampleRecord());
    // In a child, because a file that may not grow is a limit of the process.
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        std::signal(SIGXFSZ, SIG_IGN);
        const rlimit tiny{64, 64};
        ::setrlimit(RLIMIT_FSIZE, &tiny);
        VmRecord changed = exampleRecord();
        changed.machine = "another";
        try {
            directory_.write(changed);
        } catch (const std::system_error& error) {
            ::_exit(error.code() == std::errc::file_too_large ? 0 : 2);
        }
        ::_exit(1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << "the write must fail by its own error";
    const auto kept = directory_.read();
    ASSERT_TRUE(kept);
    EXPECT_EQ(kept->machine, "pc-q35-10.0");
    directory_.write(exampleRecord());  // And what was left of the attempt is not in the way.
}

TEST_F(VmRecordTest, namesTheDirectoryThatIsGone) {
    fs::remove_all(directory_.path());
    try {
        directory_.write(exampleRecord());
        FAIL() << "written";
    } catch (const std::system_error& error) {
        EXPECT_EQ(error.code(), std::errc::no_such_file_or_directory);
        EXPECT_THAT(error.what(), HasSubstr(directory_.path()));
    }
}

using VmDirectoryTest = VmRecordTest;

TEST_F(VmDirectoryTest, keepsASecondHolderOutUntilTheFirstLetsGo) {
    UniqueFd first = directory_.tryLock();
    ASSERT_TRUE(first);
    EXPECT_FALSE(directory_.tryLock());
    EXPECT_TRUE(VmDirectory(runtime_.path(), "web2").tryLock()) << "another VM is not concerned";
    first.reset();
    EXPECT_TRUE(directory_.tryLock());
}

TEST_F(VmDirectoryTest, saysOfALockWhatItsHolderDoesAndNothingOfAHolderThatIsGone) {
    UniqueFd lock = directory_.tryLock();
    EXPECT_FALSE(directory_.isBeingSettled());
    VmDirectory::sayBeingSettled(lock.get(), true);
    EXPECT_TRUE(directory_.isBeingSettled());
    EXPECT_FALSE(VmDirectory(runtime_.path(), "web2").isBeingSettled());
    VmDirectory::sayBeingSettled(lock.get(), false);
    EXPECT_FALSE(directory_.isBeingSettled());
    VmDirectory::sayBeingSettled(lock.get(), true);
    lock.reset();  // As one that died.
    lock = directory_.tryLock();
    EXPECT_FALSE(directory_.isBeingSettled());
}

TEST_F(VmDirectoryTest, writesToNoFileThatALockLeadsTo) {
    const std::string kept = runtime_.file("kept");
    std::ofstream(kept) << "kept";
    fs::create_symlink(kept, directory_.lockFile());
    EXPECT_THROW(directory_.tryLock(), std::system_error);
    fs::remove(directory_.lockFile());
    fs::create_hard_link(kept, directory_.lockFile());
    EXPECT_THROW(directory_.tryLock(), std::runtime_error);
    std::string text;
    std::getline(std::ifstream(kept) >> std::ws, text);
    EXPECT_EQ(text, "kept");
}

TEST_F(VmDirectoryTest, locksAVmThatHasNoDirectoryYet) {
    const VmDirectory fresh(runtime_.file("new"), "web1");
    EXPECT_TRUE(fresh.tryLock());
    EXPECT_EQ(modeOf(runtime_.file("new")), 0755U);
}

TEST_F(VmDirectoryTest, keepsItsLockWhenTheVmIsRemoved) {
    const UniqueFd lock = directory_.tryLock();
    directory_.write(exampleRecord());
    directory_.remove();
    EXPECT_FALSE(fs::exists(directory_.path()));
    EXPECT_TRUE(fs::exists(directory_.lockFile())) << "whoever waits for it must not get another file";
    EXPECT_FALSE(directory_.tryLock());
}

TEST_F(VmDirectoryTest, makesAGenerationThatOnlyItsOwnersCanLookInto) {
    const std::string made = directory_.makeGeneration(1, ::geteuid(), ::getegid());
    EXPECT_EQ(made, directory_.path() + "/1");
    EXPECT_EQ(modeOf(directory_.path()), 0711U);
    EXPECT_EQ(modeOf(made), 0711U);
    EXPECT_EQ(modeOf(made + "/incoming"), 0700U);
}

TEST_F(VmDirectoryTest, givesTheIncomingDirectoryToTheVmmsUser) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: only root may give files away; run this as root";
    const std::string made = directory_.makeGeneration(1, 65534, 65533);
    struct stat status {};
    ASSERT_EQ(::stat((made + "/incoming").c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, 65534U);
    EXPECT_EQ(status.st_gid, 65533U);
    ASSERT_EQ(::stat(made.c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, 0U);
}

TEST_F(VmDirectoryTest, removesWhatAnEarlierAttemptLeft) {
    const std::string made = directory_.makeGeneration(2, ::geteuid(), ::getegid());
    const std::string outside = runtime_.write("outside", "kept");
    fs::create_symlink(outside, made + "/incoming/link");
    fs::create_directory_symlink(runtime_.path(), made + "/incoming/up");
    std::ofstream(made + "/qmp.sock") << "left over";
    directory_.makeGeneration(2, ::geteuid(), ::getegid());
    EXPECT_TRUE(fs::is_empty(made + "/incoming"));
    EXPECT_FALSE(fs::exists(made + "/qmp.sock"));
    EXPECT_TRUE(fs::exists(outside)) << "what a link points to is not ours";
}

TEST_F(VmDirectoryTest, letsSocketsBeInTheDirectoryOfAnotherManager) {
    const std::string made = directory_.makeGeneration(1, ::geteuid(), ::getegid());
    EXPECT_EQ(cprChannelPath(made), made + "/incoming/cpr.sock");
    const std::string theirs = runtime_.path() + "/domain-1-web1";
    fs::create_directory(theirs);
    for (const char* left : {"/main.sock", "/relay.sock", "/monitor.sock"}) std::ofstream(theirs + left) << "left over";
    directory_.moveIncoming(1, theirs);
    EXPECT_FALSE(fs::exists(mainChannelPath(made)));
    EXPECT_FALSE(fs::exists(relayPath(made)));
    std::ofstream(cprChannelPath(made)) << "socket";
    EXPECT_TRUE(fs::exists(theirs + "/cpr.sock"));
    directory_.removeGeneration(1);
    EXPECT_FALSE(fs::exists(theirs + "/cpr.sock"));
    EXPECT_TRUE(fs::exists(theirs + "/monitor.sock")) << "not ours";
}

TEST_F(VmDirectoryTest, removesNothingThatTheVmmsUserMayNotRemove) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: whose rights are misused else?";
    // The VMM's user has put a link to a directory of root's in the place of his own.
    const std::string made = directory_.makeGeneration(1, 65534, 65533), roots = runtime_.path() + "/root's";
    fs::create_directory(roots);
    std::ofstream(roots + "/main.sock") << "of another service";
    directory_.moveIncoming(1, roots);
    EXPECT_TRUE(fs::exists(roots + "/main.sock"));
    directory_.removeGeneration(1);
    EXPECT_TRUE(fs::exists(roots + "/main.sock"));
    EXPECT_FALSE(fs::exists(made));
}

TEST_F(VmDirectoryTest, removesOneGenerationAndLeavesTheOther) {
    directory_.makeGeneration(1, ::geteuid(), ::getegid());
    directory_.makeGeneration(2, ::geteuid(), ::getegid());
    directory_.removeGeneration(1);
    directory_.removeGeneration(7);  // Nothing there.
    EXPECT_FALSE(fs::exists(directory_.generation(1)));
    EXPECT_TRUE(fs::exists(directory_.generation(2)));
}

TEST_F(VmDirectoryTest, listsTheVmsThatHaveARecord) {
    for (const char* vm : {"b", "a", "c"}) {
        const VmDirectory directory(runtime_.path(), vm);
        directory.makeGeneration(1, ::geteuid(), ::getegid());
        if (std::string(vm) != "c") directory.write(exampleRecord());
    }
    EXPECT_THAT(recordedVms(runtime_.path()), ElementsAre("a", "b"));
    EXPECT_THAT(recordedVms(runtime_.file("nowhere")), IsEmpty());
}

TEST(FileIdentity, isThatOfTheFileNotOfTheDescriptor) {
    const TemporaryDirectory directory;
    const auto opened = [](const std::string& path) { return UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)); };
    const UniqueFd one = opened(directory.write("a", "")), again = opened(directory.file("a")),
                   other = opened(directory.write("b", ""));
    EXPECT_TRUE(FileIdentity::of(one.get()) == FileIdentity::of(again.get()));
    EXPECT_FALSE(FileIdentity::of(one.get()) == FileIdentity::of(other.get()));
    EXPECT_THROW(FileIdentity::of(-1), std::system_error);
}

}  // namespace
}  // namespace vh
