// `reference-vmm QEMU-OPTIONS... [OWN-OPTIONS...]`, in a QEMU's place; reference_vmm.h says what it understands.
#include <exception>
#include <iostream>

#include "tests/reference-vmm/reference_vmm.h"

int main(int argc, char** argv) {
    try {
        return vh::serveReferenceVmm({argv + 1, argv + argc});
    } catch (const std::exception& error) {
        std::cerr << "reference-vmm: " << error.what() << "\n";
        return 2;
    }
}
