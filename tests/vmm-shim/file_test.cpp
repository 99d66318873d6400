#include "vmm-shim/file.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include <gtest/gtest.h>

#include "tests/support/open_descriptors.h"
#include "tests/support/temporary_directory.h"

namespace vh {
namespace {

namespace fs = std::filesystem;

TEST(File, doesNotWaitForSomebodyToWriteIntoAPipeOfThatName) {
    const TemporaryDirectory directory;
    ASSERT_EQ(::mkfifo(directory.file("pipe").c_str(), 0600), 0);
    EXPECT_EQ(readFile(directory.file("pipe")), "");
}

TEST(File, isReadWholeOrUpToALimit) {
    const TemporaryDirectory directory;
    const std::string text = std::string(300'000, 'x') + std::string("\0end", 4), path = directory.write("x", text);
    EXPECT_EQ(readFile(path), text);
    for (const std::size_t most : {std::size_t{0}, std::size_t{1}, std::size_t{100'000}, text.size(), text.size() + 1})
        EXPECT_EQ(readFile(path, most), text.substr(0, most));
    EXPECT_EQ(readFile(directory.write("empty", "")), "");
}

TEST(File, ofTheKernelsHasNoSizeAndIsReadWhole) {
    EXPECT_EQ(fs::file_size("/proc/self/status"), 0U);
    EXPECT_NE(readFile("/proc/self/status").find("Pid:"), std::string::npos);
}

TEST(File, hasAPathFromTheRootWhateverTheWorkingDirectory) {
    const std::string here = fs::current_path();
    EXPECT_EQ(absolutePath("x"), here + "/x");
    EXPECT_EQ(absolutePath("./a/./b"), here + "/a/b");
    EXPECT_EQ(absolutePath("../x"), here + "/../x") << "what is above is not known from the text, for there may be links";
    EXPECT_EQ(absolutePath("/a/x"), "/a/x");
    EXPECT_EQ(absolutePath(""), "");
}

TEST(File, thatCannotBeReadIsNamedOrEmpty) {
    for (const std::string path : {"/nonexistent/x", "/"}) {
        EXPECT_EQ(readIfThere(path), "");
        EXPECT_THROW(readFile(path), std::system_error);
    }
}

TEST(File, hasItsModeAndLeavesNoDescriptorWhicheverWayItIsReplaced) {
    const TemporaryDirectory directory;
    const auto before = openDescriptors();
    const mode_t umask = ::umask(0);
    for (const Outlives outlives : {Outlives::Writer, Outlives::Host}) {
        replaceFile(directory.file("x"), "text", 0640, outlives);
        EXPECT_EQ(readFile(directory.file("x")), "text");
        EXPECT_EQ(fs::status(directory.file("x")).permissions(), fs::perms(0640));
        fs::remove(directory.file("x"));
    }
    ::umask(umask);
    EXPECT_EQ(openDescriptors(), before);
}

TEST(File, isReplacedWhole) {
    const TemporaryDirectory directory;
    const std::string path = directory.path() + "/x";
    replaceFile(path, "first, and longer");
    replaceFile(path, "second");
    EXPECT_EQ(readFile(path), "second");
    EXPECT_FALSE(fs::exists(path + ".new"));
}

TEST(File, isAsItWasWhenTheDiskIsFull) {
    const TemporaryDirectory directory;
    const std::string path = directory.path() + "/x";
    replaceFile(path, "old");
    // A limit on the size of files fails in the same place as a disk that fills up.
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{4096, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    std::string said;
    try {
        replaceFile(path, std::string(1 << 20, 'x'));
    } catch (const std::system_error& error) {
        said = error.what();
    }
    ::setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    EXPECT_EQ(said, "write '" + path + ".new': File too large");
    EXPECT_EQ(readFile(path), "old");
    EXPECT_FALSE(fs::exists(path + ".new"));
}

TEST(File, isNotWrittenThroughALinkThatLiesInTheWay) {
    const TemporaryDirectory directory;
    const std::string path = directory.path() + "/x", victim = directory.path() + "/victim";
    std::ofstream(victim) << "precious";
    fs::create_symlink(victim, path + ".new");
    replaceFile(path, "text");
    EXPECT_EQ(readFile(victim), "precious");
    EXPECT_EQ(readFile(path), "text");
}

TEST(File, ofADirectoryThatIsNotThereIsNamed) {
    try {
        replaceFile("/nonexistent/x", "text");
        FAIL();
    } catch (const std::system_error& error) {
        EXPECT_STREQ(error.what(), "create '/nonexistent/x.new': No such file or directory");
    }
}

TEST(File, thatCannotBeReplacedIsAsItWas) {
    const TemporaryDirectory scratch;
    const std::string file = scratch.path() + "/file";
    replaceFile(file, "before");
    std::filesystem::create_directory(file + ".new");
    EXPECT_THROW(replaceFile(file, "after"), std::system_error);
    EXPECT_EQ(readFile(file), "before");
}

TEST(File, thatIsReservedBecomesExactlyTheText) {
    const TemporaryDirectory scratch;
    const std::string file = scratch.path() + "/file", reserved = file + ".reserved";
    replaceFile(file, "before");
    reserveFile(reserved, 100'000);
    EXPECT_EQ(std::filesystem::file_size(reserved), 100'000U);
    replaceFromReserved(reserved, file, "after");
    EXPECT_EQ(readFile(file), "after");
    EXPECT_FALSE(std::filesystem::exists(reserved));
}

TEST(File, thatCannotBeReservedLeavesNothing) {
    const TemporaryDirectory scratch;
    const std::string reserved = scratch.path() + "/reserved";
    EXPECT_THROW(reserveFile(reserved, std::size_t{1} << 62), std::system_error);
    EXPECT_FALSE(std::filesystem::exists(reserved));
}

}  // namespace
}  // namespace vh
