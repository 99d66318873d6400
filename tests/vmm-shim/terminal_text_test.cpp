#include "vmm-shim/terminal_text.h"

#include <gtest/gtest.h>

namespace vh {
namespace {

TEST(ForTerminal, leavesTextAsItIs) {
    EXPECT_EQ(forTerminal("two lines\n\tand a tab"), "two lines\n\tand a tab");
    EXPECT_EQ(forTerminal("f\xc3\xbcr \xe2\x82\xac \xf0\x9f\x90\xa7"), "f\xc3\xbcr \xe2\x82\xac \xf0\x9f\x90\xa7");
    EXPECT_EQ(forTerminal(""), "");
}

TEST(ForTerminal, writesOutWhatATerminalWouldObey) {
    EXPECT_EQ(forTerminal("\033]0;title\007\033[2J"), "\\x1b]0;title\\x07\\x1b[2J");
    EXPECT_EQ(forTerminal("over\rwritten\b\x7f"), "over\\x0dwritten\\x08\\x7f");
    EXPECT_EQ(forTerminal("\xc2\x9b"
                          "2J"),
              "\\xc2\\x9b"
              "2J")
        << "U+009B, which is as good as ESC [";
    EXPECT_EQ(forTerminal("\xe2\x80\xaegnp.exe"), "\\xe2\\x80\\xaegnp.exe") << "from right to left";
    EXPECT_EQ(forTerminal(std::string_view("a\0b", 3)), "a\\x00b");
}

TEST(ForTerminal, writesOutWhatIsNoText) {
    EXPECT_EQ(forTerminal("\xff\xfe"), "\\xff\\xfe");
    EXPECT_EQ(forTerminal("\xc3"), "\\xc3") << "cut off";
    EXPECT_EQ(forTerminal("\xc3(\xe2\x82"), "\\xc3(\\xe2\\x82");
    EXPECT_EQ(forTerminal("\xc0\x9b"), "\\xc0\\x9b") << "a longer form than need be";
    EXPECT_EQ(forTerminal("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "half of a pair";
    EXPECT_EQ(forTerminal("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80") << "beyond Unicode";
}

TEST(ForTerminal, leavesNothingToObeyInAnyThreeBytes) {
    for (unsigned value = 0; value < 1U << 24; value += 7) {
        const std::string bytes{static_cast<char>(value), static_cast<char>(value >> 8), static_cast<char>(value >> 16)};
        for (const char character : forTerminal(bytes))
            ASSERT_TRUE(static_cast<unsigned char>(character) >= 0x20 || character == '\n' || character == '\t') << value;
    }
}

}  // namespace
}  // namespace vh
