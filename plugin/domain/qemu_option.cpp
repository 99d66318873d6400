#include "plugin/domain/qemu_option.h"

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>

namespace vh {
namespace {

/// What the first word of a value means when it has no `=`.
std::string_view impliedKey(std::string_view option) {
    static const std::map<std::string_view, std::string_view> keys{
        {"-device", "driver"},   {"-object", "qom-type"}, {"-chardev", "backend"}, {"-netdev", "type"},
        {"-blockdev", "driver"}, {"-machine", "type"},    {"-mon", "chardev"},     {"-audiodev", "driver"}};
    const auto found = keys.find(option);
    return found == keys.end() ? "" : found->second;
}

/// Options that take no value: qemu-options.hx of QEMU 10.0 and 11.1, those without HAS_ARG.
bool isFlag(std::string_view option) {
    static const std::set<std::string_view> flags{"-S",
                                                  "-daemonize",
                                                  "-enable-kvm",
                                                  "-enable-sync-profile",
                                                  "-full-screen",
                                                  "-h",
                                                  "-help",
                                                  "-jitdump",
                                                  "-mem-prealloc",
                                                  "-no-fd-bootchk",
                                                  "-no-reboot",
                                                  "-no-shutdown",
                                                  "-no-user-config",
                                                  "-nodefaults",
                                                  "-nographic",
                                                  "-only-migratable",
                                                  "-perfmap",
                                                  "-preconfig",
                                                  "-s",
                                                  "-semihosting",
                                                  "-snapshot",
                                                  "-usb",
                                                  "-version",
                                                  "-xen-attach",
                                                  "-xen-domid-restrict"};
    return flags.contains(option);
}

/// The next part up to a comma; two commas are one that belongs to the text (util/keyval.c and qemu-option.c, QEMU 10.0).
std::string nextPart(std::string_view& rest) {
    std::string part;
    while (!rest.empty()) {
        const bool isComma = rest.front() == ',';
        rest.remove_prefix(1);
        if (!isComma) {
            part += *(rest.data() - 1);
        } else if (!rest.empty() && rest.front() == ',') {
            part += ',';
            rest.remove_prefix(1);
        } else {
            break;
        }
    }
    return part;
}

std::string withDoubledCommas(const std::string& text) {
    std::string doubled;
    for (const char c : text) doubled += c == ',' ? std::string(",,") : std::string(1, c);
    return doubled;
}

}  // namespace

OptionValue::OptionValue(std::string_view option, std::string_view text) : isJson_(text.starts_with('{')) {
    if (isJson_) {
        properties_ = nlohmann::ordered_json::parse(text, nullptr, false);
        if (!properties_.is_object())
            throw std::runtime_error("the option '" + std::string(option) + " " + std::string(text) + "' is no JSON object");
        return;
    }
    const std::string_view implied = impliedKey(option);
    for (std::string_view rest = text; !rest.empty();) {
        const bool isFirst = rest.size() == text.size();
        const std::string part = nextPart(rest);
        const std::size_t equals = part.find('=');
        if (equals != std::string::npos) {
            set(part.substr(0, equals), part.substr(equals + 1));
        } else if (isFirst && !implied.empty()) {
            bareKey_ = implied;
            set(implied, part);
        } else {
            set(part, "on");
        }
    }
}

OptionValue OptionValue::fromJson(nlohmann::ordered_json properties) {
    OptionValue value;
    value.properties_ = std::move(properties);
    return value;
}

std::string OptionValue::operator[](std::string_view key) const {
    const auto found = properties_.find(std::string(key));
    if (found == properties_.end() || found->is_null() || found->is_structured()) return "";
    if (found->is_string()) return found->get<std::string>();
    if (found->is_boolean()) return found->get<bool>() ? "on" : "off";
    return found->dump();
}

std::string OptionValue::text() const {
    // Text that is not UTF-8 was refused by the parser, or came in by a name; it must not end the program.
    if (isJson_) return properties_.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    std::string text;
    for (const auto& [key, value] : properties_.items()) {
        if (!text.empty()) text += ',';
        if (key != bareKey_) text += key + "=";
        text += withDoubledCommas((*this)[key]);
    }
    return text;
}

std::vector<QemuOption> optionsFromName(const std::vector<std::string>& words) {
    auto word = std::find_if(words.begin(), words.end(), [](const std::string& w) { return w == "-name" || w == "--name"; });
    if (word == words.end()) throw std::runtime_error("an argument list without '-name' is not libvirt's");
    std::vector<QemuOption> options;
    while (word != words.end()) {
        if (word->size() < 2 || word->front() != '-') throw std::runtime_error("the argument '" + *word + "' is not an option");
        QemuOption option{word->starts_with("--") ? word->substr(1) : *word, "", false};
        ++word;
        if (!isFlag(option.name)) {
            if (word == words.end()) throw std::runtime_error("the option '" + option.name + "' has no value");
            option.hasValue = true;
            option.value = *word++;
        }
        options.push_back(std::move(option));
    }
    return options;
}

std::string shellQuoted(std::string_view word) {
    constexpr std::string_view plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
    if (!word.empty() && word.find_first_not_of(plain) == std::string_view::npos) return std::string(word);
    std::string quoted = "'";
    for (const char character : word) quoted += character == '\'' ? std::string("'\\''") : std::string(1, character);
    return quoted + "'";
}

}  // namespace vh
