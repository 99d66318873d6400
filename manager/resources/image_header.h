// References of a disk image's header to other files.
#pragma once

#include <optional>
#include <string>

namespace vh {

struct BackingImage {
    std::string file;    ///< An absolute path.
    std::string format;  ///< QEMU's name of it.
};

/// The backing file of a qcow2 image, open for reading as `image`, whose header names it relative to the image: QEMU would look
/// for it in /dev/fdset, for it is given the image as a descriptor. Nothing where QEMU finds it by itself: by an absolute path,
/// or by something that is no path. Throws std::runtime_error with what to do when the header does not say its format.
///
/// The header may be a hostile VMM's work. So nothing is opened here: QEMU opens the file, as a user who may read it or not.
std::optional<BackingImage> relativeBackingFile(int image, const std::string& path);

}  // namespace vh
