#include "vmm-shim/tool/exec.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <stdexcept>

#include "vmm-shim/exec_inbox.h"
#include "vmm-shim/text.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

constexpr int couldNot = 127;  ///< As a shell says it.

int number(const std::string& text) {
    const std::optional<int> value = wholeNumber<int>(text);
    if (!value || *value < 0) throw std::invalid_argument("found '" + text + "', expected the number of a descriptor");
    return *value;
}

std::vector<int> numbers(const std::string& text) {
    std::vector<int> all;
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t comma = std::min(text.find(',', begin), text.size());
        all.push_back(number(text.substr(begin, comma - begin)));
        begin = comma + 1;
    }
    return all;
}

/// The one with this label; of several the last, since an earlier one is of an attempt that was given up.
Parcel takeParcel(const ExecRequest& request) {
    std::vector<Parcel> parcels = takeParcels(request.inbox);
    for (auto parcel = parcels.rbegin(); parcel != parcels.rend(); ++parcel)
        if (parcel->label == request.label) return std::move(*parcel);
    throw std::runtime_error("there is no parcel '" + request.label + "' in the inbox");
}

/// Closes the old VMM's descriptors, and puts the new one's in their places.
void exchange(std::vector<UniqueFd> descriptors, const std::vector<int>& old, int first) {
    // First above all numbers that are spoken of, as in a start (manager/process/child_process.cpp): a source may sit where
    // another must go, or on a number that the old VMM has closed since the manager looked.
    int end = first + static_cast<int>(descriptors.size());
    for (const int fd : old) end = std::max(end, fd + 1);
    for (UniqueFd& fd : descriptors) {
        UniqueFd above(::fcntl(fd.get(), F_DUPFD_CLOEXEC, end));
        if (!above) throwErrno("duplicate a descriptor");
        fd = std::move(above);
    }
    const char* state = std::getenv("QEMU_CPR_EXEC_STATE");
    for (const int fd : old)
        if (!state || std::to_string(fd) != state) ::close(fd);
    for (std::size_t i = 0; i < descriptors.size(); ++i) {
        const int number = first + static_cast<int>(i);
        // What is open there is none of ours, and may be the guest's memory: better no guest than one on the wrong memory.
        if (::fcntl(number, F_GETFD) >= 0) throw std::runtime_error("descriptor " + std::to_string(number) + " is in use");
        if (::dup2(descriptors[i].get(), number) < 0) throwErrno("place descriptor " + std::to_string(number));
    }
}

}  // namespace

ExecRequest parseExec(const std::vector<std::string>& arguments) {
    ExecRequest request;
    std::size_t i = 0;
    for (; i < arguments.size() && arguments[i] != "--"; i += 2) {
        if (i + 1 == arguments.size()) throw std::invalid_argument("'" + arguments[i] + "' has no value");
        const std::string &option = arguments[i], &value = arguments[i + 1];
        if (option == "--inbox")
            request.inbox = number(value);
        else if (option == "--label")
            request.label = value;
        else if (option == "--first")
            request.first = number(value);
        else if (option == "--close")
            request.close = numbers(value);
        else
            throw std::invalid_argument("unknown option '" + option + "'");
    }
    if (i < arguments.size()) request.command.assign(arguments.begin() + static_cast<std::ptrdiff_t>(i) + 1, arguments.end());
    if (request.inbox < 0 || request.first < 0 || request.command.empty())
        throw std::invalid_argument("--inbox, --first and a command behind '--' are required");
    return request;
}

int serveExec(const std::vector<std::string>& arguments) {
    if (arguments == std::vector<std::string>{"--check"}) return 0;
    try {
        ExecRequest request = parseExec(arguments);
        Parcel parcel = takeParcel(request);
        if (parcel.descriptors.empty()) throw std::runtime_error("the parcel '" + request.label + "' is empty");
        for (const int output : {STDOUT_FILENO, STDERR_FILENO})
            if (::dup2(parcel.descriptors.front().get(), output) < 0) throwErrno("begin the new VMM's log");
        parcel.descriptors.erase(parcel.descriptors.begin());
        exchange(std::move(parcel.descriptors), request.close, request.first);
        // Where the old release keeps its modules, should its start have been wrapped; they are of no use to another release.
        ::unsetenv("QEMU_MODULE_DIR");
        std::vector<char*> argv;
        for (std::string& argument : request.command) argv.push_back(argument.data());
        argv.push_back(nullptr);
        ::execv(argv[0], argv.data());
        throwErrno("execute '" + request.command.front() + "'");
    } catch (const std::exception& error) {
        std::cerr << "vmm-shim exec: " << error.what() << "\n";
        return couldNot;
    }
}

}  // namespace vh
