// Which steps a design takes.
#pragma once

#include <memory>

#include "manager/handover/steps.h"

namespace vh {

std::unique_ptr<Steps> stepsOf(Course& course);

}  // namespace vh
