#include "vmm-shim/exec_inbox.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <functional>
#include <optional>
#include <stdexcept>
#include <system_error>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/open_descriptors.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/file_identity.h"
#include "vmm-shim/tool/exec.h"

namespace vh {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class ExecInbox : public NoDescriptorLeaks {
 protected:
    std::string path() const { return directory_.file("exec.sock"); }

    static UniqueFd file(const std::string& text = {}) {
        UniqueFd fd(::memfd_create("file", MFD_CLOEXEC));
        EXPECT_EQ(::pwrite(fd.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
        return fd;
    }
    static std::string textOf(int fd) {
        std::string text(4096, '\0');
        text.resize(static_cast<std::size_t>(std::max<ssize_t>(::pread(fd, text.data(), text.size(), 0), 0)));
        return text;
    }

    const TemporaryDirectory directory_;
};

TEST_F(ExecInbox, keepsWhatWasPostedWhenThePosterIsGone) {
    const UniqueFd inbox = makeInbox(path());
    FileIdentity first, second;
    {
        const UniqueFd a = file(), b = file();
        first = FileIdentity::of(a.get());
        second = FileIdentity::of(b.get());
        postParcel(path(), "vm/2", {a.get(), b.get()});
    }
    const std::vector<Parcel> parcels = takeParcels(inbox.get());
    ASSERT_EQ(parcels.size(), 1U);
    EXPECT_EQ(parcels[0].label, "vm/2");
    ASSERT_EQ(parcels[0].descriptors.size(), 2U);
    EXPECT_EQ(FileIdentity::of(parcels[0].descriptors[0].get()), first);
    EXPECT_EQ(FileIdentity::of(parcels[0].descriptors[1].get()), second);
    EXPECT_THAT(takeParcels(inbox.get()), IsEmpty()) << "and does not wait for more";
}

TEST_F(ExecInbox, keepsParcelsApartAndInOrder) {
    const UniqueFd inbox = makeInbox(path()), a = file();
    postParcel(path(), "first", {a.get()});
    postParcel(path(), "second", {a.get(), a.get()});
    const std::vector<Parcel> parcels = takeParcels(inbox.get());
    ASSERT_EQ(parcels.size(), 2U);
    EXPECT_EQ(parcels[0].label, "first");
    EXPECT_EQ(parcels[1].label, "second");
    EXPECT_EQ(parcels[1].descriptors.size(), 2U);
}

TEST_F(ExecInbox, takesAsManyAsTheKernelAllowsAndSaysSoBeyond) {
    const UniqueFd inbox = makeInbox(path()), a = file();
    postParcel(path(), "many", std::vector<int>(mostInParcel, a.get()));
    EXPECT_EQ(takeParcels(inbox.get()).at(0).descriptors.size(), mostInParcel);
    EXPECT_THROW(postParcel(path(), "too many", std::vector<int>(mostInParcel + 1, a.get())), std::system_error);
}

TEST_F(ExecInbox, neverMakesAPosterWait) {
    const UniqueFd inbox = makeInbox(path()), a = file();
    std::optional<std::error_code> error;
    for (int i = 0; i < 100'000 && !error; ++i) {
        try {
            postParcel(path(), "again", {a.get()});
        } catch (const std::system_error& full) {
            error = full.code();
        }
    }
    ASSERT_TRUE(error);
    EXPECT_THAT(error->value(), testing::AnyOf(EAGAIN, ETOOMANYREFS));
    EXPECT_FALSE(takeParcels(inbox.get()).empty());
    postParcel(path(), "again", {a.get()});
}

TEST_F(ExecInbox, isKnownByItsPath) {
    const UniqueFd inbox = makeInbox(path()), other = file();
    EXPECT_TRUE(isInbox(inbox.get(), path()));
    EXPECT_FALSE(isInbox(inbox.get(), path() + "x"));
    EXPECT_FALSE(isInbox(other.get(), path()));
}

TEST_F(ExecInbox, hasTheCommandLineInOnePlace) {
    const ExecRequest request =
        parseExec({"--inbox", "9", "--label", "vm/2", "--first", "96", "--close", "3,4,9", "--", "/q", "-S", "--", "x"});
    EXPECT_EQ(request.inbox, 9);
    EXPECT_EQ(request.label, "vm/2");
    EXPECT_EQ(request.first, 96);
    EXPECT_THAT(request.close, ElementsAre(3, 4, 9));
    EXPECT_THAT(request.command, ElementsAre("/q", "-S", "--", "x"));
    EXPECT_THAT(parseExec({"--inbox", "9", "--first", "9", "--close", "", "--", "/q"}).close, IsEmpty());
    for (const std::vector<std::string>& wrong :
         std::vector<std::vector<std::string>>{{},
                                               {"--inbox"},
                                               {"--inbox", "x", "--first", "5", "--", "/q"},
                                               {"--inbox", "-1", "--first", "5", "--", "/q"},
                                               {"--inbox", "3", "--first", "5"},
                                               {"--inbox", "3", "--first", "5", "--"},
                                               {"--inbox", "3", "--first", "5", "--close", "3,,4", "--", "/q"},
                                               {"--inbox", "3", "--first", "5", "--colour", "red", "--", "/q"}})
        EXPECT_THROW(parseExec(wrong), std::invalid_argument) << testing::PrintToString(wrong);
}

class ServeExec : public ExecInbox {
 protected:
    /// What a process that executes the request comes to: its exit status.
    int run(
        std::vector<std::string> arguments, const std::function<void()>& before = [] {}) {
        const pid_t child = ::fork();
        if (child == 0) {
            before();
            ::_exit(serveExec(arguments));
        }
        int status = 0;
        EXPECT_EQ(::waitpid(child, &status, 0), child);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }

    /// In the child: the inbox at number 40, as if inherited, and two more that are to go.
    std::function<void()> inheriting(const UniqueFd& inbox, const UniqueFd& old) {
        return [&] {
            ::dup2(inbox.get(), 40);
            ::dup2(old.get(), 41);
            ::dup2(old.get(), 61);
        };
    }
};

TEST_F(ServeExec, givesTheProgramItsDescriptorsAndTakesTheOldOnesAway) {
    const UniqueFd inbox = makeInbox(path()), log = file(), old = file("old"), a = file("a"), b = file("b");
    postParcel(path(), "vm/1", {old.get(), old.get(), old.get()});
    postParcel(path(), "vm/2", {log.get(), a.get(), b.get()});
    EXPECT_EQ(run({"--inbox", "40", "--label", "vm/2", "--first", "60", "--close", "40,41,61", "--", "/bin/sh", "-c",
                   "cat /proc/self/fd/60 /proc/self/fd/61; [ -e /proc/self/fd/40 ] || [ -e /proc/self/fd/41 ] || [ -e "
                   "/proc/self/fd/62 ] || echo "
                   ", no more; echo err >&2"},
                  inheriting(inbox, old)),
              0);
    EXPECT_EQ(textOf(log.get()), "ab, no more\nerr\n");
}

TEST_F(ServeExec, doesNotCloseWhatQemuSaysItsStateIsIn) {
    const UniqueFd inbox = makeInbox(path()), log = file(), old = file("state");
    postParcel(path(), "vm/2", {log.get()});
    EXPECT_EQ(run({"--inbox", "40", "--label", "vm/2", "--first", "60", "--close", "40,41", "--", "/bin/sh", "-c",
                   "cat /proc/self/fd/41"},
                  [&] {
                      inheriting(inbox, old)();
                      ::setenv("QEMU_CPR_EXEC_STATE", "41", 1);
                  }),
              0);
    EXPECT_EQ(textOf(log.get()), "state");
}

TEST_F(ServeExec, ratherEndsThanPutsADescriptorOverAnother) {
    const UniqueFd inbox = makeInbox(path()), log = file(), old = file("ram"), a = file();
    postParcel(path(), "vm/2", {log.get(), a.get(), a.get()});
    EXPECT_EQ(
        run({"--inbox", "40", "--label", "vm/2", "--first", "60", "--close", "40", "--", "/bin/true"}, inheriting(inbox, old)),
        127);
    EXPECT_THAT(textOf(log.get()), HasSubstr("descriptor 61 is in use"));
}

TEST_F(ServeExec, saysInTheNewLogWhatItCouldNotExecute) {
    const UniqueFd inbox = makeInbox(path()), log = file(), old = file();
    postParcel(path(), "vm/2", {log.get()});
    EXPECT_EQ(run({"--inbox", "40", "--label", "vm/2", "--first", "60", "--close", "40", "--", "/nonexistent/qemu"},
                  inheriting(inbox, old)),
              127);
    EXPECT_THAT(textOf(log.get()), HasSubstr("execute '/nonexistent/qemu': No such file or directory"));
}

TEST_F(ServeExec, endsWithoutItsParcel) {
    const UniqueFd inbox = makeInbox(path()), old = file();
    postParcel(path(), "vm/1", {old.get()});
    EXPECT_EQ(run({"--inbox", "40", "--label", "vm/2", "--first", "60", "--", "/bin/true"}, inheriting(inbox, old)), 127);
}

TEST_F(ServeExec, canBeTriedWithoutEffect) {
    EXPECT_EQ(run({"--check"}), 0);
}

}  // namespace
}  // namespace vh
