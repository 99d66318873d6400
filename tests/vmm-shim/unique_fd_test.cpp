#include "vmm-shim/unique_fd.h"

#include <fcntl.h>

#include <type_traits>
#include <utility>

#include <gtest/gtest.h>

#include "tests/support/open_descriptors.h"

namespace vh {
namespace {

class UniqueFdTest : public NoDescriptorLeaks {
 protected:
    static UniqueFd opened() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }
    static bool isOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }
};

static_assert(!std::is_copy_constructible_v<UniqueFd> && !std::is_copy_assignable_v<UniqueFd>, "a descriptor has one owner");
static_assert(!std::is_convertible_v<int, UniqueFd>, "taking ownership is visible where it happens");

TEST_F(UniqueFdTest, holdsNothingAtFirst) {
    const UniqueFd fd;
    EXPECT_FALSE(fd);
    EXPECT_EQ(fd.get(), -1);
}

TEST_F(UniqueFdTest, takesZeroForADescriptor) {
    UniqueFd fd(0);
    EXPECT_TRUE(fd);
    EXPECT_EQ(fd.release(), 0);
}

TEST_F(UniqueFdTest, closesWhatItOwnsWhenItGoes) {
    int number = -1;
    {
        const UniqueFd fd = opened();
        number = fd.get();
        EXPECT_TRUE(isOpen(number));
    }
    EXPECT_FALSE(isOpen(number));
}

TEST_F(UniqueFdTest, ownsNothingAfterAMove) {
    UniqueFd from = opened();
    const int number = from.get();
    const UniqueFd to(std::move(from));
    EXPECT_FALSE(from);  // NOLINT(bugprone-use-after-move): that it is empty is the point.
    EXPECT_EQ(to.get(), number);
    EXPECT_TRUE(isOpen(number));
}

TEST_F(UniqueFdTest, closesItsOwnBeforeItTakesAnother) {
    UniqueFd fd = opened(), other = opened();
    const int first = fd.get(), second = other.get();
    fd = std::move(other);
    EXPECT_FALSE(isOpen(first));
    EXPECT_EQ(fd.get(), second);
    EXPECT_TRUE(isOpen(second));
}

TEST_F(UniqueFdTest, survivesAMoveIntoItself) {
    UniqueFd fd = opened();
    UniqueFd& same = fd;
    fd = std::move(same);
    EXPECT_TRUE(fd);
    EXPECT_TRUE(isOpen(fd.get()));
}

TEST_F(UniqueFdTest, givesUpWhatItReleases) {
    UniqueFd fd = opened();
    const int number = fd.release();
    EXPECT_FALSE(fd);
    EXPECT_TRUE(isOpen(number));
    ::close(number);
}

TEST_F(UniqueFdTest, canBeResetTwice) {
    UniqueFd fd = opened();
    fd.reset();
    EXPECT_FALSE(fd);
    fd.reset();
    EXPECT_FALSE(fd);
}

}  // namespace
}  // namespace vh
