// Runs one fuzzer over the files of directories, with any compiler: the inputs that are kept never break again.
#include <algorithm>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/vmm-shim/fuzz/fuzz.h"

int main(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
        std::vector<std::filesystem::path> paths;
        for (const auto& entry : std::filesystem::directory_iterator(argv[i])) paths.push_back(entry.path());
        std::ranges::sort(paths);
        if (paths.empty()) {
            std::cerr << "no inputs in '" << argv[i] << "'\n";
            return 1;
        }
        for (const std::filesystem::path& path : paths) {
            std::ifstream file(path, std::ios::binary);
            const std::string input{std::istreambuf_iterator<char>(file), {}};
            try {
                LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
            } catch (const std::exception& error) {
                std::cerr << path << ": " << error.what() << "\n";
                return 1;
            }
        }
        std::cout << argv[i] << ": " << paths.size() << " inputs\n";
    }
    return 0;
}
