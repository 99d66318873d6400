#include "manager/process/process_traits.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <system_error>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/open_descriptors.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/file.h"
#include "vmm-shim/proc.h"

namespace vh {
namespace {

/// A child that becomes something and stays until the object goes.
class Child {
 public:
    /// `become` returns what could not be done, or nullptr.
    explicit Child(const std::function<const char*()>& become) {
        int ends[2];
        EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
        const UniqueFd reading(ends[0]);
        UniqueFd writing(ends[1]);
        pid_ = ::fork();
        if (pid_ == 0) {
            const char* failed = become();
            const std::string said = failed ? failed : "ok";
            if (::write(writing.get(), said.data(), said.size()) < 0) ::_exit(1);
            for (;;) ::pause();
        }
        writing.reset();
        char said[200] = {};
        EXPECT_GT(::read(reading.get(), said, sizeof(said) - 1), 0);
        EXPECT_STREQ(said, "ok");
    }
    Child(const Child&) = delete;
    ~Child() {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    Process process() const { return Process(pid_); }

 private:
    pid_t pid_ = 0;
};

/// All that a process was given and that /proc tells, a line each.
std::vector<std::string> givenTo(const Process& process) {
    std::vector<std::string> given{"cwd " + process.link("cwd"), "ns/mnt " + process.link("ns/mnt"),
                                   readFile(process.path("limits"))};
    for (const char* key : {"Umask:", "Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:",
                            "NoNewPrivs:", "Cpus_allowed:"})
        given.push_back(key + (" " + process.field("status", key)));
    return given;
}

class SecondProcessTest : public NoDescriptorLeaks {
 protected:
    /// Somebody else's limits, directory, umask and CPU, as whoever may give them to itself.
    const char* makeOrdinary() const {
        ::umask(027);
        rlimit files{};
        ::getrlimit(RLIMIT_NOFILE, &files);
        files.rlim_cur = 99;
        cpu_set_t one;
        CPU_ZERO(&one);
        ::sched_getaffinity(0, sizeof(one), &one);
        int cpu = CPU_SETSIZE - 1;
        while (cpu > 0 && !CPU_ISSET(cpu, &one)) --cpu;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (::setrlimit(RLIMIT_NOFILE, &files) != 0 || ::sched_setaffinity(0, sizeof(one), &one) != 0) return "limit itself";
        return ::chdir(directory_.path().c_str()) == 0 ? nullptr : "chdir";
    }

    void expectTheSameOfASecond(const Child& model) const {
        ASSERT_NE(givenTo(model.process()), givenTo(Process(::getpid()))) << "it has nothing of its own: nothing is tested";
        const ProcessTraits traits = ProcessTraits::of(model.process().pid());
        const Child second([&] {
            const char* failed = traits.enter();
            return failed ? failed : traits.become();
        });
        EXPECT_EQ(givenTo(second.process()), givenTo(model.process()));
    }

    const TemporaryDirectory directory_;
};

TEST_F(SecondProcessTest, areGivenToASecondProcess) {
    const Child model([this] { return makeOrdinary(); });
    expectTheSameOfASecond(model);
}

TEST_F(SecondProcessTest, ofAnotherUserWithRightsOfItsOwnAreGivenToASecondProcess) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can make such a process: run this as root";
    ::chmod(directory_.path().c_str(), 0755);
    const Child model([this]() -> const char* {
        if (const char* failed = makeOrdinary()) return failed;
        const gid_t groups[] = {7, 4242};
        if (::unshare(CLONE_NEWNS) != 0) return "unshare";
        if (::prctl(PR_CAPBSET_DROP, CAP_SYS_TIME) != 0 || ::prctl(PR_SET_KEEPCAPS, 1) != 0) return "prctl";
        if (::setgroups(2, groups) != 0 || ::setresgid(4243, 4243, 4243) != 0 || ::setresuid(4244, 4244, 4244) != 0)
            return "set ids";
        __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
        const std::uint32_t one = 1U << CAP_NET_ADMIN;
        __user_cap_data_struct sets[2] = {{one, one, one}, {0, 0, 0}};
        if (::syscall(SYS_capset, &header, sets) != 0) return "capset";
        if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0) != 0) return "ambient";
        return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? nullptr : "no_new_privs";
    });
    expectTheSameOfASecond(model);
    const ProcessTraits traits = ProcessTraits::of(model.process().pid());
    EXPECT_EQ(traits.uid(), 4244U);
    EXPECT_EQ(traits.gid(), 4243U);
}

TEST_F(SecondProcessTest, haveTheEnvironmentThatTheProcessWasStartedWith) {
    const ProcessTraits traits = ProcessTraits::of(::getpid());
    std::vector<std::string> entries;
    for (char* const* entry = traits.environment(); *entry; ++entry) entries.emplace_back(*entry);
    EXPECT_EQ(entries, Process(::getpid()).environment());
}

TEST_F(SecondProcessTest, ofAProcessThatIsGoneAreAnError) {
    EXPECT_THROW(ProcessTraits::of(0x3fffffff), std::system_error);
}

TEST_F(SecondProcessTest, ofOneThreadAreGivenToAnotherAsItsPlace) {
    const Child model([this] { return makeOrdinary(); }), other([] { return nullptr; });
    const auto cpus = [](const Child& child) { return child.process().field("status", "Cpus_allowed:"); };
    if (cpus(model) == cpus(other)) GTEST_SKIP() << "this process may use one CPU only: run this where it may use two";
    placeLike(other.process().pid(), model.process().pid());
    EXPECT_EQ(cpus(other), cpus(model));
    EXPECT_THROW(placeLike(0x3fffffff, model.process().pid()), std::system_error);
}

}  // namespace
}  // namespace vh
