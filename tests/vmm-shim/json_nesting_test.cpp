#include "vmm-shim/json_nesting.h"

#include <random>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace vh {
namespace {

using nlohmann::json;

TEST(JsonNesting, countsWhatIsOpenAtOnce) {
    EXPECT_EQ(jsonNesting(""), 0U);
    EXPECT_EQ(jsonNesting("7"), 0U);
    EXPECT_EQ(jsonNesting("[[],[],{\"a\":[]}]"), 3U);
    EXPECT_EQ(jsonNesting(std::string(1'000'000, '[')), 1'000'000U);
    EXPECT_EQ(jsonNesting("]]]["), 1U);
}

TEST(JsonNesting, looksIntoNoString) {
    EXPECT_EQ(jsonNesting(R"({"[[[[":"{{{","b\"[":"\\"})"), 1U);
    EXPECT_EQ(jsonNesting(R"(["\\",[[]]])"), 3U);
    EXPECT_EQ(jsonNesting("\"[[[["), 0U);
    EXPECT_EQ(jsonNesting("\"\\"), 0U);
}

/// How deep the parser itself goes into it, until it finds that it is wrong.
std::size_t nestingOfParser(const std::string& text) {
    int deepest = 0;
    const json ignored = json::parse(
        text,
        [&](int depth, json::parse_event_t event, json&) {
            const bool opens = event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
            if (opens) deepest = std::max(deepest, depth + 1);
            return true;
        },
        false);
    return static_cast<std::size_t>(deepest);
}

TEST(JsonNesting, isNeverLessThanTheParsers) {
    std::mt19937 random(7);
    const std::string characters = "[]{}\"\\,:u0a ";
    for (int round = 0; round < 200'000; ++round) {
        std::string text = R"({"a":[{"b":["\\\"x"]},[]]})";
        for (std::size_t times = random() % 6; times > 0; --times) {
            const std::size_t at = random() % text.size();
            if (random() % 2)
                text[at] = characters[random() % characters.size()];
            else
                text.insert(at, 1, characters[random() % characters.size()]);
        }
        ASSERT_GE(jsonNesting(text), nestingOfParser(text)) << text;
    }
}

}  // namespace
}  // namespace vh
