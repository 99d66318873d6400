#include <stdexcept>

#include "tests/vmm-shim/fuzz/fuzz.h"
#include "vmm-shim/ram_blocks.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    vh::RamBlockSources sources;
    sources.table = vh::textOf(data, size);
    sources.objectTypes = {{"ram0", "memory-backend-file"}};
    try {
        for (const vh::RamBlock& block : vh::gatherRamBlocks(sources))
            vh::mustHold(!block.idstr.empty() && block.used_length <= block.max_length && block.page_size != 0,
                         "a block has a name, a page size and no more in use than there is");
    } catch (const std::invalid_argument&) {
        return 0;
    }
    return 0;
}
