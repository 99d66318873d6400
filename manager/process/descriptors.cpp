#include "manager/process/descriptors.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm-shim/throw_errno.h"

namespace vh {

UniqueFd takeDescriptor(pid_t pid, int number) {
    const std::string what = "take descriptor " + std::to_string(number) + " of pid " + std::to_string(pid);
    const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!process) throwErrno(what);
    UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
    if (!fd) throwErrno(what);
    return fd;
}

}  // namespace vh
