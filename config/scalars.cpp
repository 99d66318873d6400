#include "config/scalars.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

namespace vh {

namespace {

constexpr std::uint64_t KiB = 1024;
constexpr std::uint64_t MiB = 1024 * KiB;
constexpr std::uint64_t GiB = 1024 * MiB;
constexpr std::uint64_t TiB = 1024 * GiB;

constexpr std::string_view digits = "0123456789";
constexpr std::string_view hexDigits = "0123456789abcdef";
constexpr std::string_view lowerAndDigits = "abcdefghijklmnopqrstuvwxyz0123456789";
constexpr std::string_view lettersAndDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

[[noreturn]] void expected(const std::string& what) {
    throw std::invalid_argument(what);
}

bool isIn(char c, std::string_view characters, std::string_view more = "") {
    return characters.find(c) != characters.npos || more.find(c) != more.npos;
}

bool consistsOf(std::string_view text, std::string_view characters, std::string_view more = "") {
    return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) { return isIn(c, characters, more); });
}

bool hasControlCharacter(std::string_view text) {
    return std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

std::string lowered(std::string_view text) {
    std::string result(text);
    for (char& c : result) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    return result;
}

/// Whether the text has a hexadecimal digit where the shape has an `x`, and is equal to the shape elsewhere.
bool hasShape(std::string_view text, std::string_view shape) {
    return std::equal(text.begin(), text.end(), shape.begin(), shape.end(),
                      [](char c, char s) { return s == 'x' ? isIn(c, hexDigits) : c == s; });
}

/// A whole number; one too large for 64 bits becomes the largest.
std::uint64_t wholeNumber(std::string_view text) {
    std::uint64_t value = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
    return result.ec == std::errc::result_out_of_range ? std::numeric_limits<std::uint64_t>::max() : value;
}

}  // namespace

bool readBool(const Scalar& scalar) {
    if (scalar.quoted) expected("true or false, without quotes");
    if (scalar.text == "true") return true;
    if (scalar.text == "false") return false;
    const std::string word = lowered(scalar.text);
    if (word == "yes" || word == "on" || word == "true") expected("true or false; write it as 'true'");
    if (word == "no" || word == "off" || word == "false") expected("true or false; write it as 'false'");
    expected("true or false");
}

unsigned readCount(const Scalar& scalar) {
    constexpr auto range = "a whole number from 1 to 1024";
    if (scalar.quoted) expected(std::string(range) + ", without quotes");
    if (!consistsOf(scalar.text, digits) || scalar.text.starts_with('0')) expected(range);
    const std::uint64_t value = wholeNumber(scalar.text);
    if (value > 1024) expected(range);
    return static_cast<unsigned>(value);
}

std::uint64_t readSize(std::string_view text) {
    struct Unit {
        std::string_view name;
        std::uint64_t bytes;
    };
    constexpr std::array units{Unit{"B", 1}, Unit{"KiB", KiB}, Unit{"MiB", MiB}, Unit{"GiB", GiB}, Unit{"TiB", TiB}};

    const std::size_t end = std::min(text.find_first_not_of(digits), text.size());
    const std::string_view number = text.substr(0, end);
    const std::string_view unitName = text.substr(end);
    if (number.empty()) expected("a size such as '512MiB' (a whole number and a unit: B, KiB, MiB, GiB or TiB)");
    if (unitName.empty()) expected("a unit after the number (B, KiB, MiB, GiB or TiB), such as in '512MiB'");
    const auto unit = std::find_if(units.begin(), units.end(), [&](const Unit& u) { return u.name == unitName; });
    if (unit == units.end())
        expected("a whole number and one of the units B, KiB, MiB, GiB, TiB without a space, such as '512MiB'");
    const std::uint64_t count = wholeNumber(number);
    if (count > 64 * TiB / unit->bytes) expected("at most 64TiB");
    return count * unit->bytes;
}

std::uint64_t readMemorySize(std::string_view text) {
    const std::uint64_t bytes = readSize(text);
    if (bytes == 0 || bytes % MiB != 0) expected("a multiple of 1MiB, and at least that");
    return bytes;
}

std::uint64_t readPageSize(std::string_view text) {
    constexpr auto sizes = "one of '4KiB', '2MiB', '1GiB'";
    if (text != "4KiB" && text != "2MiB" && text != "1GiB") expected(sizes);
    return readSize(text);
}

std::chrono::milliseconds parseDuration(std::string_view text) {
    constexpr auto example = "a duration such as '250ms', '1.5s' or '2min'";
    const std::size_t numberEnd = std::min(text.find_first_not_of("0123456789."), text.size());
    const std::string_view number = text.substr(0, numberEnd);
    const std::string_view unit = text.substr(numberEnd);
    const std::size_t point = std::min(number.find('.'), number.size());
    const std::string_view whole = number.substr(0, point);
    const bool hasFraction = point < number.size();
    std::string_view fraction = hasFraction ? number.substr(point + 1) : std::string_view();

    const std::uint64_t unitMs = unit == "ms" ? 1 : unit == "s" ? 1000 : unit == "min" ? 60'000 : 0;
    if (!consistsOf(whole, digits) || (hasFraction && !consistsOf(fraction, digits))) expected(example);
    if (unit.empty()) expected("a unit after the number (ms, s or min), such as in '10s'");
    if (unitMs == 0) expected(example);

    // Digit by digit: 1.005s is 1005ms, which binary fractions do not know.
    while (fraction.ends_with('0')) fraction.remove_suffix(1);
    std::uint64_t scale = 1;
    for (std::size_t i = 0; i < fraction.size() && scale <= unitMs; ++i) scale *= 10;
    // No unit has a whole number of milliseconds in a smaller part than its hundred-thousandth: 60000 = 2^5 * 3 * 5^4.
    const std::uint64_t fractionTimesUnit = fraction.empty() || scale > 100'000 ? 0 : wholeNumber(fraction) * unitMs;
    if (scale > 100'000 || fractionTimesUnit % scale != 0) expected("a duration in whole milliseconds");

    constexpr std::uint64_t longestMs = 3'600'000;
    const std::uint64_t units = wholeNumber(whole);
    const std::uint64_t ms = units > longestMs / unitMs ? longestMs + 1 : units * unitMs + fractionTimesUnit / scale;
    if (ms == 0 || ms > longestMs) expected("a duration above zero and of at most 60min");
    return std::chrono::milliseconds(ms);
}

std::string readVmName(std::string_view text) {
    if (text.size() > longestVmName || !consistsOf(text, lowerAndDigits, "-") || text.starts_with('-'))
        expected("a name such as 'web1' (1 to " + std::to_string(longestVmName) + " of a-z, 0-9 and '-', the first no '-')");
    return std::string(text);
}

std::string readUuid(std::string_view text) {
    std::string uuid = lowered(text);
    if (!hasShape(uuid, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"))
        expected("a UUID such as '0f5a1c52-6a7e-4d53-9a0e-3c1f2b4d5e6f' (8-4-4-4-12 hexadecimal digits)");
    return uuid;
}

std::string readMachine(std::string_view text) {
    // A comma would smuggle options into QEMU's -machine.
    if (!consistsOf(text, lettersAndDigits, "._-"))
        expected("a machine type such as 'pc-q35-10.0' (letters, digits, '.', '_', '-')");
    return std::string(text);
}

std::string readCpuModel(std::string_view text) {
    if (!consistsOf(text, lettersAndDigits, "._,+=-"))
        expected("a CPU model such as 'max' or 'host,pmu=off' (letters, digits, '.', '_', ',', '+', '=', '-')");
    return std::string(text);
}

std::string readId(std::string_view text) {
    if (text.size() > 31 || !consistsOf(text, lowerAndDigits, "-") || isIn(text[0], digits, "-"))
        expected("an id such as 'root' (1 to 31 of a-z, 0-9 and '-', the first a letter)");
    return std::string(text);
}

std::string readSerial(std::string_view text) {
    if (text.size() > 20 || !consistsOf(text, lettersAndDigits, "._-"))
        expected("a serial number of 1 to 20 letters, digits, '.', '_' and '-'");
    return std::string(text);
}

std::string readInterface(std::string_view text) {
    // As dev_valid_name() in net/core/dev.c of Linux 6.1.
    const bool isValid = !text.empty() && text.size() <= 15 && text != "." && text != ".." && !hasControlCharacter(text) &&
                         text.find_first_of("/: ") == text.npos;
    if (!isValid) expected("the name of a network interface such as 'br0' (1 to 15 characters, no '/', ':' or space)");
    return std::string(text);
}

std::string readMac(std::string_view text) {
    std::string mac = lowered(text);
    if (!hasShape(mac, "xx:xx:xx:xx:xx:xx")) expected("a MAC address such as '52:54:00:12:34:56'");
    if (isIn(mac[1], "13579bdf")) expected("a MAC address that is not multicast: its second digit is even");
    if (mac == "00:00:00:00:00:00") expected("a MAC address that is not all zero");
    return mac;
}

std::string readPciAddress(std::string_view text) {
    std::string address = lowered(text);
    if (!hasShape(address, "xxxx:xx:xx.x") || !isIn(address[8], "01") || !isIn(address[11], "01234567"))
        expected("a PCI address such as '0000:01:00.0' (domain:bus:device.function, device at most 1f, function at most 7)");
    return address;
}

std::string readPciDevice(std::string_view text) {
    std::string device = lowered(text);
    if (!hasShape(device, "xxxx:xxxx")) expected("a PCI vendor and device id such as '8086:10c9', as 'lspci -nn' shows them");
    return device;
}

std::string readUser(std::string_view text) {
    if (text.size() > 32 || !consistsOf(text, lowerAndDigits, "_-") || isIn(text[0], digits, "-"))
        expected("a user name such as 'nobody' (1 to 32 of a-z, 0-9, '_' and '-', the first a letter or '_')");
    return std::string(text);
}

std::string readPath(std::string_view text) {
    if (!text.starts_with('/')) expected("an absolute path, one that begins with '/'");
    if (hasControlCharacter(text)) expected("a path without control characters");
    return std::string(text);
}

std::string readCmdline(std::string_view text) {
    if (hasControlCharacter(text)) expected("one line without control characters");
    return std::string(text);
}

std::string readVmmArgument(std::string_view text) {
    // -readconfig is here because the file could set any of the others.
    constexpr std::array ours{"S",          "incoming",   "daemonize", "m",         "mem-path", "machine", "M",
                              "accel",      "cpu",        "smp",       "name",      "uuid",     "qmp",     "monitor",
                              "qmp-pretty", "mon",        "runas",     "chroot",    "run-with", "sandbox", "snapshot",
                              "loadvm",     "enable-kvm", "pidfile",   "readconfig"};
    if (text.empty() || text.find('\0') != text.npos) expected("an argument of at least one character, none of them NUL");
    // QEMU takes both -name and --name (lookup_opt() in system/vl.c of QEMU 10.0).
    std::string_view option = text;
    if (option.starts_with('-')) option.remove_prefix(1);
    if (option.size() + 1 == text.size() && option.starts_with('-')) option.remove_prefix(1);
    const bool isOption = option.size() < text.size();
    if (isOption && std::find(ours.begin(), ours.end(), option) != ours.end())
        expected("only options that the manager does not set itself");
    return std::string(text);
}

}  // namespace vh
