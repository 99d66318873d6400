#include "manager/handover/all_steps.h"

#include "manager/handover/cpr_steps.h"
#include "manager/handover/exec_steps.h"
#include "manager/handover/stream_steps.h"

namespace vh {

std::unique_ptr<Steps> stepsOf(Course& course) {
    switch (course.design.state) {
        case StatePath::Cpr:
            if (course.design.owner == MemoryOwner::Vmm) return std::make_unique<VmmOwnedSteps>(course);
            return std::make_unique<RelayedSteps>(course);
        case StatePath::Stream:
            return std::make_unique<StreamSteps>(course);
        case StatePath::File:
            return std::make_unique<FileSteps>(course);
        case StatePath::Exec:
            return std::make_unique<ExecSteps>(course);
    }
    return nullptr;
}

}  // namespace vh
