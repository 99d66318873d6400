#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "vmm-shim/bytes.h"
#include "vmm-shim/file.h"
#include "vmm-shim/qmp/monitor.h"
#include "vmm-shim/ram_block_section.h"
#include "vmm-shim/text.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/tool/capture.h"
#include "vmm-shim/tool/dump.h"
#include "vmm-shim/tool/exec.h"
#include "vmm-shim/tool/survey.h"
#include "vmm-shim/tool/take_survey.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds, std::chrono::steady_clock;

constexpr int done = 0, usage = 1, refused = 2, unreachable = 5;

struct Options {
    bool asJson = false;
    long long timeoutMs = 5000;
    pid_t pid = 0;
    std::string what;   ///< FILE of dump, SOCKET of capture, A of diff.
    std::string other;  ///< B of diff.
    std::string save, record, exchange;
    std::vector<std::string> qemus, machines, devices;  ///< Of survey.
    std::string from;                                   ///< Of survey: an earlier one.
    std::string transfer = "all-shared";
    bool sameFiles = false;

    milliseconds timeout() const { return milliseconds(timeoutMs); }
};

std::string readAll(const std::string& path) {
    if (path == "-") return {std::istreambuf_iterator<char>(std::cin), {}};
    return readFile(path);
}

void writeAll(const std::string& path, const std::string& bytes) {
    std::ofstream file(path, std::ios::binary);
    file << bytes << std::flush;
    if (!file) throwErrno("write '" + path + "'");
}

void print(const Options& options, const Dump& dump) {
    if (options.asJson)
        std::cout << dump.value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";  // Names are bytes.
    else
        std::cout << dump.text;
}

int dumpFile(const Options& options) {
    const std::string bytes = readAll(options.what);
    try {
        print(options, dump(bytes));
    } catch (const std::runtime_error& error) {
        throw std::runtime_error("'" + options.what + "': " + error.what());
    }
    return done;
}

/// Lets one client have the record, however long it takes until it comes.
void serveExchange(const std::string& path, const RamBlockExchange& exchange, milliseconds timeout, int interrupts) {
    const PathListener place(path);
    std::cerr << "vmm-shim: waiting for one client at '" << path << "'\n";
    awaitReadable({place.fd()}, steady_clock::time_point::max(), interrupts);
    const UniqueFd client = place.accept();
    if (!client) throwErrno("accept at '" + path + "'");
    sendRamBlocks(client.get(), exchange, timeout);
}

int capture(const Options& options) {
    const Interrupts interrupts;
    pid_t pid = options.pid;
    std::vector<RamBlock> blocks;
    {
        Monitor monitor(options.what, options.timeout());
        if (pid == 0) pid = monitor.vmmPid();
        const std::string status = monitor.execute("query-status").value("status", "unknown");
        blocks = readRamBlocks(monitor, pid);
        const CprCaptureResult result = captureCprState(monitor, pid);
        if (!options.save.empty()) writeAll(options.save, result.bytes);
        if (!options.record.empty()) writeAll(options.record, encodeRamBlocks(blocks));
        const Dump entries = dump(result.capture, blocks), table = dump(blocks);
        const double ms = static_cast<double>(result.taken.count()) / 1000;
        print(options, {"QEMU " + monitor.version() + ", process " + std::to_string(pid) + ", " + status + "; CPR state of " +
                            std::to_string(result.bytes.size()) + " bytes, taken and given up in " + fixed(ms, 1) + " ms\n\n" +
                            entries.text + "\n" + table.text,
                        {{"version", monitor.version()},
                         {"pid", pid},
                         {"status", status},
                         {"bytes", result.bytes.size()},
                         {"takenMs", ms},
                         {"cprState", entries.value},
                         {"ramBlocks", table.value}}});
    }
    std::cout.flush();
    if (!options.exchange.empty())
        serveExchange(options.exchange, openBackingFiles(blocks, pid), options.timeout(), interrupts.descriptor());
    return done;
}

/// The RAM blocks behind a monitor, an exchange socket, or in a saved record.
std::vector<RamBlock> ramBlocksOf(const std::string& path, const Options& options) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) throwErrno("'" + path + "'");
    if (!S_ISSOCK(status.st_mode)) {
        try {
            return decodeRamBlocks(readAll(path));
        } catch (const DecodeError& error) {
            throw std::runtime_error("'" + path + "': " + error.what());
        }
    }
    // Both kinds of sockets speak first; a monitor with `{`. It cannot be asked on this connection: it serves one at a time.
    UniqueFd socket;
    try {
        socket = connectUnix(path);
    } catch (const std::system_error& error) {
        throw MonitorUnreachable(error.what());
    }
    char first = 0;
    const bool speaks = awaitReadable({socket.get()}, steady_clock::now() + options.timeout()) >= 0;
    const ssize_t peeked = speaks ? ::recv(socket.get(), &first, 1, MSG_PEEK) : -1;
    if (!speaks)
        throw MonitorUnreachable("'" + path + "': nobody speaks within " + std::to_string(options.timeoutMs) +
                                 " ms: a monitor serves one client at a time, and another one may be connected");
    if (peeked == 1 && first != '{') return receiveRamBlocks(socket.get(), options.timeout()).blocks;
    socket.reset();
    Monitor monitor(path, options.timeout());
    return readRamBlocks(monitor, monitor.vmmPid());
}

SurveyRequest::Qemu namedQemu(const std::string& text) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos) return {{}, text};
    return {text.substr(0, equals), text.substr(equals + 1)};
}

int survey(const Options& options) {
    Survey survey;
    if (!options.from.empty()) {
        try {
            survey = surveyFrom(json::parse(readAll(options.from)));
        } catch (const json::exception& error) {
            throw std::runtime_error("'" + options.from + "' is no survey: " + error.what());
        }
    } else {
        const Interrupts interrupts;
        SurveyRequest request{{}, options.machines, options.devices, options.timeout()};
        for (const std::string& qemu : options.qemus) request.qemus.push_back(namedQemu(qemu));
        survey = takeSurvey(
            request, [](const std::string& what) { std::cerr << "vmm-shim: " << what << "\n"; }, interrupts.descriptor());
    }
    print(options, {describe(survey), toJson(survey)});
    return done;
}

RamTransfer transferNamed(const std::string& name) {
    if (name == "copied") return RamTransfer::Copied;
    return name == "named-files" ? RamTransfer::NamedFilesShared : RamTransfer::AllShared;
}

/// As if the new VMM had been started with the old one's files: what two VMMs that run side by side cannot have, and what a
/// handover would see to.
void handOverFiles(const std::vector<RamBlock>& old, std::vector<RamBlock>& new_, RamTransfer transfer) {
    for (RamBlock& block : new_) {
        const auto before = std::ranges::find(old, block.idstr, &RamBlock::idstr);
        const bool shares = transfer == RamTransfer::AllShared || (transfer == RamTransfer::NamedFilesShared && block.named_file);
        if (shares && block.file && before != old.end() && before->file) block.file = before->file;
    }
}

int diff(const Options& options) {
    const RamTransfer transfer = transferNamed(options.transfer);
    const std::vector<RamBlock> old = ramBlocksOf(options.what, options);
    std::vector<RamBlock> new_ = ramBlocksOf(options.other, options);
    if (!options.sameFiles) handOverFiles(old, new_, transfer);
    const std::vector<RamBlockDifference> found = differences(old, new_, transfer);
    print(options, dump(found));
    const bool fatal = std::ranges::find(found, Severity::Fatal, &RamBlockDifference::severity) != found.end();
    return fatal ? refused : done;
}

int run(int argc, char** argv) {
    Options options;
    CLI::App app("Looks at what VMMs hand to each other: CPR states, migration streams, RAM blocks.", "vmm-shim");
    app.require_subcommand(1);
    app.fallthrough();  // Global options are understood behind the verb, too.
    app.set_version_flag("--version", "vmm-shim " VH_VERSION);
    app.footer("Exit codes: 0 done; 1 usage error; 2 refused, or a difference is fatal; 5 the monitor cannot be reached.");
    app.add_flag("--json", options.asJson, "answer in JSON");
    app.add_option("--timeout-ms", options.timeoutMs, "the longest wait for a VMM's answer")
        ->check(CLI::Range(1LL, 3'600'000LL))
        ->capture_default_str();

    int (*verb)(const Options&) = nullptr;
    const auto add = [&](const char* name, const char* what, int (*function)(const Options&)) {
        CLI::App* command = app.add_subcommand(name, what);
        command->callback([&verb, function] { verb = function; });
        return command;
    };
    add("dump", "print a saved CPR state, main stream or record of RAM blocks", dumpFile)
        ->add_option("FILE", options.what, "a file, or - for the standard input")
        ->required();
    CLI::App* capturing = add("capture", "take the CPR state of a running VMM; its guest runs on", capture);
    capturing->add_option("SOCKET", options.what, "the VMM's monitor")->required();
    capturing->add_option("--pid", options.pid, "the VMM's process, where it cannot be found")->check(CLI::PositiveNumber);
    capturing->add_option("--save", options.save, "write the CPR state's bytes to this file");
    capturing->add_option("--record", options.record, "write the record of RAM blocks to this file, for 'diff'");
    capturing->add_option("--exchange", options.exchange,
                          "give the record of RAM blocks to one client of this socket, for 'diff'");
    CLI::App* comparing = add("diff", "say what differs in the RAM blocks of an old and a new VMM, and what follows", diff);
    comparing->add_option("OLD", options.what, "a monitor, an exchange socket, or a record")->required();
    comparing->add_option("NEW", options.other, "likewise")->required();
    comparing->add_option("--transfer", options.transfer, "how the guest's memory is to get over")
        ->check(CLI::IsMember({"copied", "named-files", "all-shared"}))
        ->capture_default_str();
    comparing->add_flag("--same-files", options.sameFiles,
                        "the new VMM has been given the old one's files already: compare which they are");
    CLI::App* surveying = add("survey", "say which RAM blocks QEMUs make for machines and devices, and what differs", survey);
    CLI::Option* qemus = surveying->add_option("--qemu", options.qemus,
                                               "QEMUs, or scripts that execute one, as [NAME=]PROGRAM; each is started again and "
                                               "again, stopped, without a guest");
    surveying->add_option("--machine", options.machines, "machine types, with properties; else some that all QEMUs have");
    surveying->add_option("--device", options.devices, "devices, with properties; else all that are found to make RAM blocks");
    CLI::Option* from = surveying->add_option("--from", options.from, "print an earlier survey (--json), in place of taking one");
    from->excludes(qemus);
    surveying->require_option(1, 0);
    app.add_subcommand("exec", "what an old QEMU executes to become the new one (design vmm-exec); of no use to people")
        ->prefix_command();

    if (argc > 1 && std::string_view(argv[1]) == "exec") return serveExec({argv + 2, argv + argc});
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? done : usage;
    }
    return verb(options);
}

}  // namespace
}  // namespace vh

int main(int argc, char** argv) {
    const auto complain = [](const std::exception& error, int code) {
        std::cerr << "vmm-shim: " << error.what() << "\n";
        return code;
    };
    try {
        return vh::run(argc, argv);
    } catch (const vh::MonitorUnreachable& error) {
        return complain(error, vh::unreachable);
    } catch (const std::exception& error) {
        return complain(error, vh::refused);
    }
}
