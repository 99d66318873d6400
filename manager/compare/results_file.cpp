#include "manager/compare/results_file.h"

#include <stdexcept>

#include "manager/record/report.h"
#include "vmm-shim/file.h"

namespace vh {
namespace {

using nlohmann::json;

std::string inQuotes(std::string_view text) {
    return "'" + std::string(text) + "'";
}

/// nlohmann's messages begin with a name and number of theirs in brackets.
std::string withoutPrefix(const std::string& message) {
    const std::size_t end = message.starts_with('[') ? message.find("] ") : std::string::npos;
    return end == std::string::npos ? message : message.substr(end + 2);
}

std::string textOf(const std::string& path) {
    std::string text = readFile(path, greatestResultsBytes + 1);
    if (text.size() > greatestResultsBytes)
        throw std::runtime_error(inQuotes(path) + ": more than " + std::to_string(greatestResultsBytes >> 20) +
                                 " MiB are no results of a comparison");
    return text;
}

}  // namespace

Results parseResults(std::string_view text, const std::string& name) {
    try {
        return resultsOf(json::parse(text));
    } catch (const json::exception& error) {
        throw std::runtime_error(inQuotes(name) + ": this is no JSON: " + withoutPrefix(error.what()));
    } catch (const std::runtime_error& error) {
        throw std::runtime_error(inQuotes(name) + ": " + error.what());
    }
}

Results readResults(const std::string& path) {
    return parseResults(textOf(path), path);
}

void writeResults(const std::string& path, const Results& results, const Summary* summary) {
    replaceFile(path, jsonText(toJson(results, summary), 1) + "\n", 0666);
}

}  // namespace vh
