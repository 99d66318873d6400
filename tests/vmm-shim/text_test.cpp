#include "vmm-shim/text.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace vh {
namespace {

TEST(Text, listsThingsWithWhatSeparatesThem) {
    EXPECT_EQ(joined(std::vector<std::string>()), "");
    EXPECT_EQ(joined(std::vector<std::string>{"one"}), "one");
    EXPECT_EQ(joined(std::vector<std::string>{"one", "two", "three"}, "; "), "one; two; three");
    std::string list;
    for (const char* item : {"a", "b"}) append(list, item);
    EXPECT_EQ(list, "a, b");
}

TEST(Text, hasSizesWithADecimalWhereThereIsOne) {
    EXPECT_EQ(roundedSize(0), "0 B");
    EXPECT_EQ(roundedSize(1023), "1023 B");
    EXPECT_EQ(roundedSize(2 << 20), "2 MiB");
    EXPECT_EQ(roundedSize(1.5 * (1 << 30)), "1.5 GiB");
    EXPECT_EQ(roundedSize(171'315), "167.3 KiB");
    EXPECT_EQ(roundedSize((1 << 20) - 1), "1 MiB") << "not 1024 KiB";
    EXPECT_EQ(roundedSize(1125899906842624), "1024 TiB");
}

TEST(Text, doesNotRoundASizeThatMustBeExact) {
    EXPECT_EQ(exactSize(0), "0 bytes");
    EXPECT_EQ(exactSize(2 << 20), "2 MiB");
    EXPECT_EQ(exactSize((2 << 20) + 1024), "2049 KiB");
    EXPECT_EQ(exactSize((2 << 20) + 1), "2097153 bytes");
}

}  // namespace
}  // namespace vh
