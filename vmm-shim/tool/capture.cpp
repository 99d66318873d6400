#include "vmm-shim/tool/capture.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <functional>
#include <iostream>
#include <thread>
#include <utility>

#include "vmm-shim/file.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/qmp/vmm_state.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::steady_clock;

/// A directory with a socket that the VMM's user can reach, and nobody can find by listing.
class ListeningPlace {
 public:
    ListeningPlace() {
        // Non-blocking: a client may have gone again when accept() is called.
        if (::fcntl(cpr_.fd(), F_SETFL, O_NONBLOCK) != 0) throwErrno("fcntl");
        if (::chmod(cpr_.path().c_str(), 0666) != 0 || ::chmod(directory_.path().c_str(), 0711) != 0)
            throwErrno("chmod in '" + directory_.path() + "'");
    }

    const PathListener& cpr() const { return cpr_; }
    std::string mainPath() const { return directory_.path() + "/nobody"; }

 private:
    const PrivateDirectory directory_{"vmm-shim"};
    const PathListener cpr_{directory_.path() + "/cpr"};
};

void expectPeer(int connection, pid_t pid) {
    ucred peer{};
    socklen_t length = sizeof(peer);
    if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) throwErrno("SO_PEERCRED");
    if (peer.pid != pid)
        throw std::runtime_error("it is process " + std::to_string(peer.pid) +
                                 " that sends the CPR state, and not the VMM, process " + std::to_string(pid) +
                                 ": is --pid right?");
}

std::string migrationStatus(const json& migration) {
    return migration.value("status", "none");
}

/// What has been begun, and is undone at the latest when this ends.
class Undoing {
 public:
    Undoing(std::string failure, std::function<void()> undo) : failure_(std::move(failure)), undo_(std::move(undo)) {}
    Undoing(const Undoing&) = delete;
    ~Undoing() {
        try {
            now();
        } catch (const std::exception& error) {
            std::cerr << "vmm-shim: " << failure_ << ": " << error.what() << "\n";
        }
    }
    void now() {
        if (const auto undo = std::exchange(undo_, nullptr)) undo();
    }

 private:
    const std::string failure_;
    std::function<void()> undo_;
};

void beginMigration(Monitor& monitor, const ListeningPlace& place) {
    const auto channel = [](const char* type, const std::string& path) {
        return json{{"channel-type", type}, {"addr", {{"transport", "socket"}, {"type", "unix"}, {"path", path}}}};
    };
    // Both, always: with the CPR channel alone QEMU 10.0.2 and 11.1.3 dereference a null pointer, and the guest is gone.
    monitor.send("migrate", {{"channels", {channel("main", place.mainPath()), channel("cpr", place.cpr().path())}}});
}

void cancelMigration(Monitor& monitor) {
    monitor.execute("migrate_cancel");
    const auto deadline = steady_clock::now() + monitor.timeout();
    for (std::string status; !cameToNothing(migrationStatusOf(status = migrationStatus(monitor.execute("query-migrate"))));) {
        if (steady_clock::now() > deadline) throw std::runtime_error("it remains in the status '" + status + "'");
        // The monitor tells of no end of it, unless the capability `events` were changed, too.
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

}  // namespace

std::vector<RamBlock> readRamBlocks(Monitor& monitor, pid_t pid) {
    RamBlockSources sources;
    sources.table = monitor.execute("x-query-ramblock").value("human-readable-text", "");
    for (const json& object : monitor.execute("qom-list", {{"path", "/objects"}}))
        sources.objectTypes[object.value("name", "")] = object.value("type", "");
    sources.pid = pid;
    return gatherRamBlocks(sources);
}

CprCaptureResult captureCprState(Monitor& monitor, pid_t pid) {
    const std::string status = migrationStatus(monitor.execute("query-migrate"));
    // `completed` is also what a VMM says for good that has taken a guest over; one that has given its guest away does not run
    // it.
    const bool isIdle = cameToNothing(migrationStatusOf(status)) ||
                        (migrationStatusOf(status) == MigrationStatus::Completed &&
                         runStateOf(monitor.execute("query-status").value("status", "")) != RunState::PostMigrate);
    if (!isIdle) throw std::runtime_error("the VMM has a migration in the status '" + status + "': it is left alone");

    const std::string before = monitor.execute("query-migrate-parameters").value("mode", "normal"), cpr = "cpr-transfer";
    monitor.execute("migrate-set-parameters", {{"mode", cpr}});
    Undoing mode("the VMM's migration parameter 'mode' could not be set back to '" + before + "'", [&] {
        if (before != cpr) monitor.execute("migrate-set-parameters", {{"mode", before}});
    });
    // These are the blockers of the mode that is set (migration/migration.c:fill_source_migration_info, 10.0 and 11.1).
    std::string blockers;
    for (const json& reason : monitor.execute("query-migrate").value("blocked-reasons", json::array()))
        blockers += "\n  " + reason.get<std::string>();
    if (!blockers.empty()) throw std::runtime_error("the VMM has no CPR state to give:" + blockers);

    const ListeningPlace place;
    UniqueFd connection;  // Outlives the migration: to hang up is to let it go on.
    CprReceiver receiver;
    const auto start = steady_clock::now();
    beginMigration(monitor, place);
    Undoing migration("the migration could not be cancelled", [&monitor] { cancelMigration(monitor); });
    // The VMM answers `migrate` when it has sent the state, or failed to.
    bool answered = false;
    for (bool whole = false; !whole || !answered;) {
        const int ready = awaitReadable({whole        ? -1
                                         : connection ? connection.get()
                                                      : place.cpr().fd(),
                                         monitor.descriptor()},
                                        start + monitor.timeout());
        if (ready < 0)
            throw std::runtime_error("the VMM did not send its CPR state within " + std::to_string(monitor.timeout().count()) +
                                     " ms");
        if (ready == monitor.descriptor()) {
            if (monitor.answer()) answered = true;
        } else if (connection) {
            whole = receiver.receiveSome(connection.get());
        } else {
            connection = place.cpr().accept();
            if (connection) expectPeer(connection.get(), pid);
        }
    }
    migration.now();
    const auto taken = std::chrono::duration_cast<std::chrono::microseconds>(steady_clock::now() - start);
    connection.reset();
    mode.now();
    std::string bytes = receiver.bytes();
    return {std::move(bytes), receiver.take(), taken};
}

RamBlockExchange openBackingFiles(std::vector<RamBlock> blocks, pid_t pid) {
    RamBlockExchange exchange{std::move(blocks), {}};
    for (const RamBlock& block : exchange.blocks) {
        exchange.descriptors.emplace_back();
        if (!block.file || block.file->fd < 0) continue;
        const std::string path = Process(pid).path("fd/" + std::to_string(block.file->fd));
        exchange.descriptors.back() = UniqueFd(::open(path.c_str(), O_PATH | O_CLOEXEC));
        if (!exchange.descriptors.back()) throwErrno("open '" + path + "', the file of RAM block '" + block.idstr + "'");
    }
    return exchange;
}

}  // namespace vh
