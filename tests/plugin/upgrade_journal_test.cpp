#include "plugin/upgrade/upgrade_journal.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"
#include "vmm-shim/file.h"

namespace vh {
namespace {

using testing::HasSubstr;

constexpr const char* uuid = "0f3c8a52-6c55-4c53-a1c8-5b0e3f4c2a11";

UpgradeJournal example() {
    UpgradeJournal journal;
    journal.lockOut.maskedUnits = {"virtqemud.socket", "virtqemud.service"};
    journal.lockOut.startedUnits = {"virtqemud.socket"};
    journal.lockOut.daemon = StoppedDaemon{"/usr/sbin/libvirtd", {"libvirtd", "-d", ""}, {"PATH=/usr/bin"}, "/"};
    JournalDomain domain;
    domain.uuid = uuid;
    domain.title = "web 1 \"../..\"";
    domain.phase = DomainPhase::Committed;
    domain.old = {4711, 123456789};
    domain.new_ = {4712, 123456790};
    domain.emulator = "/usr/bin/qemu-system-x86_64";
    domain.capabilityFlags = {"kvm", "blockdev"};
    domain.upgrade = {4700, 123456000};
    journal.domains = {domain};
    return journal;
}

class UpgradeJournalTest : public testing::Test {
 protected:
    void overwrite(const std::string& text) { std::ofstream(directory_.journalFile()) << text; }

    std::string complaint() {
        try {
            directory_.read();
        } catch (const std::runtime_error& error) {
            return error.what();
        }
        return "no complaint";
    }

    TemporaryDirectory scratch_;
    JournalDirectory directory_{scratch_.path()};
};

TEST_F(UpgradeJournalTest, thereIsNoneAtFirst) {
    EXPECT_FALSE(directory_.read());
}

TEST_F(UpgradeJournalTest, readsWhatWasWritten) {
    directory_.write(example());
    EXPECT_EQ(directory_.read(), example());
    directory_.remove();
    EXPECT_FALSE(directory_.read());
    directory_.remove();
}

TEST_F(UpgradeJournalTest, everyPhaseComesBack) {
    for (const DomainPhase phase : {DomainPhase::Prepared, DomainPhase::HandingOver, DomainPhase::Committed, DomainPhase::Adopted,
                                    DomainPhase::Unchanged, DomainPhase::Ended, DomainPhase::Lost}) {
        UpgradeJournal journal = example();
        journal.domains.front().phase = phase;
        directory_.write(journal);
        EXPECT_EQ(directory_.read(), journal) << name(phase);
    }
}

TEST_F(UpgradeJournalTest, everyTruncationIsRefusedByName) {
    directory_.write(example());
    const std::string whole = readFile(directory_.journalFile());
    for (std::size_t length = 0; length + 2 < whole.size(); ++length) {  // The last two are the brace and the line's end.
        overwrite(whole.substr(0, length));
        ASSERT_THAT(complaint(), HasSubstr(directory_.journalFile())) << "cut to " << length << " bytes";
    }
}

TEST_F(UpgradeJournalTest, whatIsNoJournalIsRefusedByName) {
    for (const char* text :
         {"null", "[]", "{}", "garbage", "{\"format\":2}", "{\"format\":1}", "{\"format\":1,\"lockOut\":{},\"domains\":[]}",
          "{\"format\":1,\"lockOut\":{\"maskedUnits\":[],\"startedUnits\":[]},\"domains\":[{}]}"}) {
        overwrite(text);
        EXPECT_THAT(complaint(), HasSubstr(directory_.journalFile())) << text;
    }
}

TEST_F(UpgradeJournalTest, aUuidThatIsNoneBecomesNoFileName) {
    UpgradeJournal journal = example();
    journal.domains.front().uuid = "../../../../../../../../etc/passwd00";
    directory_.write(journal);
    EXPECT_THAT(complaint(), HasSubstr("is no UUID"));
}

TEST_F(UpgradeJournalTest, aDaemonWithoutCommandLineIsRefused) {
    UpgradeJournal journal = example();
    journal.lockOut.daemon->argv.clear();
    directory_.write(journal);
    EXPECT_THAT(complaint(), HasSubstr("no command line"));
}

TEST_F(UpgradeJournalTest, oneAtATime) {
    UniqueFd first = directory_.tryLock();
    EXPECT_TRUE(first);
    EXPECT_FALSE(directory_.tryLock());
    first.reset();
    EXPECT_TRUE(directory_.tryLock());
}

TEST_F(UpgradeJournalTest, isForRootOnly) {
    directory_.write(example());
    using std::filesystem::perms;
    EXPECT_EQ(std::filesystem::status(directory_.path()).permissions(), perms::owner_all);
    EXPECT_EQ(std::filesystem::status(directory_.journalFile()).permissions(), perms::owner_read | perms::owner_write);
}

}  // namespace
}  // namespace vh
