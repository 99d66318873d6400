#include "vmm-shim/tool/vm_description.h"

#include <stdexcept>

#include "tests/vmm-shim/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        for (const auto& [device, length] : vh::deviceLengths(vh::textOf(data, size)))
            vh::mustHold(!device.first.empty() && length <= std::uint64_t{1} << 32, "a device has a name and a sane length");
    } catch (const std::runtime_error& error) {
        vh::mustHold(std::string_view(error.what()).starts_with("description: "), "an error says what it is about");
    }
    return 0;
}
