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

TEST(Table, hasColumnsAsWideAsTheirWidestCellAndNoBlanksAtTheEndOfALine) {
    Table table({"VM", "STATE", "PID"}, 3);
    EXPECT_EQ(table.text(), "VM   STATE   PID\n");
    table.add({"web1", "up", ""});
    table.add({"b"});
    EXPECT_EQ(table.text(), "VM     STATE   PID\nweb1   up\nb\n");
}

TEST(Table, hasLinesBelowARowThatAreAsWideAsTheyLike) {
    Table table({"A", "B"});
    table.add({"1", "2"});
    table.addBelow("    one line that is wide\n");
    table.addBelow("    another\n");
    table.add({"3", "4"});
    EXPECT_EQ(table.text(), "A  B\n1  2\n    one line that is wide\n    another\n3  4\n");
}

}  // namespace
}  // namespace vh
