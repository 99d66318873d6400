#include "vmm-shim/json_text.h"

#include <gtest/gtest.h>

namespace vh {
namespace {

using nlohmann::json;

const json something =
    json::parse(R"({"a": {"b": 5, "list": [1, "x", null], "yes": true}, "text": "hello", "big": 1e300, "minus": -3})");

TEST(JsonReader, findsWhatIsThere) {
    const JsonReader reader(something);
    EXPECT_EQ(reader.count("/a/b"), 5U);
    EXPECT_EQ(reader.number("/a/b"), 5.0);
    EXPECT_EQ(reader.text("/text"), "hello");
    EXPECT_EQ(reader.shown("/a/b"), "5");
    EXPECT_EQ(reader.shown("/text"), "hello");
    EXPECT_TRUE(reader.isTrue("/a/yes"));
    EXPECT_EQ(reader.list("/a/list").size(), 3U);
    EXPECT_EQ(reader.at(""), something);
}

TEST(JsonReader, hasAnAnswerToWhatIsNot) {
    const json nothing, text = "text", list = json::array({1});
    for (const json* value : {&something, &nothing, &text, &list})
        for (const char* path : {"/nosuch", "/a/nosuch", "/text/nosuch", "/a/list/0", "/", "//", "/a/b/c/d"}) {
            const JsonReader reader(*value);
            EXPECT_TRUE(reader.at(path).is_null());
            EXPECT_EQ(reader.text(path, "otherwise"), "otherwise");
            EXPECT_EQ(reader.shown(path), "?");
            EXPECT_EQ(reader.number(path), std::nullopt);
            EXPECT_EQ(reader.count(path), 0U);
            EXPECT_FALSE(reader.isTrue(path));
            EXPECT_TRUE(reader.list(path).empty());
        }
}

TEST(JsonReader, takesNoTypeForAnother) {
    const JsonReader reader(something);
    EXPECT_EQ(reader.count("/minus"), 0U);
    EXPECT_EQ(reader.count("/big"), 0U);
    EXPECT_EQ(reader.count("/text"), 0U);
    EXPECT_EQ(reader.number("/text"), std::nullopt);
    EXPECT_EQ(reader.text("/a/b"), "");
    EXPECT_FALSE(reader.isTrue("/a/b"));
    EXPECT_TRUE(reader.list("/a").empty());
}

}  // namespace
}  // namespace vh
