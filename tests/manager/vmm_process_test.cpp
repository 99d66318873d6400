#include "manager/vmm/vmm_process.h"

#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/open_descriptors.h"

namespace vh {
namespace {

class StderrTailTest : public NoDescriptorLeaks {
 protected:
    std::string stderrTail(const std::string& log, std::uintmax_t from = 0) {
        const UniqueFd file(::memfd_create("log", MFD_CLOEXEC));
        EXPECT_EQ(::write(file.get(), log.data(), log.size()), static_cast<ssize_t>(log.size()));
        return stderrTailOf(file.get(), from);
    }
};

TEST_F(StderrTailTest, areTheLastThreeLines) {
    EXPECT_EQ(stderrTail("a\nb\n\nc\nd\n"), "b; c; d");
    EXPECT_EQ(stderrTail("a\nunfinished"), "a; unfinished");
    EXPECT_EQ(stderrTail(""), "");
    EXPECT_EQ(stderrTailOf(-1), "");
}

TEST_F(StderrTailTest, areNoWarnings) {
    EXPECT_EQ(stderrTail("qemu: the reason\nqemu: warning: deprecated\nqemu: warning: deprecated too\n"), "qemu: the reason");
}

TEST_F(StderrTailTest, areNotWhatWasThereBefore) {
    EXPECT_EQ(stderrTail("old\nnew\n", 4), "new");
    EXPECT_EQ(stderrTail("old\n", 4), "");
    EXPECT_EQ(stderrTail("old\n", 400), "");
}

TEST_F(StderrTailTest, areFewHoweverLongTheLogIs) {
    const std::string words = stderrTail(std::string(10'000'000, 'x'));
    EXPECT_EQ(words, std::string(400, 'x') + "...");
    EXPECT_EQ(stderrTail(std::string(10'000'000, '\n') + "reason\n"), "reason");
    EXPECT_LT(stderrTail(std::string(3'000'000, '"') + "\n" + std::string(3'000'000, '"')).size(), 1000U);
}

TEST_F(StderrTailTest, doNotDriveATerminal) {
    EXPECT_EQ(stderrTail("\x1b]0;title\a\x1b[2Jgone\r\n"), " ]0;title  [2Jgone ");
}

}  // namespace
}  // namespace vh
