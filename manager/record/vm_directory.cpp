#include "manager/record/vm_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "manager/process/child_process.h"
#include "vmm-shim/file.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// What a record may grow by until its handover is settled, in bytes.
constexpr std::size_t roomToGrow = 16 << 10;
constexpr std::string_view beingSettled = "an interrupted verb is being settled\n";

/// In a directory of the VMM's user, and by him: the link to it is his, so that one can see who that is.
void removeIncomingSockets(const std::string& directory) {
    struct stat link {};
    if (::lstat((directory + "/incoming").c_str(), &link) != 0) return;
    const Identity user{link.st_uid, link.st_gid, ::geteuid() == 0 && link.st_uid != 0};
    for (const std::string& path : {mainChannelPath(directory), cprChannelPath(directory), relayPath(directory)})
        doAs(user, "remove '" + path + "'", [&path] { return ::unlink(path.c_str()); });
}

}  // namespace

VmDirectory::VmDirectory(const std::string& runtimeDirectory, const std::string& vm) : runtime_(runtimeDirectory), vm_(vm) {
    if (!isVmName(vm)) throw std::invalid_argument(noVmName(vm));
}

std::optional<VmRecord> VmDirectory::read() const {
    const std::string file = path() + "/record.json";
    try {
        std::string text;
        try {
            text = readFile(file);
        } catch (const std::system_error& error) {
            if (error.code() == std::errc::no_such_file_or_directory) return std::nullopt;
            throw std::system_error(error.code());
        }
        const json value = json::parse(text);
        VmRecord record = vmRecordFromJson(value);
        const std::string vm = value.contains("vm")
                                   ? value.at("vm").get<std::string>()  // Not there in those of earlier releases.
                               : record.adopted ? vm_
                                                : record.definition().name;
        if (vm != vm_) throw std::runtime_error("it is the record of vm '" + vm + "'");
        return record;
    } catch (const json::parse_error& error) {
        throw Refusal(unreadable("it is damaged, or cut off, at byte " + std::to_string(error.byte)));
    } catch (const std::exception& error) {
        throw Refusal(unreadable(error.what()));
    }
}

/// `why` is cut short, for a parser's words may have what it could not parse, which may be the whole definition.
Obstacle VmDirectory::unreadable(const std::string& why) const {
    constexpr std::size_t mostShown = 200;
    return {"vm '" + vm_ + "': its record '" + path() + "/record.json' cannot be used: " + why.substr(0, mostShown) +
                (why.size() > mostShown ? "..." : "") + "; its VMM goes on if it lives, and nobody but you can tell",
            "put the right record back, or end the VM, guest and all, with 'virt-handover destroy " + vm_ + "'"};
}

void VmDirectory::write(const VmRecord& record) const {
    json value = toJson(record);
    value["vm"] = vm_;
    const std::string file = path() + "/record.json", reserved = file + ".reserved", text = value.dump(2) + "\n";
    try {
        // A guest may be waiting for this, and it ends with the host: so not for the disk (fsync(2)), where that is not /run's
        // tmpfs.
        replaceFile(file, text, 0600, Outlives::Writer);
    } catch (const std::system_error& error) {
        if (error.code() != std::errc::no_space_on_device || !fs::exists(reserved)) throw;
        replaceFromReserved(reserved, file, text);
    }
    if (!record.isHalfDone()) {
        ::unlink(reserved.c_str());
    } else if (!fs::exists(reserved)) {
        try {
            reserveFile(reserved, text.size() + roomToGrow);
        } catch (const std::system_error&) {  // What comes next may find room all the same, and says so if not.
        }
    }
}

std::string VmDirectory::makeGeneration(unsigned number, uid_t uid, gid_t gid) const {
    removeGeneration(number);
    makeDirectories(path(), 0711);
    const std::string directory = generation(number), incoming = directory + "/incoming";
    makeDirectories(directory, 0711);
    makeDirectories(incoming, 0700);
    if (::geteuid() == 0 && ::chown(incoming.c_str(), uid, gid) != 0) throwErrno("give '" + incoming + "' to the VMM's user");
    return directory;
}

void VmDirectory::moveIncoming(unsigned number, const std::string& socketDirectory) const {
    const std::string incoming = generation(number) + "/incoming";
    struct stat made {};
    if (::stat(incoming.c_str(), &made) != 0 || ::rmdir(incoming.c_str()) != 0 ||
        ::symlink(socketDirectory.c_str(), incoming.c_str()) != 0 || ::lchown(incoming.c_str(), made.st_uid, made.st_gid) != 0)
        throwErrno("let '" + incoming + "' be '" + socketDirectory + "'");
    removeIncomingSockets(generation(number));
}

void VmDirectory::removeGeneration(unsigned number) const {
    std::error_code ignored;  // What cannot be removed is found by the next makeGeneration(), which fails with its name.
    const std::string directory = generation(number);
    try {
        if (fs::is_symlink(directory + "/incoming", ignored)) removeIncomingSockets(directory);
    } catch (const std::exception&) {  // Where they are, no file system answers; a handover that needs the place says so.
    }
    fs::remove_all(directory, ignored);
}

void VmDirectory::removeOtherGenerations(const VmRecord& record) const {
    std::set<std::string> used;
    for (const VmmRecord& vmm : record.vmms()) used.insert(std::to_string(vmm.generation));
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator(path(), ignored)) {
        const std::string number = entry.path().filename();
        if (number.find_first_not_of("0123456789") == std::string::npos && !used.contains(number))
            removeGeneration(static_cast<unsigned>(std::strtoul(number.c_str(), nullptr, 10)));
    }
}

void VmDirectory::remove() const {
    std::error_code ignored;
    fs::remove_all(path(), ignored);
}

UniqueFd VmDirectory::tryLock() const {
    // One that exists is somebody's, as it is: it may be /tmp.
    if (struct stat status{}; ::stat(runtime_.c_str(), &status) != 0) makeDirectories(runtime_, 0755);
    // Where others may make files (no directory of ours, but somebody's choice), the name may lead to what is not to be written
    // to.
    UniqueFd fd(::open(lockFile().c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
    if (!fd) throwErrno("open '" + lockFile() + "'");
    struct stat file {};
    if (::fstat(fd.get(), &file) != 0) throwErrno("look at '" + lockFile() + "'");
    if (!S_ISREG(file.st_mode) || file.st_nlink != 1)
        throw std::runtime_error("'" + lockFile() + "' is no lock file; have a runtime directory that nobody else can write to");
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) {
        sayBeingSettled(fd.get(), false);  // By somebody who died.
        return fd;
    }
    if (errno == EWOULDBLOCK) return {};
    throwErrno("lock '" + lockFile() + "'");
}

void VmDirectory::sayBeingSettled(int lock, bool isSo) {
    // Without room for it others do not wait, and say that somebody is at work.
    if (::ftruncate(lock, 0) == 0 && isSo) (void)!::pwrite(lock, beingSettled.data(), beingSettled.size(), 0);
}

bool VmDirectory::isBeingSettled() const {
    std::string said;
    std::getline(std::ifstream(lockFile()) >> std::ws, said);
    return said + "\n" == beingSettled;
}

std::vector<std::string> recordedVms(const std::string& runtimeDirectory) {
    std::vector<std::string> names;
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator(runtimeDirectory, ignored))
        if (fs::exists(entry.path() / "record.json", ignored)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
}

std::string defaultRuntimeDirectory() {
    if (::geteuid() == 0) return "/run/virt-handover";
    const char* own = std::getenv("XDG_RUNTIME_DIR");
    return (own ? std::string(own) : "/run/user/" + std::to_string(::geteuid())) + "/virt-handover";
}

std::string managerSocket(const std::string& runtimeDirectory) {
    return runtimeDirectory + "/manager.sock";
}

std::string mainChannelPath(const std::string& directory) {
    return directory + "/incoming/main.sock";
}
std::string cprChannelPath(const std::string& directory) {
    return directory + "/incoming/cpr.sock";
}
std::string relayPath(const std::string& directory) {
    return directory + "/incoming/relay.sock";
}

}  // namespace vh
