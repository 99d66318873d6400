// Turns a results file (standard input) into a report page (standard output).
#include <iostream>

#include <nlohmann/json.hpp>

#include "manager/compare/report_page.h"

int main() {
    try {
        std::cout << vh::reportPage(nlohmann::json::parse(std::cin));
    } catch (const std::exception& error) {
        std::cerr << "make-page: " << error.what() << '\n';
        return 1;
    }
    return std::cout.flush() ? 0 : 1;
}
