#include "manager/record/adopted_vm.h"

#include <cerrno>
#include <fstream>
#include <stdexcept>
#include <system_error>

#include "vmm-shim/file.h"

namespace vh {

using nlohmann::json;

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TapSettings, headerBytes, offloads)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(AdoptedVm::Command, execute, arguments)

namespace {

constexpr bool mayBeAbsent = true;  ///< In what an earlier release wrote, or a person.

/// The fields by name, for reading and for writing them.
template <class Vm, class Visit>
void eachFieldOfVm(Vm& vm, Visit visit) {
    visit("title", vm.title);
    visit("monitor", vm.monitor);
    visit("memoryBytes", vm.memoryBytes);
    visit("arguments", vm.arguments);
    visit("models", vm.models);
    visit("descriptors", vm.descriptors);
    visit("afterwards", vm.afterwards, mayBeAbsent);
    visit("pidFile", vm.pidFile);
    visit("logFile", vm.logFile);
    visit("socketDirectory", vm.socketDirectory);
}

template <class Order, class Visit>
void eachFieldOfOrder(Order& order, Visit visit) {
    visit("vm", order.vm);
    visit("uuid", order.uuid);
    visit("machine", order.machine);
    visit("pid", order.pid);
    visit("startTime", order.startTime);
    visit("binary", order.binary);
    visit("pauseBudgetMs", order.pauseBudgetMs, mayBeAbsent);
    visit("stepDeadlineMs", order.stepDeadlineMs, mayBeAbsent);
    visit("dryRun", order.dryRun, mayBeAbsent);
    eachFieldOfVm(order, visit);
}

auto writerTo(json& value) {
    return [&value](const char* key, const auto& field, bool = false) { value[key] = field; };
}

auto readerOf(const json& value) {
    return [&value](const char* key, auto& field, bool optional = false) {
        if (!optional || value.contains(key)) value.at(key).get_to(field);
    };
}

}  // namespace

void to_json(json& value, const AdoptedVm::Descriptor& descriptor) {
    value = {{"number", descriptor.number}, {"of", descriptor.of}, {"tap", descriptor.tap}, {"path", descriptor.path}};
    if (descriptor.settings != TapSettings()) value["settings"] = descriptor.settings;
}

void from_json(const json& value, AdoptedVm::Descriptor& descriptor) {
    value.at("number").get_to(descriptor.number);
    value.at("of").get_to(descriptor.of);
    value.at("tap").get_to(descriptor.tap);
    descriptor.path = value.value("path", "");
    descriptor.settings = value.value("settings", TapSettings());
}

json toJson(const AdoptedVm& vm) {
    json value;
    eachFieldOfVm(vm, writerTo(value));
    return value;
}

AdoptedVm adoptedVmFromJson(const json& value) {
    AdoptedVm vm;
    eachFieldOfVm(vm, readerOf(value));
    return vm;
}

json toJson(const AdoptOrder& order) {
    json value;
    eachFieldOfOrder(order, writerTo(value));
    return value;
}

AdoptOrder readAdoptOrder(const std::string& file) {
    try {
        std::ifstream input(file);
        if (!input) throw std::system_error(errno, std::generic_category());
        const json value = json::parse(input);
        AdoptOrder order;
        eachFieldOfOrder(order, readerOf(value));
        order.binary = absolutePath(order.binary);
        if (order.vm.empty() || order.vm.find('/') != std::string::npos || order.vm.starts_with("."))
            throw std::runtime_error("'" + order.vm + "' cannot be the name of a directory");
        return order;
    } catch (const std::exception& error) {
        throw std::runtime_error("cannot understand '" + file + "': " + error.what());
    }
}

}  // namespace vh
