// Designs whose RAM blocks go through QEMU's CPR channel and whose device state is a migration stream: the new VMM is built
// around the old one's memory. vmm-owned lets the two QEMUs do it alone.
//
// With a relay (relayed) the old VMM's CPR state comes to us and not to the new VMM: it is decoded, compared with the old VMM's
// own RAM blocks, adapted and passed on, and the old VMM goes on running the guest until we hang up. An upgrade that stands by
// cancels the old VMM's side at once and leaves its monitor to others, and asks for the state a second time when it is to commit:
// if that is not the same, the new VMM was built for what no longer is, and the handover starts over. A vmm-owned old VMM has
// sent its state to the new one itself and stays in the migration.

#include <algorithm>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>

#include "manager/handover/relay.h"
#include "manager/handover/steps.h"
#include "manager/resources/passthrough.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

class CprSteps : public Steps {
 public:
    using Steps::Steps;

    Incoming incoming() const override { return Incoming::Cpr; }

    /// A VMM that waits for CPR state has no monitor yet (system/vl.c:qemu_init, 10.0 and 11.1), and nothing tells that it
    /// listens: asks.
    void awaitStart(Then then) override {
        if (isListening(cprChannelPath(course_.newVmm->directory()))) return then();
        course_.after(milliseconds(2), [this, then = std::move(then)] { awaitStart(then); });
    }

    /// A new VMM that has its CPR state builds its machine, and answers on its monitor when that is done.
    void exchange() override {
        sendCprState([this] {
            course_.run(settingsOfNewVmm(), [this] {
                course_.newVmm->expectOwnAnswer();
                course_.done();
            });
        });
    }

    /// The new VMM hangs up on the CPR channel once it listens on the main one, and that makes the old one go ahead.
    void switchOver() override {
        holdNetwork();
        course_.run({{course_.newVmm.get(), "migrate-incoming", mainChannel()}}, [] {});
    }

    void migrated() override {
        if (course_.oldMigration != MigrationStatus::Completed) return;
        // With devices the old VMM cannot go back from here.
        if (course_.passesThrough() || course_.newMigration == MigrationStatus::Completed) course_.done();
    }

    /// The guest has stopped and its state is not yet sent: what it has done to its devices' interrupts by now is all there is.
    /// QEMU itself goes on without a vector that was enabled after it wrote its CPR state.
    void aboutToSwitch() override {
        std::set<std::string> known = eventfdsBefore_;
        const std::set<std::string> now = eventfdsOf(course_.record().vmm.pid);
        bool changed = false;
        for (const UniqueFd& descriptor : capture_.descriptors) {
            const std::string number = eventfdId(descriptor.get());
            if (number.empty()) continue;
            changed = changed || !now.contains(number);
            known.insert(number);
        }
        if (changed || !std::ranges::includes(known, now)) {
            course_.report.shouldStartOver = true;
            throw std::runtime_error(
                "the guest changed interrupts of a passed-through device after the new VMM was told of them");
        }
        course_.run({{course_.oldVmm.get(), "migrate-continue", {{"state", "pre-switchover"}}}}, [] {});
    }

    void undo(Then then) override {
        course_.tidy(*course_.oldVmm, "migrate-set-parameters", {{"mode", "normal"}}, std::move(then));
    }

 protected:
    /// Has the old VMM, whose migration mode is set, send its CPR state.
    virtual void sendCprState(Then then) = 0;

    void startMigration(const std::string& cprPath, Then then) {
        course_.migrateSent = true;
        course_.oldMigration = MigrationStatus::None;
        if (course_.passesThrough()) eventfdsBefore_ = eventfdsOf(course_.record().vmm.pid);
        // Always both channels and never `uri`: QEMU 10.0 and 11.1 crash on a lone cpr channel, and 11.1 aborts on uri.
        json channels = mainChannel();
        channels.at("channels").push_back(channel("cpr", cprPath));
        course_.run({{course_.oldVmm.get(), "migrate", channels}}, std::move(then));
    }

    CprCapture capture_;  ///< What the new VMM was built with, where it came to us.

 private:
    std::set<std::string> eventfdsBefore_;  ///< With devices: the old VMM's, just before it wrote its CPR state.
};

class VmmOwnedSteps : public CprSteps {
 public:
    using CprSteps::CprSteps;

    void hold(Then then) override { then(); }
    void resumeExchange(Then then) override { then(); }

 protected:
    void sendCprState(Then then) override {
        setMode([this, then = std::move(then)] { startMigration(cprChannelPath(course_.newVmm->directory()), then); });
    }
};

class RelayedSteps : public CprSteps {
 public:
    using CprSteps::CprSteps;

    void resumeExchange(Then then) override {
        CprSteps::resumeExchange([this, then = std::move(then)] { sendCprState(then); });
    }

    /// The relay has kept the new VMM's hang-up from the old one, and passes it on.
    void switchOver() override {
        holdNetwork();
        course_.run({{course_.newVmm.get(), "migrate-incoming", mainChannel()}}, [this] { relay_->hangUp(); });
    }

    void letGo() override { relay_.reset(); }

 protected:
    void sendCprState(Then then) override {
        setMode([this, then = std::move(then)] {
            course_.gatherRam(*course_.oldVmm, [this, then](const std::vector<RamBlock>& blocks) {
                const std::string path = relayPath(course_.newVmm->directory());
                const auto received = course_.within([this, blocks, then](CprCapture capture) {
                    if (const std::string wrong = whatIsWrong(capture, blocks, expectedDevices()); !wrong.empty())
                        throw std::runtime_error(wrong);
                    take(std::move(capture), then);
                });
                relay_ = std::make_unique<Relay>(
                    path, Relay::Peer{course_.identity(), course_.record().vmm.pid}, received,
                    course_.within([this](const std::string& cause) { course_.failUnlessNewDies(cause); }));
                startMigration(path, [] {});
            });
        });
    }

 private:
    CprPassthrough expectedDevices() const {
        std::map<std::string, int> kept;
        for (const NamedDescriptor& device : course_.devices) kept[device.name] = device.fd.get();
        return cprPassthrough(course_.record().passthrough, kept);
    }

    void take(CprCapture capture, const Then& then) {
        if (course_.committed) {
            // The second time, from an old VMM that was let go meanwhile: the new one has what came the first time.
            if (const std::string change = whatChanged(capture_, capture); !change.empty()) {
                course_.report.shouldStartOver = true;
                throw std::runtime_error("the old VMM has changed while the new one stood by: " + change);
            }
            return then();
        }
        capture_ = std::move(capture);
        if (!sendsVfioSubsection(course_.newBinary.version)) capture_.state.vfioDevices.reset();
        try {
            relay_->feed(capture_, cprChannelPath(course_.newVmm->directory()), course_.newVmm->record().pid,
                         course_.within([this, then] { course_.request.standby ? letOldVmmGo(then) : then(); }));
        } catch (const std::exception& error) {
            course_.failUnlessNewDies(error.what());
        }
    }

    /// Takes the old VMM out of the exchange without a hang-up that would make it go on.
    void letOldVmmGo(Then then) {
        VmmProcess& old = *course_.oldVmm;
        course_.run({{&old, "migrate_cancel", nullptr}}, [this, &old, then] {
            course_.ask(old, "query-migrate", nullptr, [this, &old, then](const QmpReply& reply) {
                const MigrationStatus status = migrationStatusOf(reply.text("status"));
                if (!hasEnded(status)) return course_.after(milliseconds(5), [this, then] { letOldVmmGo(then); });
                if (status != MigrationStatus::Cancelled)
                    throw std::runtime_error("the old VMM's migration has " + reply.text("status"));
                course_.oldMigration = MigrationStatus::Cancelled;
                relay_.reset();
                course_.run({{&old, "migrate-set-parameters", {{"mode", "normal"}}}}, then);
            });
        });
    }

    std::unique_ptr<Relay> relay_;  ///< From the exchange on; destroyed, it hangs up.
};

}  // namespace

std::unique_ptr<Steps> cprSteps(Course& course) {
    if (course.design.relays) return std::make_unique<RelayedSteps>(course);
    return std::make_unique<VmmOwnedSteps>(course);
}

}  // namespace vh
