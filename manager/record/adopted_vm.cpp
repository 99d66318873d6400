#include "manager/record/adopted_vm.h"

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <system_error>

namespace vh {

using nlohmann::json;

namespace {

json toJson(const AdoptedVm::Descriptor& descriptor) {
    json value{{"number", descriptor.number}, {"of", descriptor.of}, {"tap", descriptor.tap}, {"path", descriptor.path}};
    if (descriptor.tap)
        value["settings"] = {{"headerBytes", descriptor.settings.headerBytes}, {"offloads", descriptor.settings.offloads}};
    return value;
}

}  // namespace

json toJson(const AdoptedVm& vm) {
    json descriptors = json::array();
    for (const AdoptedVm::Descriptor& descriptor : vm.descriptors) descriptors.push_back(toJson(descriptor));
    json afterwards = json::array();
    for (const AdoptedVm::Command& command : vm.afterwards)
        afterwards.push_back({{"execute", command.name}, {"arguments", command.arguments}});
    return {{"title", vm.title},
            {"monitor", vm.monitor},
            {"memoryBytes", vm.memoryBytes},
            {"arguments", vm.arguments},
            {"models", vm.models},
            {"descriptors", descriptors},
            {"afterwards", afterwards},
            {"pidFile", vm.pidFile},
            {"logFile", vm.logFile},
            {"socketDirectory", vm.socketDirectory}};
}

AdoptedVm adoptedVmFromJson(const json& value) {
    AdoptedVm vm;
    value.at("title").get_to(vm.title);
    value.at("monitor").get_to(vm.monitor);
    value.at("memoryBytes").get_to(vm.memoryBytes);
    value.at("arguments").get_to(vm.arguments);
    value.at("models").get_to(vm.models);
    for (const json& entry : value.at("descriptors")) {
        AdoptedVm::Descriptor descriptor{entry.at("number").get<int>(), entry.at("of").get<int>(), entry.at("tap").get<bool>()};
        if (const json settings = entry.value("settings", json()); settings.is_object())
            descriptor.settings = {settings.at("headerBytes").get<int>(), settings.at("offloads").get<unsigned>()};
        descriptor.path = entry.value("path", "");
        vm.descriptors.push_back(descriptor);
    }
    for (const json& entry : value.value("afterwards", json::array()))
        vm.afterwards.push_back({entry.at("execute").get<std::string>(), entry.at("arguments")});
    value.at("pidFile").get_to(vm.pidFile);
    value.at("logFile").get_to(vm.logFile);
    value.at("socketDirectory").get_to(vm.socketDirectory);
    return vm;
}

Adoption readAdoption(const std::string& file) {
    try {
        std::ifstream input(file);
        if (!input) throw std::system_error(errno, std::generic_category());
        const json value = json::parse(input);
        Adoption adoption;
        value.at("vm").get_to(adoption.vm);
        value.at("uuid").get_to(adoption.uuid);
        value.at("machine").get_to(adoption.machine);
        value.at("pid").get_to(adoption.pid);
        value.at("startTime").get_to(adoption.startTime);
        adoption.binary = std::filesystem::absolute(value.at("binary").get<std::string>());
        adoption.pauseBudgetMs = value.value("pauseBudgetMs", adoption.pauseBudgetMs);
        adoption.dryRun = value.value("dryRun", false);
        adoption.adopted = adoptedVmFromJson(value);
        if (adoption.vm.empty() || adoption.vm.find('/') != std::string::npos || adoption.vm.starts_with("."))
            throw std::runtime_error("'" + adoption.vm + "' cannot be the name of a directory");
        return adoption;
    } catch (const std::exception& error) {
        throw std::runtime_error("cannot understand '" + file + "': " + error.what());
    }
}

}  // namespace vh
