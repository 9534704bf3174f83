// Names source lines by addr2line (source_line.h).
#include "source_line.h"

#include <dlfcn.h>

#include <cstdio>
#include <deque>
#include <map>
#include <sstream>

namespace fastconv::emulator {

namespace {

constexpr SourceLine is_line = SourceLine(1) << 62;  // addresses end below it

std::deque<Where> lines;

bool of_a_wrapper(const std::string& name) { return name.find("csrc/simt/") == 0 || name.find("csrc/emulator/") == 0; }

std::string run(const std::string& command) {
    std::string output;
    if (FILE* const pipe = popen(command.c_str(), "r")) {
        char buffer[4096];
        for (size_t n; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.append(buffer, n);
        pclose(pipe);
    }
    return output;
}

// addr2line prints, for each address, the address, then its line and the lines it was inlined into.
void name_addresses(const std::map<SourceLine, std::vector<size_t>>& wanted, std::vector<std::string>& names) {
    Dl_info info;
    if (!dladdr(reinterpret_cast<void*>(uintptr_t(wanted.begin()->first)), &info) || !info.dli_fname) return;
    const SourceLine base = SourceLine(reinterpret_cast<uintptr_t>(info.dli_fbase));
    std::ostringstream command;
    command << "addr2line -a -i -e '" << info.dli_fname << "'" << std::hex;
    for (const auto& entry : wanted) command << " 0x" << entry.first - base;
    command << " 2>/dev/null";
    std::istringstream output(run(command.str()));
    std::string line;
    auto entry = wanted.begin();
    bool first = true, settled = false;
    while (std::getline(output, line)) {
        if (line.compare(0, 2, "0x") == 0) {
            if (!first) ++entry;
            first = settled = false;
            if (entry == wanted.end()) return;
            continue;
        }
        if (settled) continue;
        line = line.substr(0, line.find(" (discriminator"));
        if (line.find(FASTCONV_ROOT) == 0) line = line.substr(sizeof(FASTCONV_ROOT) - 1);
        for (const size_t i : entry->second) names[i] = line;
        settled = !of_a_wrapper(line);
    }
}

}  // namespace

SourceLine source_line_of(Where where) {
    static std::map<std::pair<const char*, int>, SourceLine> known;
    SourceLine& source_line = known[{where.file, where.line}];
    if (!source_line) {
        source_line = is_line | lines.size();
        lines.push_back(where);
    }
    return source_line;
}

std::vector<std::string> name_source_lines(const std::vector<SourceLine>& source_lines) {
    std::vector<std::string> names(source_lines.size(), "?");
    std::map<SourceLine, std::vector<size_t>> addresses;
    for (size_t i = 0; i < source_lines.size(); ++i) {
        if (source_lines[i] & is_line) {
            const Where where = lines[size_t(source_lines[i] & ~is_line)];
            names[i] = std::string(where.file) + ":" + std::to_string(where.line);
        } else {
            addresses[source_lines[i]].push_back(i);
        }
    }
    if (!addresses.empty()) name_addresses(addresses, names);
    return names;
}

std::vector<std::string> name_functions(const std::vector<const void*>& functions) {
    std::vector<std::string> names;
    Dl_info info;
    if (functions.empty() || !dladdr(functions[0], &info) || !info.dli_fname) return names;
    std::ostringstream command;
    command << "addr2line -f -C -e '" << info.dli_fname << "'" << std::hex;
    for (const void* const function : functions)
        command << " 0x" << reinterpret_cast<uintptr_t>(function) - reinterpret_cast<uintptr_t>(info.dli_fbase);
    std::istringstream output(run(command.str()));  // for each function, its name and its line
    std::string name, line;
    while (std::getline(output, name) && std::getline(output, line)) names.push_back(name);
    return names;
}

std::string name_source_line(SourceLine source_line) { return name_source_lines({source_line})[0]; }

}  // namespace fastconv::emulator
