// What stands against a handover, in the two parts that a script reads apart.
#pragma once

#include <string>

#include <gmock/gmock.h>

#include "config/obstacle.h"

namespace vh {

inline auto isObstacle(const std::string& what, const std::string& remedy) {
    return testing::AllOf(testing::Field("what", &Obstacle::what, testing::HasSubstr(what)),
                          testing::Field("remedy", &Obstacle::remedy, testing::HasSubstr(remedy)));
}

}  // namespace vh
