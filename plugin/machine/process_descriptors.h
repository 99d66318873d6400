// What a QEMU has open that its arguments cannot say: by which number it has a tap or a listening socket now.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>

namespace vh {

struct ProcessDescriptors {
    std::map<std::string, int> tapFds;     ///< Interface -> descriptor (`iff` in fdinfo, drivers/net/tun.c, Linux 3.17).
    std::map<std::string, int> listeners;  ///< Unix socket path -> descriptor (/proc/net/unix, its network namespace).
    bool vhost = false;                    ///< It has /dev/vhost-net open, by one network at least.
};

/// Throws std::system_error when the process is gone or may not be looked at.
ProcessDescriptors descriptorsOf(pid_t pid);

}  // namespace vh
