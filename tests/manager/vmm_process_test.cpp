#include "manager/vmm/vmm_process.h"

#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/open_descriptors.h"

namespace vh {
namespace {

class LastWordsTest : public NoDescriptorLeaks {
 protected:
    std::string lastWords(const std::string& log, std::uintmax_t from = 0) {
        const UniqueFd file(::memfd_create("log", MFD_CLOEXEC));
        EXPECT_EQ(::write(file.get(), log.data(), log.size()), static_cast<ssize_t>(log.size()));
        return lastWordsOf(file.get(), from);
    }
};

TEST_F(LastWordsTest, areTheLastThreeLines) {
    EXPECT_EQ(lastWords("a\nb\n\nc\nd\n"), "b; c; d");
    EXPECT_EQ(lastWords("a\nunfinished"), "a; unfinished");
    EXPECT_EQ(lastWords(""), "");
    EXPECT_EQ(lastWordsOf(-1), "");
}

TEST_F(LastWordsTest, areNoWarnings) {
    EXPECT_EQ(lastWords("qemu: the reason\nqemu: warning: deprecated\nqemu: warning: deprecated too\n"), "qemu: the reason");
}

TEST_F(LastWordsTest, areNotWhatWasThereBefore) {
    EXPECT_EQ(lastWords("old\nnew\n", 4), "new");
    EXPECT_EQ(lastWords("old\n", 4), "");
    EXPECT_EQ(lastWords("old\n", 400), "");
}

TEST_F(LastWordsTest, areFewHoweverLongTheLogIs) {
    const std::string words = lastWords(std::string(10'000'000, 'x'));
    EXPECT_EQ(words, std::string(400, 'x') + "...");
    EXPECT_EQ(lastWords(std::string(10'000'000, '\n') + "reason\n"), "reason");
    EXPECT_LT(lastWords(std::string(3'000'000, '"') + "\n" + std::string(3'000'000, '"')).size(), 1000U);
}

TEST_F(LastWordsTest, doNotDriveATerminal) {
    EXPECT_EQ(lastWords("\x1b]0;title\a\x1b[2Jgone\r\n"), " ]0;title  [2Jgone ");
}

}  // namespace
}  // namespace vh
