// States of a VMM's guest and of its migration, as far as they make a difference to us. A hint: the process is another's.
#pragma once

#include <array>
#include <string_view>
#include <utility>

namespace vh {

/// `status` of query-status (qapi/run-state.json:RunState, QEMU 11.1).
enum class RunState {
    Unsaid,     ///< No answer, or an answer without a state.
    Prelaunch,  ///< Started with -S; the guest has never run.
    InMigrate,  ///< Waits for a guest, or takes one in.
    Paused,     ///< Stopped by `stop`; or it has taken a guest in and was started with -S.
    Running,
    FinishMigrate,  ///< Stopped by its own migration, which is at its end.
    PostMigrate,    ///< Has given its guest away.
    Other,          ///< Has a guest: io-error, shutdown, suspended, guest-panicked, and what releases to come may add.
};

/// `status` of query-migrate (qapi/migration.json:MigrationStatus, QEMU 11.1).
enum class MigrationStatus {
    None,  ///< No migration yet; QEMU says nothing then.
    Active,
    PreSwitchover,  ///< Waits for migrate-continue.
    Completed,      ///< Ended well; also said of the migration that this VMM came from.
    Cancelled,
    Failed,
    Other,  ///< Still under way: setup, device, cancelling and more.
};

constexpr RunState runStateOf(std::string_view status) {
    constexpr std::array<std::pair<std::string_view, RunState>, 7> known{{{"", RunState::Unsaid},
                                                                          {"prelaunch", RunState::Prelaunch},
                                                                          {"inmigrate", RunState::InMigrate},
                                                                          {"paused", RunState::Paused},
                                                                          {"running", RunState::Running},
                                                                          {"finish-migrate", RunState::FinishMigrate},
                                                                          {"postmigrate", RunState::PostMigrate}}};
    for (const auto& [name, state] : known)
        if (name == status) return state;
    return RunState::Other;
}

constexpr MigrationStatus migrationStatusOf(std::string_view status) {
    constexpr std::array<std::pair<std::string_view, MigrationStatus>, 7> known{
        {{"", MigrationStatus::None},
         {"none", MigrationStatus::None},
         {"active", MigrationStatus::Active},
         {"pre-switchover", MigrationStatus::PreSwitchover},
         {"completed", MigrationStatus::Completed},
         {"cancelled", MigrationStatus::Cancelled},
         {"failed", MigrationStatus::Failed}}};
    for (const auto& [name, state] : known)
        if (name == status) return state;
    return MigrationStatus::Other;
}

constexpr bool hasEnded(MigrationStatus status) {
    return status == MigrationStatus::Completed || status == MigrationStatus::Cancelled || status == MigrationStatus::Failed;
}

/// True when there is no migration, or it came to nothing: the VMM has its guest.
constexpr bool cameToNothing(MigrationStatus status) {
    return status == MigrationStatus::None || status == MigrationStatus::Cancelled || status == MigrationStatus::Failed;
}

}  // namespace vh
