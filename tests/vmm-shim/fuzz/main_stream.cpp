#include "vmm-shim/main_stream.h"

#include "tests/vmm-shim/fuzz/fuzz.h"
#include "tests/vmm-shim/main_stream_encoder.h"
#include "vmm-shim/bytes.h"

namespace {

/// What the inputs that are kept have of devices.
const vh::DeviceLengths lengths = {{{"timer", 0}, 24},        {{"dma", 0}, 75},  {{"dma", 1}, 75},
                                   {{"cpu_common", 0}, 8},    {{"pcspk", 0}, 2}, {{"acpi_build", 0}, 1},
                                   {{"globalstate", 0}, 104}, {{"empty", 7}, 0}, {{"huge", 0}, ~std::uint64_t{0}}};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view input = vh::textOf(data, size);
    if (const auto description = vh::findDescription(input))
        vh::mustHold(input.ends_with(*description), "a description is the end of the stream");
    try {
        const vh::MainStream stream = vh::decodeMainStream(input, lengths, {"huge0"});
        vh::mustHold(vh::encodeMainStream(stream) == input, "a stream is encoded as it came");
    } catch (const vh::DecodeError& error) {
        vh::mustHold(error.offset() <= size, "the offset of an error lies in the input");
    }
    return 0;
}
