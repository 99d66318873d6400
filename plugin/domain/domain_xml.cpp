#include "plugin/domain/domain_xml.h"

#include <stdexcept>
#include <string_view>

#include "plugin/domain/xml_tree.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

using pugi::xml_node;

constexpr const char* qemuNamespace = "http://libvirt.org/schemas/domain/qemu/1.0";

std::string prefixOf(const std::string& name) {
    const std::size_t colon = name.find(':');
    return colon == std::string::npos ? "" : name.substr(0, colon);
}
std::string qualified(const std::string& prefix, const std::string& name) {
    return prefix.empty() ? name : prefix + ":" + name;
}

/// `xmlns` or `xmlns:PREFIX` as the element or one around it declares it.
std::string namespaceOf(xml_node element, const std::string& prefix) {
    const std::string name = prefix.empty() ? "xmlns" : "xmlns:" + prefix;
    for (; element; element = element.parent())
        if (const pugi::xml_attribute found = element.attribute(name.c_str())) return found.value();
    return "";
}

/// libvirt finds it by its namespace, whatever the prefix; an undeclared `qemu:` it does not find.
xml_node findCommandLine(xml_node domain) {
    for (xml_node child : domain.children()) {
        const std::string prefix = prefixOf(child.name());
        if (child.name() == qualified(prefix, "commandline") && namespaceOf(child, prefix) == qemuNamespace) return child;
    }
    return {};
}

bool isOn(std::string_view value) {
    return value == "on" || value == "yes" || value == "true" || value == "y";
}

/// What the last of the -machine options says: QEMU merges them all, the later ones over the earlier.
bool sharesImplicitRam(xml_node domain) {
    bool shares = false;
    bool isMachine = false;
    for (xml_node argument : findCommandLine(domain).children()) {
        if (argument.name() != qualified(prefixOf(argument.name()), "arg")) continue;
        const std::string_view value = argument.attribute("value").value();
        if (isMachine)
            for (const std::string& setting : split(value, ','))
                if (setting.starts_with("aux-ram-share=")) shares = isOn(setting.substr(setting.find('=') + 1));
        isMachine = !isMachine && (value == "-machine" || value == "--machine" || value == "-M");
    }
    return shares;
}

/// The prefix that stands for QEMU's namespace in this domain, which is declared if need be.
std::string declareNamespace(xml_node domain) {
    for (pugi::xml_attribute attribute : domain.attributes()) {
        const std::string name = attribute.name();
        if (prefixOf(name) == "xmlns" && std::string_view(attribute.value()) == qemuNamespace) return name.substr(6);
    }
    setAttribute(domain, "xmlns:qemu", qemuNamespace);
    return "qemu";
}

void shareImplicitRam(xml_node domain) {
    xml_node commandLine = findCommandLine(domain);
    if (!commandLine) {
        const std::string name = qualified(declareNamespace(domain), "commandline");
        commandLine = domain.child(name.c_str());
        if (!commandLine) commandLine = insertChild(domain, {}, name);
    }
    const std::string argument = qualified(prefixOf(commandLine.name()), "arg");
    for (const char* value : {"-machine", "aux-ram-share=on"})
        insertChild(commandLine, {}, argument).append_attribute("value").set_value(value);
}

bool hasSharedFile(xml_node backing) {
    return childAttribute(backing, "source", "type") == "file" && !backing.child("hugepages");
}

xml_node cells(xml_node domain) {
    return domain.child("cpu").child("numa");
}

xml_node childOrNew(xml_node parent, const char* name) {
    const xml_node child = parent.child(name);
    return child ? child : insertChild(parent, {}, name);
}

/// Why a second QEMU cannot map the guest RAM of this domain; empty when it can.
///
/// libvirt makes a memory-backend-memfd, which QEMU shares unless told otherwise, or a memory-backend-file: with <source
/// type='file'/> a file with a name, which is as good when it is shared; with huge pages a nameless file in a directory, which a
/// second QEMU would make anew, empty (libvirt 11.3.0 src/qemu/qemu_command.c:qemuBuildMemoryBackendProps).
std::string memoryProblem(xml_node domain) {
    const xml_node backing = domain.child("memoryBacking");
    const std::string access = childAttribute(backing, "access", "mode");
    const bool isFile = hasSharedFile(backing);
    if (!isFile && childAttribute(backing, "source", "type") != "memfd") {
        return backing.child("hugepages")
                   ? "guest RAM is huge pages that cannot be found by another QEMU (no <source type='memfd'/>)"
                   : "guest RAM is private to the running QEMU (no <source type='memfd'/>)";
    }
    if (access == "private") return "guest RAM is private to the running QEMU (<access mode='private'/>)";
    for (xml_node cell : cells(domain).children("cell")) {
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

/// The change after which there is none.
void shareMemory(xml_node domain) {
    xml_node backing = domain.child("memoryBacking");
    if (!backing) {
        xml_node before = domain.child("currentMemory");
        if (!before) before = domain.child("memory");
        backing = insertChild(domain, before, "memoryBacking");
    }
    if (!hasSharedFile(backing)) setAttribute(childOrNew(backing, "source"), "type", "memfd");
    setAttribute(childOrNew(backing, "access"), "mode", "shared");
    for (xml_node cell : cells(domain).children("cell"))
        if (attribute(cell, "memAccess") == "private") setAttribute(cell, "memAccess", "shared");
}

}  // namespace

std::vector<Obstacle> memoryObstacles(xml_node domain) {
    const std::string remedy = "make the domain ready, and start it anew";
    std::vector<Obstacle> found;
    const std::string why = memoryProblem(domain);
    if (!why.empty()) found.push_back({why, remedy});
    if (!sharesImplicitRam(domain))
        found.push_back({"firmware, ROMs and video memory are not shared (no '-machine aux-ram-share=on')", remedy});
    return found;
}

std::string makeReady(const std::string& xml) {
    const pugi::xml_document document = parseXml(xml, "domain");
    const xml_node domain = document.document_element();
    const bool memoryIsReady = memoryProblem(domain).empty();
    const bool implicitRamIsReady = sharesImplicitRam(domain);
    if (memoryIsReady && implicitRamIsReady) return xml;
    if (!memoryIsReady) shareMemory(domain);
    if (!implicitRamIsReady) shareImplicitRam(domain);
    if (!sharesImplicitRam(domain))
        throw std::runtime_error("the last argument of the domain's qemu:commandline is an option without its value");
    return printXml(document, xml);
}

}  // namespace vh
