// How long it takes to decode a CPR state and a main stream of 1 MB each: prints the medians in milliseconds as a JSON object.

#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/vmm-shim/main_stream_encoder.h"
#include "vmm-shim/cpr_state.h"
#include "vmm-shim/main_stream.h"

namespace {

using namespace vh;

constexpr std::size_t wantedBytes = 1'000'000;

std::string cprState() {
    CprState state;
    state.vfioDevices.emplace();
    // Names as long as fit: as many entries as a state may have, in a megabyte.
    const std::size_t entries = maxCprEntries - 1, nameLength = wantedBytes / entries - 11;
    for (std::size_t i = 0; i < entries; ++i) {
        std::string name = "0000:00:01.0/block-" + std::to_string(i);
        name.resize(nameLength, '.');
        state.fds.push_back({name, 0});
    }
    return encodeCprState(state).bytes;
}

std::string mainStream(DeviceLengths& lengths) {
    MainStream stream;
    stream.configuration.machine = "pc-q35-10.0";
    for (std::uint32_t i = 0; i < 1000; ++i) {
        stream.parts.emplace_back(
            DevicePart{.section_id = i, .idstr = "device", .instance_id = i, .version_id = 1, .state = std::string(960, 's')});
        lengths[{"device", i}] = 960;
    }
    return encodeMainStream(stream);
}

double medianMs(const std::function<void()>& work) {
    std::vector<double> times;
    for (int i = 0; i < 100; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        work();
        times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
    }
    std::nth_element(times.begin(), times.begin() + 50, times.end());
    return times[50];
}

}  // namespace

int main() {
    const std::string state = cprState();
    DeviceLengths lengths;
    const std::string stream = mainStream(lengths);
    if (state.size() < wantedBytes * 9 / 10 || stream.size() < wantedBytes * 9 / 10) return 1;
    std::cout << nlohmann::json{{"a CPR state of 1 MB", medianMs([&] { decodeCprState(state); })},
                                {"a main stream of 1 MB", medianMs([&] { decodeMainStream(stream, lengths); })}}
                     .dump()
              << std::endl;
}
