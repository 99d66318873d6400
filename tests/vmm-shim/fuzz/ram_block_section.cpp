#include "vmm-shim/ram_block_section.h"

#include "tests/vmm-shim/fuzz/fuzz.h"
#include "vmm-shim/bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view input = vh::textOf(data, size);
    try {
        vh::mustHold(vh::encodeRamBlocks(vh::decodeRamBlocks(input)) == input, "RAM blocks are encoded as they came");
    } catch (const vh::DecodeError& error) {
        vh::mustHold(error.offset() <= size, "the offset of an error lies in the input");
    }
    return 0;
}
