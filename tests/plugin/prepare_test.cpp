// The commands that `prepare` shows are copied into a shell by a person.
#include "plugin/upgrade/prepare.h"

#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plugin/domain/qemu_option.h"
#include "plugin/host/command.h"

namespace vh {
namespace {

using testing::ElementsAre;

/// All that libvirt takes for a name (src/conf/domain_conf.c:virDomainDefParseXML, 11.3.0: no slash, no line's end).
const char* const names[] = {"web1",
                             "two words",
                             "o'clock \"now\" & <then>",
                             "größe-虚拟机;$(reboot)`true`",
                             "-x%s",
                             "--help",
                             "$HOME",
                             "a\\b",
                             "~root",
                             "*",
                             "'",
                             "''",
                             "#comment",
                             "a\tb",
                             "!!",
                             "{a,b}",
                             "a=b",
                             "x'\\''y"};

/// What a shell makes of a line in which the command is a function that says its words.
std::vector<std::string> wordsInAShell(const std::string& command, const std::string& line) {
    const CommandResult result = run({.argv = {"/bin/sh", "-c", command + "() { printf '%s\\n' \"$@\"; }\n" + line}});
    EXPECT_EQ(result.errors, "");
    std::vector<std::string> words;
    std::istringstream output(result.output);
    for (std::string word; std::getline(output, word);) words.push_back(word);
    return words;
}

TEST(Prepare, showsCommandsThatMeanTheDomainWhateverItsName) {
    for (const std::string name : names) {
        LibvirtDomain domain;
        domain.name = name;
        domain.state = "running";
        std::istringstream shown(waysToApply(domain));
        std::vector<std::string> verbs;
        for (std::string line; std::getline(shown, line);) {
            if (!line.starts_with("  virsh ")) continue;
            const std::vector<std::string> words = wordsInAShell("virsh", line);
            ASSERT_EQ(words.size(), 2U) << line;
            verbs.push_back(words[0]);
            EXPECT_EQ(words[1], "--domain=" + name) << line;
        }
        EXPECT_THAT(verbs, ElementsAre("shutdown", "start"));
    }
}

TEST(ShellQuoted, isOneWordForAShellAndForUs) {
    for (const std::string word : names) {
        EXPECT_THAT(wordsInAShell("say", "say " + shellQuoted(word)), ElementsAre(word));
        EXPECT_THAT(shellWords(shellQuoted(word)), ElementsAre(word));
    }
    EXPECT_EQ(shellQuoted("plain-1.2/x"), "plain-1.2/x");
    EXPECT_EQ(shellQuoted(""), "''");
}

}  // namespace
}  // namespace vh
