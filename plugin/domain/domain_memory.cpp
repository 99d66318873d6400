#include "plugin/domain/domain_memory.h"

#include "plugin/domain/xml_tree.h"

namespace vh {
namespace {

bool hasSharedFile(pugi::xml_node backing) {
    return childAttribute(backing, "source", "type") == "file" && !backing.child("hugepages");
}

pugi::xml_node cells(pugi::xml_node domain) {
    return domain.child("cpu").child("numa");
}

pugi::xml_node childOrNew(pugi::xml_node parent, const char* name) {
    const pugi::xml_node child = parent.child(name);
    return child ? child : insertChild(parent, {}, name);
}

}  // namespace

std::string memoryProblem(pugi::xml_node domain) {
    const pugi::xml_node backing = domain.child("memoryBacking");
    const std::string access = childAttribute(backing, "access", "mode");
    const bool isFile = hasSharedFile(backing);
    if (!isFile && childAttribute(backing, "source", "type") != "memfd") {
        return backing.child("hugepages")
                   ? "guest RAM is huge pages that cannot be found by another QEMU (no <source type='memfd'/>)"
                   : "guest RAM is private to the running QEMU (no <source type='memfd'/>)";
    }
    if (access == "private") return "guest RAM is private to the running QEMU (<access mode='private'/>)";
    for (pugi::xml_node cell : cells(domain).children("cell")) {
        const std::string own = attribute(cell, "memAccess");
        if (own == "private") return "guest RAM of NUMA cell " + attribute(cell, "id") + " is private (memAccess='private')";
        // A file is private unless libvirt says otherwise, a memfd is shared (QEMU 10.0 backends/hostmem-*.c).
        if (isFile && access.empty() && own.empty())
            return "guest RAM of NUMA cell " + attribute(cell, "id") + " is private (no memAccess='shared')";
    }
    const bool cellsDecide = isFile && cells(domain).child("cell");
    if (isFile && access.empty() && !cellsDecide) return "guest RAM is private to the running QEMU (no <access mode='shared'/>)";
    return "";
}

void shareMemory(pugi::xml_node domain) {
    pugi::xml_node backing = domain.child("memoryBacking");
    if (!backing) {
        pugi::xml_node before = domain.child("currentMemory");
        if (!before) before = domain.child("memory");
        backing = insertChild(domain, before, "memoryBacking");
    }
    if (!hasSharedFile(backing)) setAttribute(childOrNew(backing, "source"), "type", "memfd");
    setAttribute(childOrNew(backing, "access"), "mode", "shared");
    for (pugi::xml_node cell : cells(domain).children("cell"))
        if (attribute(cell, "memAccess") == "private") setAttribute(cell, "memAccess", "shared");
}

}  // namespace vh
