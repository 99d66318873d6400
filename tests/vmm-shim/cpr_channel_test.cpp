#include "vmm-shim/cpr_channel.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/open_descriptors.h"
#include "tests/support/receive.h"
#include "vmm-shim/bytes.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using testing::HasSubstr;

UniqueFd memory(const std::string& content) {
    UniqueFd fd(::memfd_create("test", MFD_CLOEXEC));
    EXPECT_EQ(::write(fd.get(), content.data(), content.size()), static_cast<ssize_t>(content.size()));
    return fd;
}

std::string contentOf(int fd) {
    char bytes[64] = {};
    const ssize_t count = ::pread(fd, bytes, sizeof(bytes), 0);
    return {bytes, static_cast<std::size_t>(count < 0 ? 0 : count)};
}

UniqueFd duplicate(int fd) {
    return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

/// A capture with a memfd for each name, whose content is the name.
CprCapture captureOf(const std::vector<std::string>& names) {
    CprCapture capture;
    for (const std::string& name : names) {
        capture.state.fds.push_back({name, 0});
        capture.descriptors.push_back(memory(name));
    }
    return capture;
}

/// The same files, through descriptors of its own.
CprCapture copyOf(const CprCapture& capture) {
    CprCapture copy{capture.state, {}};
    for (const UniqueFd& fd : capture.descriptors) copy.descriptors.push_back(duplicate(fd.get()));
    return copy;
}

std::vector<std::string> numbered(int count) {
    std::vector<std::string> names;
    for (int i = 0; i < count; ++i) names.push_back("block" + std::to_string(i));
    return names;
}

/// As many bytes, and the descriptors with the first of them.
void sendTogether(int socket, std::string bytes, const std::vector<int>& descriptors) {
    iovec data{bytes.data(), bytes.size()};
    std::vector<char> control(CMSG_SPACE(sizeof(int) * descriptors.size()));
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
    std::memcpy(CMSG_DATA(header), descriptors.data(), sizeof(int) * descriptors.size());
    ASSERT_EQ(::sendmsg(socket, &message, MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
}

/// Sends and receives in turns until both are done.
CprCapture transferred(const CprCapture& capture) {
    const auto [here, there] = unixPair();
    CprSender sender(capture);
    CprReceiver receiver;
    for (bool sent = false, received = false; !received;) {
        if (!sent) sent = sender.sendSome(here.get());
        received = receiver.receiveSome(there.get());
    }
    return receiver.take();
}

template <typename Error>
std::string errorOf(const std::function<void()>& action) {
    try {
        action();
    } catch (const Error& error) {
        return error.what();
    }
    return "(none)";
}

using CprChannel = NoDescriptorLeaks;

TEST_F(CprChannel, carriesEachDescriptorToItsEntry) {
    CprCapture capture = captureOf({"ram0", "pc.bios", "0000:00:01.0/vga.vram"});
    capture.state.vfioDevices = {{"vfio0", 1, 2, 3}};
    const CprCapture arrived = transferred(capture);
    EXPECT_EQ(arrived.state, capture.state);
    ASSERT_EQ(arrived.descriptors.size(), 3U);
    for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(contentOf(arrived.descriptors[i].get()), arrived.state.fds[i].name);
        EXPECT_TRUE(::fcntl(arrived.descriptors[i].get(), F_GETFD) & FD_CLOEXEC);
    }
    EXPECT_EQ(whatChanged(capture, arrived), "");
}

TEST_F(CprChannel, carriesAStateWithoutEntries) {
    EXPECT_EQ(transferred({}).state, CprState{});
}

TEST_F(CprChannel, carriesMoreDescriptorsThanASocketHolds) {
    const CprCapture capture = captureOf(numbered(400));
    const CprCapture arrived = transferred(capture);
    EXPECT_EQ(whatChanged(capture, arrived), "");
    for (std::size_t i = 0; i < 400; ++i) EXPECT_EQ(contentOf(arrived.descriptors[i].get()), arrived.state.fds[i].name);
}

TEST_F(CprChannel, goesOnSendingWhereAFullSocketStoppedIt) {
    const CprCapture capture = captureOf(numbered(400));
    const auto [here, there] = unixPair();
    const int small = 1;
    ASSERT_EQ(::setsockopt(here.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    CprSender sender(capture);
    CprReceiver receiver;
    int stops = 0;
    while (!sender.sendSome(here.get())) {
        ++stops;
        EXPECT_FALSE(receiver.receiveSome(there.get()));
    }
    EXPECT_GT(stops, 1);
    EXPECT_TRUE(receiver.receiveSome(there.get()));
    EXPECT_EQ(whatChanged(capture, receiver.take()), "");
}

TEST_F(CprChannel, sendsOneDescriptorWithEachServiceByte) {
    // 10.0 and 11.1 read with room for 16 descriptors, and lose what is more (io/channel-socket.c:SOCKET_MAX_FDS).
    const CprCapture capture = captureOf({"a", "b"});
    const auto [here, there] = unixPair();
    ASSERT_TRUE(CprSender(capture).sendSome(here.get()));
    std::string bytes;
    std::vector<std::size_t> ends;
    for (Received read = receive(there.get()); !read.bytes.empty(); read = receive(there.get())) {
        bytes += read.bytes;
        EXPECT_LE(read.descriptors.size(), 1U);
        if (!read.descriptors.empty()) ends.push_back(bytes.size() - 1);
    }
    // The kernel ends a read behind the bytes that came with a descriptor (net/unix/af_unix.c:unix_stream_read_generic, 6.1).
    const EncodedCprState encoded = encodeCprState(capture.state);
    EXPECT_EQ(bytes, encoded.bytes);
    EXPECT_EQ(ends, encoded.serviceBytes);
}

TEST_F(CprChannel, leavesTheSocketOpenForTheHangUp) {
    const auto [here, there] = unixPair();
    ASSERT_TRUE(CprSender(CprCapture{}).sendSome(here.get()));
    EXPECT_EQ(::send(there.get(), "x", 1, MSG_NOSIGNAL), 1);
    EXPECT_EQ(receive(here.get()).bytes, "x");
}

TEST_F(CprChannel, takesAStateThatComesByteByByte) {
    const CprCapture capture = captureOf({"ram0", "pc.bios"});
    const EncodedCprState encoded = encodeCprState(capture.state);
    UniqueFd here, there;
    std::tie(here, there) = unixPair();
    CprReceiver receiver;
    std::size_t next = 0;
    for (std::size_t i = 0; i < encoded.bytes.size(); ++i) {
        const bool carries = next < encoded.serviceBytes.size() && i == encoded.serviceBytes[next];
        ASSERT_EQ(sendSome(here.get(), &encoded.bytes[i], 1, carries ? capture.descriptors[next].get() : -1), 1U);
        if (carries) ++next;
        EXPECT_FALSE(receiver.receiveSome(there.get()));
        EXPECT_EQ(receiver.bytes().size(), i + 1);
        EXPECT_EQ(receiver.descriptorsReceived(), next);
    }
    here.reset();
    ASSERT_TRUE(receiver.receiveSome(there.get()));
    EXPECT_EQ(receiver.bytes(), encoded.bytes);
    EXPECT_EQ(whatChanged(capture, receiver.take()), "");
}

TEST_F(CprChannel, takesManyDescriptorsInOneMessage) {
    // Nobody sends like this; the format allows it, since descriptors go by their order alone.
    const CprCapture capture = captureOf(numbered(100));
    UniqueFd here, there;
    std::tie(here, there) = unixPair();
    std::vector<int> descriptors;
    for (const UniqueFd& fd : capture.descriptors) descriptors.push_back(fd.get());
    sendTogether(here.get(), encodeCprState(capture.state).bytes, descriptors);
    here.reset();
    CprReceiver receiver;
    ASSERT_TRUE(receiver.receiveSome(there.get()));
    EXPECT_EQ(whatChanged(capture, receiver.take()), "");
}

TEST_F(CprChannel, refusesMissingAndSurplusDescriptors) {
    const UniqueFd file = memory("x");
    for (const std::size_t sent : {std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
        UniqueFd here, there;
        std::tie(here, there) = unixPair();
        const std::string bytes = encodeCprState({{{"a", 0}, {"b", 0}}, std::nullopt}).bytes;
        for (std::size_t i = 0; i < bytes.size(); ++i)
            ASSERT_EQ(sendSome(here.get(), &bytes[i], 1, i < sent ? file.get() : -1), 1U);
        here.reset();
        CprReceiver receiver;
        ASSERT_TRUE(receiver.receiveSome(there.get()));
        EXPECT_EQ(errorOf<DecodeError>([&] { receiver.take(); }), "offset " + std::to_string(bytes.size()) +
                                                                      ": the CPR state names 2 descriptors, and " +
                                                                      std::to_string(sent) + " came with it");
    }
}

TEST_F(CprChannel, refusesAStateThatThePeerBrokeOff) {
    const CprCapture capture = captureOf({"ram0", "pc.bios"});
    const EncodedCprState encoded = encodeCprState(capture.state);
    UniqueFd here, there;
    std::tie(here, there) = unixPair();
    const std::size_t carrying = encoded.serviceBytes[0];
    ASSERT_EQ(sendSome(here.get(), encoded.bytes.data(), carrying), carrying);
    ASSERT_EQ(sendSome(here.get(), " ", 1, capture.descriptors[0].get()), 1U);
    here.reset();
    CprReceiver receiver;
    ASSERT_TRUE(receiver.receiveSome(there.get()));
    EXPECT_THAT(errorOf<DecodeError>([&] { receiver.take(); }),
                HasSubstr("mark of a descriptor entry needs 1 bytes, 0 are left"));
}

TEST_F(CprChannel, refusesMoreThanAnyStateIsLong) {
    UniqueFd here, there;
    std::tie(here, there) = unixPair();
    const std::string chunk(65536, 'x');
    CprReceiver receiver;
    EXPECT_THAT(errorOf<DecodeError>([&] {
                    for (std::size_t sent = 0; sent < 2 * maxCprStateBytes;) {
                        sent += sendSome(here.get(), chunk.data(), chunk.size());
                        receiver.receiveSome(there.get());
                    }
                }),
                HasSubstr("longer than any CPR state"));
    EXPECT_LE(receiver.bytes().size(), maxCprStateBytes + chunk.size());
}

TEST_F(CprChannel, saysThatThisProcessIsOutOfDescriptors) {
    const UniqueFd file = memory("x");
    const auto [here, there] = unixPair();
    sendTogether(here.get(), "x", std::vector<int>(40, file.get()));
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    const rlimit low{static_cast<rlim_t>(there.get()) + 10, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
    std::error_code found;
    try {
        CprReceiver().receiveSome(there.get());
    } catch (const std::system_error& error) {
        found = error.code();
    }
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_EQ(found, std::errc::too_many_files_open);
}

TEST_F(CprChannel, saysThatTheReaderIsGone) {
    const CprCapture capture = captureOf({"ram0"});
    UniqueFd here, there;
    std::tie(here, there) = unixPair();
    there.reset();
    std::error_code found;
    try {
        CprSender(capture).sendSome(here.get());
    } catch (const std::system_error& error) {
        found = error.code();
    }
    EXPECT_EQ(found, std::errc::broken_pipe);
}

TEST_F(CprChannel, refusesToSendEntriesWithoutTheirDescriptors) {
    CprCapture capture = captureOf({"a", "b"});
    capture.descriptors.pop_back();
    EXPECT_EQ(errorOf<std::invalid_argument>([&] { CprSender{capture}; }), "a CPR state with 2 entries and 1 descriptors");
    EXPECT_THROW(whatChanged(capture, capture), std::invalid_argument);
    CprCapture surplus = captureOf({"a"});
    surplus.descriptors.push_back(memory("b"));
    EXPECT_THROW(CprSender{surplus}, std::invalid_argument);
}

TEST_F(CprChannel, seesNoChangeInAnotherOrder) {
    const CprCapture before = captureOf({"a", "b"});
    CprCapture after = copyOf(before);
    std::swap(after.state.fds[0], after.state.fds[1]);
    std::swap(after.descriptors[0], after.descriptors[1]);
    after.state.vfioDevices.emplace();
    EXPECT_EQ(whatChanged(before, after), "");
}

TEST_F(CprChannel, seesAnEntryThatCameOrWent) {
    const CprCapture both = captureOf({"a", "b"});
    CprCapture one = copyOf(both);
    one.state.fds.pop_back();
    one.descriptors.pop_back();
    EXPECT_EQ(whatChanged(both, one), "'b' is no longer in the CPR state");
    EXPECT_EQ(whatChanged(one, both), "'b' is new in the CPR state");
    CprCapture renumbered = copyOf(both);
    renumbered.state.fds[1].id = 3;
    EXPECT_EQ(whatChanged(renumbered, both), "'b' (id 3) is no longer in the CPR state");
}

TEST_F(CprChannel, seesAnEntryThatStandsForAnotherFile) {
    const CprCapture before = captureOf({"a", "b"});
    CprCapture after = copyOf(before);
    after.descriptors[1] = memory("b");
    EXPECT_EQ(whatChanged(before, after), "'b' stands for another file than before");
    CprCapture swapped = copyOf(before);
    std::swap(swapped.descriptors[0], swapped.descriptors[1]);
    EXPECT_EQ(whatChanged(before, swapped), "'a' stands for another file than before");
}

TEST_F(CprChannel, tellsEventfdsApartWhichTheKernelGivesOneInode) {
    CprCapture before, after;
    before.state.fds = after.state.fds = {{"vfio0_interrupt", 0}};
    before.descriptors.emplace_back(::eventfd(0, EFD_CLOEXEC));
    after.descriptors.emplace_back(::dup(before.descriptors[0].get()));
    EXPECT_EQ(whatChanged(before, after), "");
    after.descriptors[0] = UniqueFd(::eventfd(0, EFD_CLOEXEC));
    EXPECT_EQ(whatChanged(before, after), "'vfio0_interrupt' stands for another file than before");
    EXPECT_EQ(eventfdId(captureOf({"ram0"}).descriptors[0].get()), "");
}

TEST_F(CprChannel, seesOtherVfioDevices) {
    CprCapture before, after;
    before.state.vfioDevices = {{"v", 1, 2, 3}, {"w", 1, 2, 3}};
    after.state.vfioDevices = {{"w", 1, 2, 3}, {"v", 1, 2, 3}};
    EXPECT_EQ(whatChanged(before, after), "");
    after.state.vfioDevices->front().hwpt_id = 4;
    EXPECT_EQ(whatChanged(before, after), "the vfio devices of the CPR state are not the same as before");
}

/// The old VMM's blocks that belong to a capture of captureOf().
std::vector<RamBlock> blocksOf(const CprCapture& capture) {
    std::vector<RamBlock> blocks;
    for (std::size_t i = 0; i < capture.state.fds.size(); ++i) {
        RamBlock block;
        block.idstr = capture.state.fds[i].name;
        block.file = BackingFile{FileIdentity::of(capture.descriptors[i].get()), 4096, 5};
        blocks.push_back(block);
    }
    return blocks;
}

TEST_F(CprChannel, findsNothingWrongWhereEveryBlockHasItsFile) {
    const CprCapture capture = captureOf({"ram0", "pc.bios"});
    std::vector<RamBlock> blocks = blocksOf(capture);
    RamBlock named;
    named.idstr = "ram1";
    named.named_file = true;
    blocks.push_back(named);
    EXPECT_EQ(whatIsWrong(capture, blocks), "");
}

TEST_F(CprChannel, findsABlockThatWouldBeLost) {
    CprCapture capture = captureOf({"ram0", "pc.bios"});
    const std::vector<RamBlock> blocks = blocksOf(capture);
    capture.state.fds.pop_back();
    capture.descriptors.pop_back();
    EXPECT_EQ(whatIsWrong(capture, blocks), "RAM block 'pc.bios' is not in the CPR state");
    capture = captureOf({"ram0"});
    capture.state.fds[0].id = 1;
    EXPECT_EQ(whatIsWrong(capture, blocksOf(capture)), "RAM block 'ram0' is not in the CPR state");
}

TEST_F(CprChannel, findsABlockOfAnonymousMemory) {
    const CprCapture capture = captureOf({"ram0"});
    std::vector<RamBlock> blocks = blocksOf(capture);
    blocks[0].file.reset();
    EXPECT_EQ(whatIsWrong(capture, blocks),
              "RAM block 'ram0' is in the CPR state, and the old VMM has not mapped it from a file");
}

TEST_F(CprChannel, findsBlocksWhoseFilesAreSwapped) {
    CprCapture capture = captureOf({"ram0", "pc.bios"});
    const std::vector<RamBlock> blocks = blocksOf(capture);
    std::swap(capture.descriptors[0], capture.descriptors[1]);
    EXPECT_THAT(whatIsWrong(capture, blocks), HasSubstr("the descriptor for RAM block 'ram0' in the CPR state is another file"));
}

TEST_F(CprChannel, findsADescriptorThatTheNewVmmCouldNotWriteTo) {
    CprCapture capture = captureOf({"ram0", "pc.bios"});
    std::vector<RamBlock> blocks = blocksOf(capture);
    const std::string path = "/proc/self/fd/" + std::to_string(capture.descriptors[1].get());
    capture.descriptors[1] = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(whatIsWrong(capture, blocks), "the descriptor for RAM block 'pc.bios' in the CPR state cannot be written to");
    blocks[1].read_only = true;
    EXPECT_EQ(whatIsWrong(capture, blocks), "");
}

TEST_F(CprChannel, findsAnEntryThatIsNoBlockAndAVfioDevice) {
    CprCapture capture = captureOf({"ram0", "iommufd0"});
    std::vector<RamBlock> blocks = blocksOf(capture);
    blocks.pop_back();
    EXPECT_EQ(whatIsWrong(capture, blocks), "the CPR state has an entry 'iommufd0', and the old VMM no such RAM block or device");
    capture = captureOf({"ram0", "ram0"});
    blocks = blocksOf(capture);
    capture.state.fds[1].id = 3;
    blocks.pop_back();
    EXPECT_EQ(whatIsWrong(capture, blocks),
              "the CPR state has an entry 'ram0' (id 3), and the old VMM no such RAM block or device");
    capture = captureOf({"ram0"});
    capture.state.vfioDevices = {{"vfio0", 1, 2, 3}};
    EXPECT_THAT(whatIsWrong(capture, blocksOf(capture)), HasSubstr("vfio device 'vfio0', which the definition does not have"));
}

/// A capture of a VMM with one passed-through device, two interrupts and RAM; and what is expected of it.
class PassthroughCapture : public CprChannel {
 protected:
    void SetUp() override {
        capture = captureOf({"ram0"});
        blocks = blocksOf(capture);
        for (const char* name : {"iommufd0", "hd0"}) add(name, 0, ::open("/dev/null", O_RDWR | O_CLOEXEC));
        for (const auto& [name, id] : interrupts) add(name, id, ::eventfd(0, EFD_CLOEXEC));
        capture.state.vfioDevices = {{"hd0", 1, 2, 3}};
        expected.iommufd = "iommufd0";
        expected.iommufdDescriptor = capture.descriptors[1].get();
        expected.devices = {
            {.name = "hd0", .descriptor = capture.descriptors[2].get(), .interrupts = {{"interrupt", 0}, {"interrupt", 3}}}};
    }

    void add(const std::string& name, std::int32_t id, int fd) {
        capture.state.fds.push_back({name, id});
        capture.descriptors.emplace_back(fd);
    }
    void remove(const std::string& name, std::int32_t id = 0) {
        for (std::size_t i = 0; i < capture.state.fds.size(); ++i) {
            if (capture.state.fds[i] != CprFd{name, id}) continue;
            capture.state.fds.erase(capture.state.fds.begin() + static_cast<std::ptrdiff_t>(i));
            capture.descriptors.erase(capture.descriptors.begin() + static_cast<std::ptrdiff_t>(i));
            return;
        }
        FAIL() << "no entry '" << name << "'";
    }
    std::string wrong() const { return whatIsWrong(capture, blocks, expected); }

    const std::vector<std::pair<std::string, std::int32_t>> interrupts = {
        {"hd0_interrupt", 0}, {"hd0_kvm_interrupt", 0}, {"hd0_interrupt", 3}, {"hd0_err_notifier", 0}, {"hd0_req_notifier", 0}};
    CprCapture capture;
    std::vector<RamBlock> blocks;
    CprPassthrough expected;
};

TEST_F(PassthroughCapture, isFitForANewVmm) {
    EXPECT_EQ(wrong(), "");
}

TEST_F(PassthroughCapture, lacksTheIommufdOrTheDevice) {
    remove("hd0");
    EXPECT_EQ(wrong(), "the passed-through device 'hd0' is not in the CPR state");
    remove("iommufd0");
    EXPECT_EQ(wrong(), "the iommufd 'iommufd0' is not in the CPR state");
}

TEST_F(PassthroughCapture, hasAnotherOpenFileOfTheSameNode) {
    capture.descriptors[2] = UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC));
    const UniqueFd opened(::open("/dev/null", O_RDWR | O_CLOEXEC));
    expected.devices[0].descriptor = opened.get();
    EXPECT_EQ(wrong(), "the descriptor for 'hd0' in the CPR state is another one than the manager opened");
    expected.devices[0].descriptor = -1;  // QEMU's own: there is nothing to compare it with.
    EXPECT_EQ(wrong(), "");
}

TEST_F(PassthroughCapture, lacksAnIdOfTheKernels) {
    capture.state.vfioDevices->front().hwpt_id = 0;
    EXPECT_EQ(
        wrong(),
        "the passed-through device 'hd0' is in the CPR state without an id of the kernel's (devid 1, ioas_id 2, hwpt_id 0)");
    capture.state.vfioDevices->clear();
    EXPECT_EQ(wrong(), "the passed-through device 'hd0' is not in the CPR state's list of vfio devices");
    capture.state.vfioDevices.reset();
    EXPECT_EQ(wrong(), "the passed-through device 'hd0' is not in the CPR state's list of vfio devices");
}

TEST_F(PassthroughCapture, lacksAnInterruptThatTheKernelDelivers) {
    remove("hd0_interrupt", 3);
    EXPECT_EQ(wrong(),
              "the kernel delivers the interrupt 'hd0_interrupt' (id 3), which is not in the CPR state: it would be lost");
}

TEST_F(PassthroughCapture, hasAnInterruptThatIsNoEventfd) {
    remove("hd0_interrupt", 3);
    add("hd0_interrupt", 3, ::open("/dev/null", O_RDWR | O_CLOEXEC));
    EXPECT_EQ(wrong(), "the descriptor for 'hd0_interrupt' (id 3) is no eventfd");
}

TEST_F(PassthroughCapture, hasADeviceMore) {
    capture.state.vfioDevices->push_back({"hd1", 4, 2, 3});
    EXPECT_EQ(wrong(), "the CPR state has the vfio device 'hd1', which the definition does not have");
    capture.state.vfioDevices->pop_back();
    add("hd1", 0, ::open("/dev/null", O_RDWR | O_CLOEXEC));
    EXPECT_EQ(wrong(), "the CPR state has an entry 'hd1', and the old VMM no such RAM block or device");
}

TEST_F(PassthroughCapture, hasAContainerInPlaceOfAnIommufd) {
    remove("iommufd0");
    capture.state.vfioDevices->clear();
    expected.iommufd.clear();
    expected.devices[0].isCdev = false;
    expected.groups = {7};
    EXPECT_EQ(wrong(), "IOMMU group entry 'vfio_group' (id 7) is not in the CPR state");
    add("vfio_group", 7, ::open("/dev/null", O_RDWR | O_CLOEXEC));
    EXPECT_EQ(wrong(), "IOMMU group entry 'vfio_container_for_group' (id 7) is not in the CPR state");
    add("vfio_container_for_group", 7, ::open("/dev/null", O_RDWR | O_CLOEXEC));
    EXPECT_EQ(wrong(), "");
}

}  // namespace
}  // namespace vh
