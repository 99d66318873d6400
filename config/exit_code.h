// Exit codes of the programs.
#pragma once

namespace vh {

/// Exit codes of every verb; scripts rely on them. `Ended` is for domains only: the guest had ended by itself meanwhile.
enum class ExitCode { Done = 0, Usage = 1, Refused = 2, RolledBack = 3, Lost = 4, Unreachable = 5, Ended = 6 };

}  // namespace vh
