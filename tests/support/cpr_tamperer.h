// Somebody in the CPR channel between two real VMMs, who passes on everything but one change.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "vmm-shim/unique_fd.h"

namespace vh::test {

/// All that one VMM says on a CPR channel. Entries and descriptors belong together by their order alone.
struct CprTraffic {
    std::string bytes;
    std::vector<UniqueFd> descriptors;
};

/// A thread that waits on descriptors and is told to stop by one: `stop` becomes readable when this goes away.
class Background {
 public:
    explicit Background(std::function<void(int stop)> work);
    Background(const Background&) = delete;
    ~Background();

 private:
    UniqueFd ours_;
    UniqueFd theirs_;
    std::thread thread_;
};

enum class HangUp {
    PassedOn,  ///< As the channel itself would.
    Held,      ///< Until the tamperer goes.
};

/// Takes one CPR state in at a socket of its own, changes it, and gives it to whoever listens where it should have gone.
class CprTamperer {
 public:
    /// Called once, from another thread; what it has done may be looked at when the tamperer is gone.
    using Change = std::function<void(CprTraffic&)>;

    CprTamperer(std::string path, std::string receiverPath, Change change, HangUp hangUp = HangUp::PassedOn);
    CprTamperer(const CprTamperer&) = delete;
    ~CprTamperer();

 private:
    void run(int stop);

    std::string path_;
    std::string receiverPath_;
    Change change_;
    HangUp hangUp_;
    UniqueFd listener_;
    std::unique_ptr<Background> thread_;
};

/// Has the CPR state of a VM that is handed over go through a CprTamperer: stands in the monitor of the VM's VMM and gives it
/// another path in `migrate`. The manager makes its relay's socket and sends `migrate` in one go, so no one can come between
/// those two from outside.
class HandoverTamperer {
 public:
    /// `generation` is the directory of the VMM that is to send.
    HandoverTamperer(std::string generation, CprTamperer::Change change);
    HandoverTamperer(const HandoverTamperer&) = delete;
    ~HandoverTamperer();

 private:
    void run(int stop);
    bool carry(int manager, int vmm, int stop);
    std::string redirected(const std::string& line);

    std::string generation_;
    CprTamperer::Change change_;
    UniqueFd listener_;
    std::unique_ptr<CprTamperer> tamperer_;
    std::unique_ptr<Background> thread_;
};

}  // namespace vh::test
