#include "vmm-shim/cpr_state.h"

#include "tests/vmm-shim/fuzz/fuzz.h"
#include "vmm-shim/bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view input = vh::textOf(data, size);
    try {
        const vh::CprState state = vh::decodeCprState(input);
        const vh::EncodedCprState encoded = vh::encodeCprState(state);
        vh::mustHold(encoded.bytes == input, "a CPR state is encoded as it came");
        vh::mustHold(encoded.serviceBytes.size() == state.fds.size(), "each entry has a service byte");
        for (const std::size_t at : encoded.serviceBytes)
            vh::mustHold(input.at(at) == ' ', "a service byte is where it is said to be");
    } catch (const vh::DecodeError& error) {
        vh::mustHold(error.offset() <= size, "the offset of an error lies in the input");
    }
    return 0;
}
