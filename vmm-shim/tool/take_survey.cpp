#include "vmm-shim/tool/take_survey.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>

#include "vmm-shim/json_text.h"
#include "vmm-shim/ram_blocks.h"
#include "vmm-shim/text.h"
#include "vmm-shim/tool/capture.h"
#include "vmm-shim/tool/stopped_qemu.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds, std::chrono::steady_clock;

/// What would open something of the host's, be it only to see whether it is there; beginnings of names.
constexpr std::array<std::string_view, 12> ofTheHost{
    "pvrdma", "virtio-input-host", "vfio-",        "vhost-", "usb-host", "usb-redir",
    "u2f-",   "scsi-block",        "scsi-generic", "xen",    "canokey",  "igd-passthrough"};

/// What a device cannot be without.
struct Need {
    std::string_view device;  ///< The beginning of its name.
    const char* properties;
    std::vector<std::string> arguments;
};
const std::vector<std::string> silence = {"-audiodev", "none,id=sound"};
const std::vector<Need> needs = {
    {"AC97", "audiodev=sound", silence},
    {"ES1370", "audiodev=sound", silence},
    {"adlib", "audiodev=sound", silence},
    {"cs4231a", "audiodev=sound", silence},
    {"gus", "audiodev=sound", silence},
    {"sb16", "audiodev=sound", silence},
    {"virtio-sound-pci", "audiodev=sound", silence},
    {"usb-audio", "audiodev=sound", {"-device", "qemu-xhci", "-audiodev", "none,id=sound"}},
    {"hda-", "audiodev=sound", {"-device", "intel-hda", "-audiodev", "none,id=sound"}},
    {"virtio-blk-", "drive=disk", {"-blockdev", "driver=null-co,node-name=disk,size=1048576,read-zeroes=on"}},
    {"nvme-", "", {}},
    {"nvme", "serial=survey", {}},
    {"ivshmem-plain", "memdev=shm", {"-object", "memory-backend-ram,id=shm,size=1M"}},
    {"acpi-erst", "memdev=shm", {"-object", "memory-backend-ram,id=shm,size=64K"}},
    {"pc-dimm", "memdev=shm", {"-object", "memory-backend-ram,id=shm,size=128M", "-m", "64M,slots=1,maxmem=1G"}},
    {"nvdimm",
     "memdev=shm",
     {"-object", "memory-backend-ram,id=shm,size=128M", "-m", "64M,slots=1,maxmem=1G", "-machine", "nvdimm=on"}},
    {"virtio-mem-pci", "memdev=shm", {"-object", "memory-backend-ram,id=shm,size=128M", "-m", "64M,maxmem=1G"}},
    {"virtio-pmem-pci", "memdev=shm", {"-object", "memory-backend-ram,id=shm,size=128M", "-m", "64M,maxmem=1G"}},
    {"virtio-9p-", "fsdev=fs,mount_tag=fs", {"-fsdev", "synth,id=fs"}},
    {"usb-", "", {"-device", "qemu-xhci"}},
    {"scsi-",
     "drive=disk",
     {"-device", "virtio-scsi-pci", "-blockdev", "driver=null-co,node-name=disk,size=1048576,read-zeroes=on"}},
};

const std::string id = "surveyed";

bool reachesForHost(const std::string& device) {
    return std::ranges::any_of(ofTheHost, [&](std::string_view prefix) { return device.starts_with(prefix); });
}

std::vector<std::string> argumentsFor(const std::string& machine, const std::string& device) {
    std::vector<std::string> arguments{"-machine", machine + ",accel=tcg", "-m", "64M"};
    if (device.empty()) return arguments;
    std::string text = device;
    // Whoever gives properties knows what the device needs.
    const auto need = device.find(',') != std::string::npos
                          ? needs.end()
                          : std::ranges::find_if(needs, [&](const Need& one) { return device.starts_with(one.device); });
    if (need != needs.end()) {
        append(text, need->properties, *need->properties ? "," : "");
        arguments.insert(arguments.end(), need->arguments.begin(), need->arguments.end());
    }
    if (text.find(",id=") == std::string::npos) text += ",id=" + id;
    arguments.insert(arguments.end(), {"-device", text});
    return arguments;
}

/// The text of a property, if it has one.
std::string propertyOf(Monitor& monitor, const std::string& path, const std::string& property) {
    try {
        const json value = monitor.execute("qom-get", {{"path", path}, {"property", property}});
        return value.is_string() ? value.get<std::string>() : std::string();
    } catch (const CommandRefused&) {
        return {};
    }
}

/// One QEMU in the course of a survey.
class Surveyor {
 public:
    Surveyor(const SurveyRequest::Qemu& qemu, milliseconds timeout) : binary_(qemu.binary), timeout_(timeout) {
        try {
            lookAt(qemu.name);
        } catch (const StartFailed& error) {
            throw StartFailed("'" + binary_ + "' does not start: " + error.what());
        } catch (const MonitorUnreachable& error) {
            throw StartFailed(error.what());
        }
    }

    const std::vector<std::string>& machines() const { return machines_; }
    std::vector<std::string> devices() const { return devicesIn(saidBy(binary_, {"-device", "help"}, timeout_)); }
    SurveyedQemu& seen() { return seen_; }

    SurveyedStart start(const std::string& machine, const std::string& device) {
        SurveyedStart start{seen_.name, machine, device, {}, {}};
        try {
            StoppedQemu qemu(binary_, argumentsFor(machine, device), timeout_);
            start.blocks = blocksOf(qemu, device);
        } catch (const std::system_error&) {
            throw;  // The host's failure, and no QEMU's.
        } catch (const std::exception& error) {
            start.failure = error.what();
            // So that what happened to many is written once.
            const std::string itself = " for device '" + device + "'";
            if (start.failure.ends_with(itself)) start.failure.resize(start.failure.size() - itself.size());
        }
        return start;
    }

 private:
    void lookAt(const std::string& name) {
        StoppedQemu none(binary_, {"-machine", "none"}, timeout_);
        const json version = none.monitor().execute("query-version");
        seen_.version = none.monitor().version();
        seen_.package = JsonReader(version).text("/package");
        seen_.name = !name.empty() ? name : seen_.version;
        for (const json& machine : none.monitor().execute("query-machines")) {
            machines_.push_back(JsonReader(machine).text("/name"));
            if (const std::string alias = JsonReader(machine).text("/alias"); !alias.empty()) machines_.push_back(alias);
        }
        for (const std::string& line : split(saidBy(binary_, {"-L", "help"}, timeout_), '\n'))
            if (!line.empty()) dataDirectories_.push_back(line);
    }

    std::vector<SurveyedBlock> blocksOf(StoppedQemu& qemu, const std::string& device) {
        Monitor& monitor = qemu.monitor();
        std::set<std::string> backends;
        for (const json& object : monitor.execute("qom-list", {{"path", "/objects"}}))
            if (JsonReader(object).text("/type").starts_with("child<memory-backend-"))
                backends.insert(JsonReader(object).text("/name"));
        std::string firmware = propertyOf(monitor, "/machine", "firmware");
        if (firmware.empty())
            firmware = "bios-microvm.bin";  // Of the machine that has no default there (hw/i386/microvm.c, 11.1).
        const std::string romFile = device.empty() ? std::string() : propertyOf(monitor, "/machine/peripheral/" + id, "romfile");
        std::vector<SurveyedBlock> blocks;
        for (const RamBlock& block : readRamBlocks(monitor, qemu.pid())) {
            const std::string name = block.idstr.substr(block.idstr.rfind('/') + 1);
            SurveyedBlock seen{block.idstr,
                               block.used_length,
                               block.max_length,
                               block.page_size,
                               {},
                               {},
                               {},
                               block.resizable,
                               backends.contains(name),
                               {}};
            // Nothing lies at an address that is not aligned to a page.
            if (block.align != 0) {
                seen.align = block.align;
                seen.shared = block.shared;
                seen.read_only = block.read_only;
            } else {
                seen_.tellsPlaces = false;
            }
            // The name of an option ROM is cut off behind 31 characters (hw/pci/pci.c:pci_add_option_rom, 7.2 to 11.1).
            if (name == "pc.bios")
                seen.romFile = firmware;
            else if (name != block.idstr && (name.ends_with(".rom") || name.size() == 31))
                seen.romFile = romFile;
            noteSizeOf(seen.romFile);
            blocks.push_back(std::move(seen));
        }
        std::ranges::sort(blocks);
        return blocks;
    }

    /// Finds it as QEMU does (system/datadir.c:qemu_find_file, 11.1).
    void noteSizeOf(const std::string& romFile) {
        if (romFile.empty() || seen_.romFiles.contains(romFile)) return;
        std::vector<std::string> places{romFile};
        for (const std::string& directory : dataDirectories_)
            places.push_back(std::string(directory).append("/").append(romFile));
        for (const std::string& place : places) {
            struct stat status {};
            if (::stat(place.c_str(), &status) != 0) continue;
            seen_.romFiles[romFile] = static_cast<std::uint64_t>(status.st_size);
            return;
        }
    }

    std::string binary_;
    milliseconds timeout_;
    SurveyedQemu seen_;
    std::vector<std::string> machines_, dataDirectories_;
};

/// `pc-q35-7.2` is release 7.2 of `pc-q35-`.
struct VersionedMachine {
    std::string family;
    std::pair<unsigned, unsigned> release;
};
std::optional<VersionedMachine> versionedMachine(const std::string& name) {
    const std::size_t digits = name.rfind('-') + 1;
    const std::vector<std::string> numbers = split(name.substr(digits), '.');
    if (digits == 0 || numbers.size() != 2) return std::nullopt;
    const auto major = wholeNumber<unsigned>(numbers[0]), minor = wholeNumber<unsigned>(numbers[1]);
    if (!major || !minor) return std::nullopt;
    return VersionedMachine{name.substr(0, digits), {*major, *minor}};
}

}  // namespace

std::vector<std::string> machinesToSurvey(const std::vector<std::vector<std::string>>& machinesOfEach) {
    const auto allHave = [&](const std::string& machine) {
        return std::ranges::all_of(machinesOfEach,
                                   [&](const auto& machines) { return std::ranges::find(machines, machine) != machines.end(); });
    };
    std::vector<std::string> chosen;
    if (machinesOfEach.empty()) return chosen;
    for (const std::string family : {"pc-q35-", "pc-i440fx-"}) {
        std::map<std::pair<unsigned, unsigned>, std::string> common;
        for (const std::string& machine : machinesOfEach.front())
            if (const auto versioned = versionedMachine(machine); versioned && versioned->family == family && allHave(machine))
                common[versioned->release] = machine;
        if (common.empty()) continue;
        chosen.push_back(common.rbegin()->second);
        // As handovers that share memory have it, where the QEMU can (10.0).
        if (chosen.size() == 1) chosen.push_back(chosen.front() + ",aux-ram-share=on");
        if (common.size() > 1) chosen.push_back(common.begin()->second);
    }
    for (const std::string machine : {"q35", "pc", "microvm"})
        if (allHave(machine)) chosen.push_back(machine);
    return chosen;
}

std::vector<std::string> devicesIn(const std::string& help) {
    std::vector<std::string> devices;
    bool areProcessors = false;
    for (const std::string& line : split(help, '\n')) {
        constexpr std::string_view name = "name \"";
        if (line.ends_with(" devices:")) areProcessors = line == "CPU devices:";
        if (!line.starts_with(name) || areProcessors) continue;
        devices.push_back(line.substr(name.size(), line.find('"', name.size()) - name.size()));
    }
    return devices;
}

namespace {

/// A survey that is being taken.
class Taking {
 public:
    Taking(const SurveyRequest& request, std::function<void(const std::string&)> progress, int interrupts)
        : request_(request), progress_(std::move(progress)), interrupts_(interrupts) {
        std::vector<std::vector<std::string>> machinesOfEach;
        for (const SurveyRequest::Qemu& qemu : request.qemus) {
            Surveyor surveyor(qemu, request.timeout);
            const auto hasName = [&](Surveyor& other) { return other.seen().name == surveyor.seen().name; };
            // Two builds of one release.
            if (std::ranges::any_of(surveyors_, hasName)) surveyor.seen().name += " (" + qemu.binary + ")";
            machinesOfEach.push_back(surveyor.machines());
            surveyors_.push_back(std::move(surveyor));
        }
        machines_ = request.machines.empty() ? machinesToSurvey(machinesOfEach) : request.machines;
        if (machines_.empty()) throw StartFailed("the QEMUs have no machine type in common: name some with --machine");
    }

    Survey take() {
        const std::vector<std::string> devices = request_.devices.empty() ? devicesWithBlocks() : request_.devices;
        for (Surveyor& surveyor : surveyors_)
            for (const std::string& machine : machines_) {
                progress_("QEMU " + surveyor.seen().name + ": " + machine + " with " + std::to_string(devices.size()) +
                          " devices");
                for (const std::string& device : devices) tryOnce(surveyor, machine, device);
            }
        for (Surveyor& surveyor : surveyors_) survey_.qemus.push_back(surveyor.seen());
        return std::move(survey_);
    }

 private:
    using Place = std::tuple<std::string, std::string, std::string>;  ///< QEMU, machine, device.

    /// On any of the QEMUs.
    std::vector<std::string> devicesWithBlocks() {
        const std::string& machine = machines_.front();
        std::set<std::string> making;
        for (Surveyor& surveyor : surveyors_) {
            const std::vector<std::string> all = surveyor.devices();
            progress_("QEMU " + surveyor.seen().name + ": trying " + std::to_string(all.size()) + " devices on " + machine);
            for (const std::string& device : all)
                if (tryOnce(surveyor, machine, device)) making.insert(device);
        }
        return {making.begin(), making.end()};
    }

    /// Whether it has blocks that the machine alone does not have. The machine alone is tried before its first device; where
    /// that does not start, nothing does.
    bool tryOnce(Surveyor& surveyor, const std::string& machine, const std::string& device) {
        const std::string& qemu = surveyor.seen().name;
        const auto bare = results_.find({qemu, machine, ""});
        const SurveyedStart& alone = survey_.starts.at(bare != results_.end() ? bare->second : start(surveyor, machine, ""));
        if (!alone.failure.empty()) return false;
        const std::vector<SurveyedBlock> blocksOfMachine = alone.blocks;
        const auto before = results_.find({qemu, machine, device});
        const std::size_t index = before != results_.end() ? before->second : start(surveyor, machine, device);
        std::vector<SurveyedBlock>& blocks = survey_.starts.at(index).blocks;
        std::erase_if(blocks, [&](const SurveyedBlock& block) {
            return std::ranges::find(blocksOfMachine, block) != blocksOfMachine.end();
        });
        return !blocks.empty();
    }

    /// Returns its index.
    std::size_t start(Surveyor& surveyor, const std::string& machine, const std::string& device) {
        if (interrupts_ >= 0) awaitReadable({}, steady_clock::now(), interrupts_);
        const std::string& qemu = surveyor.seen().name;
        survey_.starts.push_back(reachesForHost(device) && request_.devices.empty()
                                     ? SurveyedStart{qemu, machine, device, notTriedReason, {}}
                                     : surveyor.start(machine, device));
        return results_[{qemu, machine, device}] = survey_.starts.size() - 1;
    }

    const SurveyRequest& request_;
    const std::function<void(const std::string&)> progress_;
    const int interrupts_;
    std::vector<Surveyor> surveyors_;
    std::vector<std::string> machines_;
    Survey survey_;
    std::map<Place, std::size_t> results_;
};

}  // namespace

Survey takeSurvey(const SurveyRequest& request, const std::function<void(const std::string&)>& progress, int interrupts) {
    return Taking(request, progress, interrupts).take();
}

}  // namespace vh
