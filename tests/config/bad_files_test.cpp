// Golden test of all that the parser says: each bad/*.yaml has its exact messages beside it. `VH_ACCEPT=1` rewrites them.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "config/parse.h"
#include "tests/support/golden.h"
#include "tests/support/open_descriptors.h"
#include "tests/support/temporary_directory.h"

namespace vh {
namespace {

namespace fs = std::filesystem;

constexpr const char* badDirectory = "tests/config/bad";

std::vector<std::string> namesWithExtension(const std::string& extension) {
    std::vector<std::string> names;
    std::error_code ignored;  // A wrong VH_SOURCE_DIR fails hasAtLeastThirtyWrongFilesEachWithItsMessages.
    for (const auto& entry : fs::directory_iterator(inSourceTree(badDirectory), ignored)) {
        if (entry.path().extension() == extension) names.push_back(entry.path().stem());
    }
    std::sort(names.begin(), names.end());
    return names;
}

/// The messages of parsing a text or loading a file; empty when it is a good one.
std::string messagesOf(const std::function<void()>& read) {
    try {
        read();
        return "";
    } catch (const ConfigErrors& errors) {
        return errors.what();
    }
}

std::string messagesOfText(const std::string& text) {
    return messagesOf([&] { parseVmDefinition(text, "vm.yaml"); });
}

class BadFile : public testing::TestWithParam<std::string> {};

TEST_P(BadFile, givesExactlyTheExpectedMessages) {
    const std::string file = GetParam() + ".yaml";
    const std::string text = fileText(inSourceTree(badDirectory + ("/" + file)));
    const std::string messages = messagesOf([&] { parseVmDefinition(text, file); }) + "\n";
    EXPECT_NE(messages, "\n") << file << " was accepted as a good definition";
    expectGolden(GetParam() + ".expected", messages, badDirectory);
}

std::string testName(const testing::TestParamInfo<std::string>& info) {
    std::string name = info.param;
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
}

INSTANTIATE_TEST_SUITE_P(Of, BadFile, testing::ValuesIn(namesWithExtension(".yaml")), testName);

TEST(BadFiles, hasAtLeastThirtyWrongFilesEachWithItsMessages) {
    EXPECT_GE(namesWithExtension(".yaml").size(), 30u) << "in " << inSourceTree(badDirectory);
    EXPECT_EQ(namesWithExtension(".yaml"), namesWithExtension(".expected"));
}

/// Files that no repository should hold, in a directory of their own; and no descriptor may be left open by reading them.
class WholeFile : public NoDescriptorLeaks {
 protected:
    WholeFile() {
        // The test of an unreadable file becomes another user.
        fs::permissions(directory_.path(), fs::perms(0755));
    }

    std::string in(const std::string& name) const { return directory_.file(name); }
    std::string write(const std::string& name, const std::string& text) const { return directory_.write(name, text); }

    static std::string messagesOfLoading(const std::string& path) {
        return messagesOf([&] { loadVmDefinition(path); });
    }

 private:
    const TemporaryDirectory directory_;
};

TEST_F(WholeFile, loadsAGoodFile) {
    const std::string text = "{name: a, machine: q35, memory: {size: 1MiB}, boot: {kernel: /k}}";
    const std::string path = write("good.yaml", text);
    EXPECT_EQ(loadVmDefinition(path), parseVmDefinition(text, path));
    EXPECT_EQ(readDefinitionFile(path), text);
}

TEST_F(WholeFile, saysThatAFileIsMissing) {
    const std::string path = in("missing.yaml");
    EXPECT_EQ(messagesOfLoading(path), path + ": cannot be opened: No such file or directory");
}

TEST_F(WholeFile, saysThatAFileMayNotBeRead) {
    const std::string path = write("secret.yaml", "name: a\n");
    fs::permissions(path, fs::perms::none);
    int channel[2];
    ASSERT_EQ(pipe2(channel, O_CLOEXEC), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        // Root may read everything.
        constexpr uid_t nobody = 65534;
        if (geteuid() == 0 && seteuid(nobody) != 0) _exit(2);
        const std::string messages = messagesOfLoading(path);
        const auto written = ::write(channel[1], messages.data(), messages.size());
        _exit(written == static_cast<ssize_t>(messages.size()) ? 0 : 1);
    }
    close(channel[1]);
    std::string messages(4096, '\0');
    const ssize_t length = read(channel[0], messages.data(), messages.size());
    close(channel[0]);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0) << "the child could not become another user, or not write";
    messages.resize(static_cast<std::size_t>(std::max<ssize_t>(length, 0)));
    EXPECT_EQ(messages, path + ": cannot be opened: Permission denied");
}

TEST_F(WholeFile, refusesToReadADirectory) {
    fs::create_directory(in("directory.yaml"));
    EXPECT_EQ(messagesOfLoading(in("directory.yaml")), in("directory.yaml") + ": is a directory, expected a regular file");
}

TEST_F(WholeFile, refusesToReadAFifo) {
    const std::string path = in("fifo.yaml");
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    EXPECT_EQ(messagesOfLoading(path), path + ": is not a regular file, expected one");
}

TEST_F(WholeFile, refusesToReadADevice) {
    EXPECT_EQ(messagesOfLoading("/dev/zero"), "/dev/zero: is not a regular file, expected one");
}

TEST_F(WholeFile, refusesAFileOfAHundredMegabytes) {
    const std::string path = write("huge.yaml", "name: a\n");
    fs::resize_file(path, 100'000'000);
    EXPECT_EQ(messagesOfLoading(path), path + ": is larger than 1MiB, expected a VM definition, which is far smaller");
}

TEST_F(WholeFile, readsNoMoreThanAMegabyteOfAFileThatHidesItsSize) {
    // Its size is 0 for fstat; what is in it is far more than a definition, and may not be readable in a container.
    const std::string path = "/proc/kallsyms";
    if (access(path.c_str(), R_OK) != 0) GTEST_SKIP() << "needs a readable " << path << " (mount /proc)";
    EXPECT_EQ(messagesOfLoading(path), path + ": is larger than 1MiB, expected a VM definition, which is far smaller");
}

TEST_F(WholeFile, saysThatAFileIsEmpty) {
    const std::string expected = ": is empty, expected a VM definition with at least 'name', 'machine', 'memory' and 'boot'";
    EXPECT_EQ(messagesOfLoading(write("empty.yaml", "")), in("empty.yaml") + expected);
    EXPECT_EQ(messagesOfLoading(write("comment.yaml", "# nothing yet\n\n")), in("comment.yaml") + expected);
}

TEST(WholeText, refusesAHundredThousandLevelsOfNesting) {
    constexpr int levels = 100'000;
    const std::string message = ": found more than 16 levels of nesting, expected at most 3";
    const std::string lists(levels, '[');
    EXPECT_EQ(messagesOfText(lists + std::string(levels, ']')), "vm.yaml:1:17" + message);
    // yaml-cpp 0.7 takes a list that never ends for the key of a mapping, which is a level too.
    EXPECT_EQ(messagesOfText(lists), "vm.yaml:1:9" + message);
    std::string maps;
    for (int i = 0; i < levels; ++i) maps += "{a: ";
    EXPECT_EQ(messagesOfText(maps + std::string(levels, '}')), "vm.yaml:1:65" + message);
}

TEST(WholeText, endsQuicklyForAMegabyteOfAnyBracketOrIndicator) {
    for (const std::string piece : {"[",   "{",       "- ",       "? ",   "&a ", "!a ", "*a ", "a: ",   "{a,", "a,",
                                    "{},", "? [a] ,", "{id: a},", "- - ", "'",   "\"",  "|\n", "---\n", "]",   "a\n"}) {
        for (const std::string prefix : {"", "disks: ["}) {
            std::string text = prefix;
            while (text.size() + piece.size() < 1'000'000) text += piece;
            EXPECT_NE(messagesOfText(text), "") << prefix << piece;
        }
    }
}

TEST(WholeText, refusesMoreValuesThanADefinitionCanHave) {
    std::string text = "disks: [";
    for (int i = 0; i < 100'000; ++i) text += "a,";
    EXPECT_EQ(messagesOfText(text + "]"), "vm.yaml:1:40007: found more than 20000 keys and values, expected far less");
}

TEST(WholeText, saysHowManyErrorsAreLeftOutAfterAThousand) {
    std::string text = "name: a\nmachine: q35\nmemory: {size: 1MiB}\nboot: {kernel: /k}\nvmm:\n  arguments:\n";
    for (int i = 0; i < 1500; ++i) text += "  - -S\n";
    const std::string messages = messagesOfText(text);
    EXPECT_EQ(std::count(messages.begin(), messages.end(), '\n'), 1000);
    EXPECT_EQ(messages.substr(messages.rfind('\n') + 1), "vm.yaml: has 500 more errors");
}

TEST(WholeText, countsColumnsInCharactersAlsoAfterAByteOrderMark) {
    EXPECT_EQ(messagesOfText("\xef\xbb\xbf{\"\xc3\xa4\xc3\xb6\": &x 1}").substr(0, 14), "vm.yaml:1:1: t");
    EXPECT_NE(messagesOfText("\xef\xbb\xbf{\"\xc3\xa4\xc3\xb6\": &x 1}").find("vm.yaml:1:8: found the anchor '&x'"),
              std::string::npos);
}

}  // namespace
}  // namespace vh
