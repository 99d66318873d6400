#include "vmm-shim/qmp/vmm_state.h"

#include <gtest/gtest.h>

namespace vh {
namespace {

// QEMU's own lists (qapi/run-state.json, qapi/migration.json, 11.1).

TEST(VmmState, ofAGuestIsOneOfThoseThatMakeADifference) {
    EXPECT_EQ(runStateOf("prelaunch"), RunState::Prelaunch);
    EXPECT_EQ(runStateOf("inmigrate"), RunState::InMigrate);
    EXPECT_EQ(runStateOf("paused"), RunState::Paused);
    EXPECT_EQ(runStateOf("running"), RunState::Running);
    EXPECT_EQ(runStateOf("finish-migrate"), RunState::FinishMigrate);
    EXPECT_EQ(runStateOf("postmigrate"), RunState::PostMigrate);
    EXPECT_EQ(runStateOf(""), RunState::Unsaid);
    for (const char* other : {"debug", "internal-error", "io-error", "restore-vm", "save-vm", "shutdown", "suspended", "watchdog",
                              "guest-panicked", "colo", "new in a release to come", "Running"})
        EXPECT_EQ(runStateOf(other), RunState::Other) << other;
}

TEST(VmmState, ofAMigrationIsUnderWayUnlessItIsKnownToBeOver) {
    EXPECT_EQ(migrationStatusOf("pre-switchover"), MigrationStatus::PreSwitchover);
    EXPECT_EQ(migrationStatusOf("active"), MigrationStatus::Active);
    EXPECT_EQ(migrationStatusOf("completed"), MigrationStatus::Completed);
    for (const char* over : {"", "none", "cancelled", "failed"}) EXPECT_TRUE(cameToNothing(migrationStatusOf(over))) << over;
    for (const char* underWay : {"active", "setup", "device", "cancelling", "pre-switchover", "postcopy-active", "wait-unplug",
                                 "completed", "new in a release to come"})
        EXPECT_FALSE(cameToNothing(migrationStatusOf(underWay))) << underWay;
}

}  // namespace
}  // namespace vh
