#include "vmm-shim/ram_block_section.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cerrno>
#include <functional>
#include <string>
#include <system_error>
#include <thread>
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

using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

constexpr milliseconds soon{50}, longEnough{20'000};

RamBlock anonymous() {
    RamBlock block;
    block.idstr = "a";
    block.used_length = 0x1000;
    block.max_length = 0x2000;
    block.page_size = 0x1000;
    block.align = 0x200000;
    block.resizable = true;
    return block;
}

RamBlock onFile(const std::string& idstr, int fd) {
    RamBlock block = anonymous();
    block.idstr = idstr;
    block.shared = true;
    block.file = BackingFile{{0x11, 0x22}, 0x2000, fd};
    return block;
}

// As in the head of ram_block_section.h.
const std::string head = std::string(
                      "QEVM\0\0\0\x03"
                      "\x04\0\0\0\0\x18virt-handover/ram-blocks\0\0\0\0\0\0\0\x01",
                      8 + 5 + 25 + 8),
                  tail = std::string("\0\x7e\0\0\0\0\0", 7);
const std::string anonymousBytes = std::string(
    "\x01\x01"
    "a\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\x20\0\0\0\0\0\x02\0",
    3 + 4 * 8 + 4 + 1);

std::string refusalOfSection(const std::string& bytes) {
    try {
        decodeRamBlocks(bytes);
    } catch (const DecodeError& error) {
        return error.what();
    }
    return "(accepted)";
}

TEST(RamBlockSection, isWrittenAsItsDocumentSays) {
    EXPECT_EQ(encodeRamBlocks({}), head + tail);
    EXPECT_EQ(encodeRamBlocks({anonymous()}), head + anonymousBytes + tail);
    std::string expected = anonymousBytes;
    expected[expected.size() - 2] = '\x03';  // shared, resizable
    expected.back() = '\x01';
    expected += std::string("\0\0\0\0\0\0\0\x11\0\0\0\0\0\0\0\x22\0\0\0\0\0\0\x20\0\0\0\0\x07\x20", 29);
    EXPECT_EQ(encodeRamBlocks({onFile("a", 7)}), head + expected + tail);
    expected.resize(expected.size() - 5);
    EXPECT_EQ(encodeRamBlocks({onFile("a", -1)}), head + expected + "\xff\xff\xff\xff" + tail)
        << "no descriptor, no service byte";
}

TEST(RamBlockSection, bringsEveryPropertyBack) {
    std::vector<RamBlock> blocks{onFile("with a descriptor", 7), onFile("without one", -1)};
    for (bool RamBlock::*flag :
         {&RamBlock::shared, &RamBlock::resizable, &RamBlock::read_only, &RamBlock::named_file, &RamBlock::guest_memfd}) {
        RamBlock block;
        block.idstr = "flag " + std::to_string(blocks.size());
        block.*flag = true;
        block.used_length = block.max_length = ~std::uint64_t{0};
        blocks.push_back(block);
    }
    EXPECT_EQ(decodeRamBlocks(encodeRamBlocks(blocks)), blocks);
    EXPECT_EQ(decodeRamBlocks(encodeRamBlocks({})), std::vector<RamBlock>());
}

TEST(RamBlockSection, isRefusedWhenItIsCutAnywhere) {
    const std::string whole = encodeRamBlocks({anonymous(), onFile("b", 7)});
    for (std::size_t length = 0; length < whole.size(); ++length)
        EXPECT_THROW(decodeRamBlocks(whole.substr(0, length)), DecodeError) << length;
    EXPECT_NO_THROW(decodeRamBlocks(whole));
}

TEST(RamBlockSection, isRefusedWithBytesBehindItsEnd) {
    EXPECT_THAT(refusalOfSection(encodeRamBlocks({anonymous()}) + '\0'), HasSubstr("after the end"));
}

TEST(RamBlockSection, isRefusedByNameAndOffsetWhenAByteIsWrong) {
    struct Wrong {
        std::size_t at;
        char byte;
        const char* says;
    };
    const std::size_t list = head.size(), flags = list + 3 + 4 * 8, hasFile = flags + 4;
    for (const Wrong& wrong :
         {Wrong{0, 'X', "magic"}, Wrong{7, 4, "version"}, Wrong{8, 1, "type"}, Wrong{12, 1, "section_id"},
          Wrong{14, 'V', "not 'virt-handover/ram-blocks'"}, Wrong{41, 1, "instance_id"}, Wrong{45, 2, "version_id"},
          Wrong{list, 2, "neither a RAM block nor the end"}, Wrong{list + 2, '\x1f', "control characters"},
          Wrong{flags + 3, '\x22', "'a' has unknown flags"}, Wrong{hasFile, 2, "has_file of RAM block 'a'"},
          Wrong{hasFile + 2, 0, "footer"}, Wrong{hasFile + 6, 1, "section_id"}, Wrong{hasFile + 7, 1, "the end"}}) {
        std::string bytes = encodeRamBlocks({anonymous()});
        bytes.at(wrong.at) = wrong.byte;
        EXPECT_THAT(refusalOfSection(bytes), AllOf(HasSubstr("offset "), HasSubstr(wrong.says))) << wrong.at;
    }
}

TEST(RamBlockSection, isRefusedWithAServiceByteOrADescriptorNumberThatIsNone) {
    std::string bytes = encodeRamBlocks({onFile("b", 7)});
    const std::size_t service = bytes.size() - tail.size() - 1;
    bytes[service] = 'X';
    EXPECT_THAT(refusalOfSection(bytes), HasSubstr("carries the descriptor"));
    bytes[service] = ' ';
    bytes[service - 4] = '\x80';
    EXPECT_THAT(refusalOfSection(bytes), HasSubstr("out of range"));
}

TEST(RamBlockSection, isRefusedWithAnEmptyNameOrABlockTwice) {
    RamBlock nameless = anonymous();
    nameless.idstr.clear();
    EXPECT_THAT(refusalOfSection(encodeRamBlocks({nameless})), HasSubstr("empty"));
    EXPECT_THAT(refusalOfSection(encodeRamBlocks({anonymous(), anonymous()})), HasSubstr("'a' is there twice"));
}

TEST(RamBlockSection, holdsSoManyBlocksAndNoMore) {
    std::vector<RamBlock> blocks(maxRamBlocks, anonymous());
    for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i].idstr = std::to_string(i);
    EXPECT_EQ(decodeRamBlocks(encodeRamBlocks(blocks)), blocks);
    std::string tooMany = encodeRamBlocks(blocks);
    tooMany.insert(tooMany.size() - tail.size(), anonymousBytes);
    EXPECT_THAT(refusalOfSection(tooMany), HasSubstr("more than 4096"));
    blocks.push_back(anonymous());
    EXPECT_THROW(encodeRamBlocks(blocks), std::length_error);
    blocks.assign(1, anonymous());
    blocks[0].idstr.assign(256, 'x');
    EXPECT_THROW(encodeRamBlocks(blocks), std::length_error);
}

class RamBlockExchangeTest : public NoDescriptorLeaks {
 protected:
    /// Adds a block on a memfd of its own.
    void addBlock(const std::string& idstr, off_t size = 0x2000) {
        UniqueFd memfd(::memfd_create(idstr.c_str(), MFD_CLOEXEC));
        ASSERT_EQ(::ftruncate(memfd.get(), size), 0);
        RamBlock block = onFile(idstr, 40 + static_cast<int>(out_.blocks.size()));
        block.file->identity = FileIdentity::of(memfd.get());
        block.file->size = static_cast<std::uint64_t>(size);
        out_.blocks.push_back(block);
        out_.descriptors.push_back(std::move(memfd));
    }
    void addAnonymous() {
        out_.blocks.push_back(anonymous());
        out_.descriptors.emplace_back();
    }
    /// What the receiver says of what was sent as it is, with no check on the sender's side.
    std::string refusalOfRaw(const std::vector<RamBlock>& blocks, const std::vector<int>& descriptors) {
        const std::string bytes = encodeRamBlocks(blocks);
        std::size_t sent = 0;
        for (const int fd : descriptors) sent += sendSome(ends_.first.get(), bytes.data() + sent, 1, fd);
        EXPECT_EQ(sendSome(ends_.first.get(), bytes.data() + sent, bytes.size() - sent), bytes.size() - sent);
        ::shutdown(ends_.first.get(), SHUT_WR);
        try {
            receiveRamBlocks(ends_.second.get(), longEnough);
        } catch (const std::exception& error) {
            return error.what();
        }
        return "(accepted)";
    }
    void send(milliseconds deadline = longEnough) { sendRamBlocks(ends_.first.get(), out_, deadline); }

    std::pair<UniqueFd, UniqueFd> ends_ = unixPair();
    RamBlockExchange out_;
};

TEST_F(RamBlockExchangeTest, bringsBlocksAndTheirDescriptors) {
    addBlock("one");
    addAnonymous();
    addBlock("two", 0x3000);
    out_.blocks.push_back(onFile("kept by nobody", -1));
    out_.descriptors.emplace_back();
    send();
    const RamBlockExchange in = receiveRamBlocks(ends_.second.get(), longEnough);
    EXPECT_EQ(in.blocks, out_.blocks);
    ASSERT_EQ(in.descriptors.size(), 4U);
    EXPECT_FALSE(in.descriptors[1]);
    EXPECT_FALSE(in.descriptors[3]);
    for (const std::size_t i : {0U, 2U})
        EXPECT_EQ(FileIdentity::of(in.descriptors[i].get()), FileIdentity::of(out_.descriptors[i].get()));
}

TEST_F(RamBlockExchangeTest, sendsEachDescriptorWithItsServiceByte) {
    addBlock("one");
    addBlock("two");
    send();
    const std::string bytes = encodeRamBlocks(out_.blocks);
    std::string seen;
    for (std::size_t i = 0; i < 2; ++i) {
        const Received received = receive(ends_.second.get());
        seen += received.bytes;
        EXPECT_EQ(received.descriptors.size(), 1U);
        EXPECT_EQ(seen.back(), ' ') << "the kernel ends a read behind the byte that carries a descriptor";
    }
    seen += receive(ends_.second.get()).bytes;
    EXPECT_EQ(seen, bytes);
}

TEST_F(RamBlockExchangeTest, doesWithDescriptorsThatOnlyProveTheFile) {
    addBlock("one");
    const std::string path = "/proc/self/fd/" + std::to_string(out_.descriptors[0].get());
    out_.descriptors[0] = UniqueFd(::open(path.c_str(), O_PATH | O_CLOEXEC));
    send();
    EXPECT_EQ(receiveRamBlocks(ends_.second.get(), longEnough).blocks, out_.blocks);
}

TEST_F(RamBlockExchangeTest, goesThroughASocketThatIsFullAtTimes) {
    for (int i = 0; i < 60; ++i)
        addBlock("block with a long name, so that the socket is full before all is sent, " + std::to_string(i));
    const int small = 1;
    ::setsockopt(ends_.first.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    RamBlockExchange in;
    std::thread receiver([&] { in = receiveRamBlocks(ends_.second.get(), longEnough); });
    send();
    receiver.join();
    EXPECT_EQ(in.blocks, out_.blocks);
}

TEST_F(RamBlockExchangeTest, refusesADescriptorOfAnotherFile) {
    addBlock("one");
    addBlock("two");
    EXPECT_THAT(refusalOfRaw(out_.blocks, {out_.descriptors[1].get(), out_.descriptors[0].get()}),
                AllOf(HasSubstr("'one'"), HasSubstr("is another file")));
}

TEST_F(RamBlockExchangeTest, refusesAFileOfAnotherSize) {
    addBlock("one");
    ASSERT_EQ(::ftruncate(out_.descriptors[0].get(), 0x1000), 0);
    EXPECT_THAT(refusalOfRaw(out_.blocks, {out_.descriptors[0].get()}),
                AllOf(HasSubstr("'one'"), HasSubstr("4096 bytes instead of 8192")));
}

TEST_F(RamBlockExchangeTest, refusesTooFewAndTooManyDescriptors) {
    addBlock("one");
    EXPECT_THAT(refusalOfRaw(out_.blocks, {}), HasSubstr("1 descriptors, and 0 came"));
    ends_ = unixPair();
    const int fd = out_.descriptors[0].get();
    EXPECT_THAT(refusalOfRaw(out_.blocks, {fd, fd}), HasSubstr("1 descriptors, and 2 came"));
}

TEST_F(RamBlockExchangeTest, refusesAnEndThatComesTooEarlyAndBytesThatAreNoRecord) {
    ends_.first.reset();
    EXPECT_THROW(receiveRamBlocks(ends_.second.get(), longEnough), DecodeError);
    ends_ = unixPair();
    const std::string noise(200, 'x');
    sendSome(ends_.first.get(), noise.data(), noise.size());
    ends_.first.reset();
    EXPECT_THROW(receiveRamBlocks(ends_.second.get(), longEnough), DecodeError);
}

TEST_F(RamBlockExchangeTest, refusesAStreamThatDoesNotEnd) {
    std::thread sender([socket = std::move(ends_.first)] {
        const std::string noise(65536, 'x');
        std::size_t sent = 0;
        try {
            while (sent <= maxRamBlockSectionBytes + 65536) sent += sendSome(socket.get(), noise.data(), noise.size());
        } catch (const std::system_error&) {  // The receiver had enough.
        }
    });
    EXPECT_THROW(receiveRamBlocks(ends_.second.get(), longEnough), DecodeError);
    ends_.second.reset();
    sender.join();
}

TEST_F(RamBlockExchangeTest, givesUpAtTheDeadline) {
    const auto errorOf = [](const std::function<void()>& exchange) {
        try {
            exchange();
        } catch (const std::system_error& error) {
            return error.code().value();
        }
        return 0;
    };
    EXPECT_EQ(errorOf([&] { receiveRamBlocks(ends_.second.get(), soon); }), ETIMEDOUT);
    const std::string noise(65536, 'x');
    while (sendSome(ends_.first.get(), noise.data(), noise.size()) != 0) continue;
    EXPECT_EQ(errorOf([&] { send(soon); }), ETIMEDOUT);
}

TEST_F(RamBlockExchangeTest, doesNotSendWhatTheReceiverWouldRefuse) {
    addBlock("one");
    out_.descriptors[0].reset();
    EXPECT_THROW(send(), std::invalid_argument);
    out_ = {};
    addAnonymous();
    out_.descriptors.clear();
    EXPECT_THROW(send(), std::invalid_argument);
    out_ = {};
    addBlock("one");
    ++out_.blocks[0].file->identity.inode;
    EXPECT_THROW(send(), std::invalid_argument);
}

}  // namespace
}  // namespace vh
