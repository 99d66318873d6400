#include "tests/reference-vmm/reference_options.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <stdexcept>
#include <utility>

#include <nlohmann/json.hpp>

#include "vmm-shim/text.h"

namespace vh {
namespace {

using nlohmann::json;

/// In the order of Step.
constexpr std::string_view steps[] = {"start",      "cpr-sent",  "cpr-received", "monitor",      "verify",
                                      "migrate",    "incoming",  "hang-up",      "stream-begin", "stream-middle",
                                      "stream-end", "completed", "cont",         "quit"};
static_assert(std::size(steps) == static_cast<std::size_t>(Step::Quit) + 1);

enum class Argument { None, Number, Name, TwoNames };

struct ActionRule {
    Action action;
    Argument argument;
    std::set<Step> at;  ///< Empty for every step.
};

const std::map<std::string, ActionRule> actions{
    {"die", {Action::Die, Argument::None, {}}},
    {"exit", {Action::Exit, Argument::Number, {}}},
    {"hang", {Action::Hang, Argument::None, {}}},
    {"slow", {Action::Slow, Argument::Number, {}}},
    {"garbage",
     {Action::Garbage,
      Argument::None,
      {Step::Monitor, Step::Verify, Step::Migrate, Step::Incoming, Step::Cont, Step::Quit, Step::CprSent, Step::StreamBegin,
       Step::StreamMiddle, Step::StreamEnd}}},
    {"lie",
     {Action::Lie,
      Argument::None,
      {Step::Monitor, Step::Verify, Step::Migrate, Step::Incoming, Step::Cont, Step::Quit, Step::CprSent, Step::CprReceived,
       Step::HangUp, Step::StreamEnd}}},
    {"drop", {Action::Drop, Argument::Name, {Step::CprSent}}},
    {"rename", {Action::Rename, Argument::TwoNames, {Step::CprSent}}},
    {"swap", {Action::Swap, Argument::TwoNames, {Step::CprSent}}},
    {"replace", {Action::Replace, Argument::Name, {Step::CprSent}}},
    {"truncate", {Action::Truncate, Argument::Number, {Step::CprSent}}},
    {"trailing", {Action::Trailing, Argument::Number, {Step::CprSent}}},
    {"bad-service-byte", {Action::BadServiceByte, Argument::Name, {Step::CprSent}}},
    {"missing-descriptor", {Action::MissingDescriptor, Argument::None, {Step::CprSent}}},
};

[[noreturn]] void refuse(const std::string& option, const std::string& value, const std::string& why) {
    throw std::invalid_argument(option + " '" + value + "': " + why);
}

std::uint64_t number(const std::string& option, const std::string& text, std::uint64_t most) {
    const auto value = wholeNumber<std::uint64_t>(text);
    if (!value || *value > most) refuse(option, text, "should be a number of at most " + std::to_string(most));
    return *value;
}

std::uint64_t positive(const std::string& option, const std::string& text, std::uint64_t most) {
    const std::uint64_t value = number("-" + option, text, most);
    if (value == 0) refuse("-" + option, text, "should be 1 or more");
    return value;
}

Fault parseFault(const std::string& text) {
    const auto fail = [&text](const std::string& why) { refuse("--fault", text, why); };
    Fault fault;
    fault.text = text;
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos) fail("should be STEP=ACTION");
    std::string stepName = text.substr(0, equals);
    if (const std::size_t at = stepName.find('@'); at != std::string::npos) {
        fault.visit = static_cast<unsigned>(number("--fault", stepName.substr(at + 1), 1'000'000));
        if (fault.visit == 0) fail("visits of a step are counted from 1");
        stepName.erase(at);
    }
    const auto step = std::ranges::find(steps, stepName);
    if (step == std::end(steps))
        fail("there is no step '" + stepName + "', but " + joined(std::set(std::begin(steps), std::end(steps))));
    fault.step = static_cast<Step>(step - std::begin(steps));
    const std::string wanted = text.substr(equals + 1);
    const std::size_t colon = wanted.find(':');
    const std::string actionName = wanted.substr(0, colon);
    const auto found = actions.find(actionName);
    if (found == actions.end()) {
        std::string names;
        for (const auto& [name, rule] : actions) append(names, name);
        fail("there is no action '" + actionName + "', but " + names);
    }
    const ActionRule& rule = found->second;
    fault.action = rule.action;
    if (!rule.at.empty() && !rule.at.contains(fault.step)) fail("'" + actionName + "' means nothing at '" + stepName + "'");
    const std::string argument = colon == std::string::npos ? std::string() : wanted.substr(colon + 1);
    if ((rule.argument == Argument::None) != argument.empty())
        fail("'" + actionName + "' takes " + (argument.empty() ? "something after a colon" : "nothing after it"));
    if (rule.argument == Argument::TwoNames && argument.find(':') == std::string::npos) fail("takes two names, A:B");
    if (rule.argument == Argument::Number) fault.number = number("--fault", argument, 86'400'000);
    fault.names = argument;
    return fault;
}

using Properties = std::map<std::string, std::string>;

std::string valueOf(const Properties& properties, const std::string& key, const std::string& otherwise = {}) {
    const auto found = properties.find(key);
    return found == properties.end() ? otherwise : found->second;
}

/// `socket,id=a,server=on` as a map; what has no `=` is there with an empty value, and the first as `type` too.
Properties properties(const std::string& text) {
    Properties found{{"type", text.substr(0, text.find(','))}};
    for (const std::string& item : split(text, ',')) {
        const std::size_t equals = std::min(item.find('='), item.size());
        found[item.substr(0, equals)] = equals == item.size() ? "" : item.substr(equals + 1);
    }
    return found;
}

std::string cprPathOf(const std::string& text) {
    const json channel = json::parse(text, nullptr, false);
    const json address = channel.is_object() ? channel.value("addr", json()) : json();
    if (!address.is_object() || channel.value("channel-type", "") != "cpr" || address.value("transport", "") != "socket" ||
        address.value("type", "") != "unix" || address.value("path", "").empty())
        refuse("-incoming", text, "is neither 'defer' nor a cpr channel on a unix path");
    return address.value("path", "");
}

class Parser {
 public:
    explicit Parser(const std::vector<std::string>& arguments) : arguments_(arguments) {}

    ReferenceOptions parse() {
        while (next_ < arguments_.size()) option();
        options_.monitor = chardev("-mon", monitorChardev_);
        options_.console = chardev("-serial", consoleChardev_);
        options_.heartbeat = chardev("-device virtserialport", heartbeatChardev_);
        const auto& machines = machinesOf(options_.standsFor);
        const auto known = std::find_if(machines.begin(), machines.end(), [this](const auto& machine) {
            return options_.machine == machine.first || (!machine.second.empty() && options_.machine == machine.second);
        });
        if (known == machines.end()) refuse("-machine", options_.machine, "QEMU " + options_.standsFor + " has no such machine");
        options_.machine = known->first;
        if (options_.machine == "none") {
            options_.faults.clear();
            options_.answers.clear();
            return std::move(options_);
        }
        const auto backend = backends_.find(memoryBackend_);
        if (backend == backends_.end())
            refuse("-machine memory-backend", memoryBackend_, "is not a memory-backend-file or -memfd of the command line");
        options_.memory = backend->second;
        if (!options_.cprPath.empty() && !options_.incoming) refuse("-incoming", "cpr", "needs '-incoming defer' as well");
        return std::move(options_);
    }

 private:
    void option() {
        std::string name = arguments_[next_++];
        if (!name.starts_with("-")) refuse("argument", name, "is not an option");
        if (name.starts_with("--")) name.erase(0, 1);
        if (name == "-S") {
            options_.startPaused = true;
        } else if (static const std::set<std::string> bare{"-nodefaults", "-no-user-config", "-no-shutdown", "-no-reboot",
                                                           "-nographic", "-enable-kvm", "-snapshot"};
                   bare.contains(name)) {
            return;
        } else if (next_ == arguments_.size()) {
            refuse("option", name, "needs a value");
        } else {
            optionWithValue(name, arguments_[next_++]);
        }
    }

    void optionWithValue(const std::string& name, const std::string& value) {
        if (name == "-machine" || name == "-M") {
            const Properties machine = properties(value);
            options_.machine = machine.at("type");
            memoryBackend_ = valueOf(machine, "memory-backend", memoryBackend_);
            options_.auxRamShare = valueOf(machine, "aux-ram-share", options_.auxRamShare ? "on" : "off") == "on";
        } else if (name == "-object") {
            addObject(value);
        } else if (name == "-chardev") {
            const Properties found = properties(value);
            if (found.at("type") != "socket" || !found.contains("fd") || !found.contains("id")) return;
            chardevs_[found.at("id")] = {static_cast<int>(number("-chardev fd", found.at("fd"), 1'000'000)),
                                         valueOf(found, "server", "off") != "off"};
        } else if (name == "-mon") {
            monitorChardev_ = valueOf(properties(value), "chardev", monitorChardev_);
        } else if (name == "-serial" && value.starts_with("chardev:")) {
            consoleChardev_ = value.substr(8);
        } else if (name == "-device") {
            const Properties found = properties(value);
            if (found.at("type") == "virtserialport" && valueOf(found, "name") == "org.virt-handover.heartbeat.0")
                heartbeatChardev_ = valueOf(found, "chardev", heartbeatChardev_);
        } else if (name == "-incoming") {
            if (value == "defer")
                options_.incoming = true;
            else
                options_.cprPath = cprPathOf(value);
        } else if (name == "-as") {
            if (value != "10.0" && value != "11.1") refuse("--as", value, "should be 10.0 or 11.1");
            options_.standsFor = value;
        } else if (name == "-clock-ahead" || name == "-clock-behind") {
            const auto seconds = static_cast<std::int64_t>(number("-" + name, value, 1'000'000'000));
            options_.clockAheadSeconds = name == "-clock-ahead" ? seconds : -seconds;
        } else if (name == "-vram-mib") {
            options_.vramBytes = positive(name, value, 1024) << 20;
        } else if (name == "-beats-per-second") {
            options_.beatsPerSecond = static_cast<unsigned>(positive(name, value, 1000));
        } else if (name == "-queued-beats") {
            options_.queuedBeats = static_cast<unsigned>(number("--queued-beats", value, 1000));
        } else if (name == "-silent-connections") {
            options_.silentConnections = static_cast<unsigned>(number("--silent-connections", value, 1000));
        } else if (name == "-answer") {
            const std::size_t equals = value.find('=');
            if (equals == std::string::npos || !json::accept(value.substr(equals + 1)))
                refuse("--answer", value, "should be COMMAND=JSON");
            options_.answers[value.substr(0, equals)] = value.substr(equals + 1);
        } else if (name == "-fault") {
            options_.faults.push_back(parseFault(value));
        }
    }

    void addObject(const std::string& value) {
        const Properties found = properties(value);
        MemoryBackend backend;
        backend.type = found.at("type");
        if (backend.type != "memory-backend-file" && backend.type != "memory-backend-memfd") return;
        if (valueOf(found, "hugetlb", "off") == "on") refuse("-object", value, "the reference VMM has no huge pages");
        backend.id = valueOf(found, "id", "");
        backend.path = valueOf(found, "mem-path", "");
        backend.size = number("-object size", valueOf(found, "size", ""), std::uint64_t{1} << 50);
        if (backend.size == 0 || backend.size % 4096 != 0) refuse("-object", value, "the size should be a multiple of 4096");
        // As in QEMU: backends/hostmem-memfd.c:memfd_backend_instance_init shares, other backends do not (11.1).
        backend.shared = valueOf(found, "share", backend.type == "memory-backend-memfd" ? "on" : "off") == "on";
        backends_[backend.id] = backend;
    }

    std::optional<SocketChardev> chardev(const std::string& user, const std::string& id) const {
        if (id.empty()) return std::nullopt;
        const auto found = chardevs_.find(id);
        if (found == chardevs_.end()) refuse(user, id, "is not a socket chardev with an inherited descriptor");
        return found->second;
    }

    const std::vector<std::string>& arguments_;
    std::size_t next_ = 0;
    ReferenceOptions options_;
    std::map<std::string, SocketChardev> chardevs_;
    std::map<std::string, MemoryBackend> backends_;
    std::string memoryBackend_, monitorChardev_, consoleChardev_, heartbeatChardev_;
};

}  // namespace

ReferenceOptions parseReferenceOptions(const std::vector<std::string>& arguments) {
    return Parser(arguments).parse();
}

const std::vector<std::pair<std::string, std::string>>& machinesOf(const std::string& standsFor) {
    static const std::vector<std::pair<std::string, std::string>> old{{"none", ""}, {"pc-q35-10.0", "q35"}};
    static const std::vector<std::pair<std::string, std::string>> recent{
        {"none", ""}, {"pc-q35-10.0", ""}, {"pc-q35-11.1", "q35"}};
    return standsFor == "10.0" ? old : recent;
}

Fault Faults::dueAt(Step step) {
    const unsigned visit = ++visits_[step];
    for (const Fault& fault : faults_)
        if (fault.step == step && (fault.visit == 0 || fault.visit == visit)) return fault;
    return {};
}

}  // namespace vh
