// Counts accesses, their costs and the traffic of launches (counters.h).
#include "counters.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <tuple>
#include <unordered_set>

#include "state.h"

namespace fastconv::emulator {

namespace {

struct Access {
    uintptr_t address;
    SourceLine line;
    int bytes;
    bool write, shared;
};

struct Tally {
    int64_t accesses = 0, cost = 0, least = 0, bytes = 0;
};

using Key = std::tuple<SourceLine, bool, bool>;  // line, shared, write

std::array<std::vector<Access>, most_threads> logs;  // of each thread since the last flush
std::map<Key, Tally> tallies;

constexpr unsigned sector_bytes = 32;

struct Run {
    bool write;
    uintptr_t begin;
    int64_t bytes;
};

std::array<std::unordered_set<uintptr_t>, 2> touched;  // sectors that the launch has read, and written
std::vector<Run> traffic;                              // of earlier launches

// One instruction of a warp: the accesses of the lanes that took part, with their lanes.
using Instruction = std::vector<std::pair<int, Access>>;

void add_shared(const Instruction& instruction, Tally& tally) {
    const int bytes = instruction[0].second.bytes;
    const int lanes = bytes <= 4 ? 32 : 128 / bytes;  // lanes served together
    for (int first = 0; first < warp_size; first += lanes) {
        std::set<uintptr_t> words;
        for (const auto& [lane, access] : instruction)
            if (lane >= first && lane < first + lanes)
                for (uintptr_t w = access.address / 4; w <= (access.address + unsigned(bytes) - 1) / 4; ++w)
                    words.insert(w);
        if (words.empty()) continue;
        std::array<int, 32> in_bank{};
        for (const uintptr_t w : words) ++in_bank[w % 32];
        tally.cost += *std::max_element(in_bank.begin(), in_bank.end());
        tally.least += 1;
    }
}

void add_global(const Instruction& instruction, Tally& tally) {
    std::set<uintptr_t> sectors, bytes;
    for (const auto& [lane, access] : instruction)
        for (uintptr_t b = access.address; b < access.address + unsigned(access.bytes); ++b) {
            bytes.insert(b);
            sectors.insert(b / sector_bytes);
        }
    tally.cost += int64_t(sectors.size());
    tally.least += int64_t(bytes.size() + sector_bytes - 1) / sector_bytes;
}

void flush_warp(int first) {
    std::map<Key, std::vector<Instruction>> instructions;
    for (int lane = 0; lane < warp_size; ++lane) {
        std::map<Key, size_t> occurrences;
        for (const Access& access : logs[size_t(first + lane)]) {
            const Key key(access.line, access.shared, access.write);
            std::vector<Instruction>& list = instructions[key];
            const size_t k = occurrences[key]++;
            if (k == list.size()) list.emplace_back();
            list[k].emplace_back(lane, access);
        }
        logs[size_t(first + lane)].clear();
    }
    for (const auto& [key, list] : instructions) {
        Tally& tally = tallies[key];
        for (const Instruction& instruction : list) {
            ++tally.accesses;
            for (const auto& [lane, access] : instruction) tally.bytes += access.bytes;
            if (std::get<1>(key)) add_shared(instruction, tally);
            else add_global(instruction, tally);
        }
    }
}

std::set<std::tuple<const void*, int, int>> launches;  // kernel, threads, bytes of shared memory

}  // namespace

void count_launch(const void* kernel, int threads) {
    if (settings.count) launches.insert({kernel, threads, taken_shared()});
}

std::string take_launches() {
    std::vector<const void*> kernels;
    for (const auto& launch : launches) kernels.push_back(std::get<0>(launch));
    const std::vector<std::string> names = name_functions(kernels);
    std::string json = "[";
    size_t i = 0;
    for (const auto& [kernel, threads, bytes] : launches) {
        if (i) json += ", ";
        json += "{\"kernel\": \"" + (i < names.size() ? names[i] : "?") +
                "\", \"threads\": " + std::to_string(threads) + ", \"shared_bytes\": " + std::to_string(bytes) + "}";
        ++i;
    }
    launches.clear();
    return json + "]";
}

void count_access(const void* p, int bytes, bool write, SourceLine line) {
    if (!settings.count) return;
    if (!in_shared(p))
        for (uintptr_t s = uintptr_t(p) / sector_bytes; s <= (uintptr_t(p) + unsigned(bytes) - 1) / sector_bytes; ++s)
            touched[write].insert(s);
    constexpr int most = 16;  // bytes of one instruction; whole structs arrive as one access
    for (int i = 0; i < bytes; i += most)
        logs[size_t(running.current->index)].push_back(
            {uintptr_t(p) + unsigned(i), line, std::min(most, bytes - i), write, in_shared(p)});
}

void flush_counters() {
    if (!settings.count) return;
    for (int first = 0; first < running.threads; first += warp_size) flush_warp(first);
}

void drop_counters() {
    for (auto& log : logs) log.clear();
    for (auto& sectors : touched) sectors.clear();
}

void end_launch() {
    for (const bool write : {false, true}) {
        const std::set<uintptr_t> in_order(touched[write].begin(), touched[write].end());
        touched[write].clear();
        uintptr_t next = 0;
        for (const uintptr_t sector : in_order) {
            if (sector != next) traffic.push_back({write, sector * sector_bytes, 0});
            traffic.back().bytes += sector_bytes;
            next = sector + 1;
        }
    }
}

std::string take_counters() {
    std::vector<SourceLine> lines;
    for (const auto& [key, tally] : tallies) lines.push_back(std::get<0>(key));
    const std::vector<std::string> names = name_source_lines(lines);
    std::map<std::tuple<std::string, bool, bool>, Tally> by_line;
    size_t i = 0;
    for (const auto& [key, tally] : tallies) {
        Tally& sum = by_line[{names[i++], std::get<1>(key), std::get<2>(key)}];
        sum.accesses += tally.accesses, sum.cost += tally.cost;
        sum.least += tally.least, sum.bytes += tally.bytes;
    }
    tallies.clear();
    std::string json = "[";
    for (const auto& [key, tally] : by_line) {
        const auto& [line, shared, write] = key;
        if (json.size() > 1) json += ", ";
        json += "{\"line\": \"" + line + "\", \"space\": \"" + (shared ? "shared" : "global") +
                "\", \"write\": " + (write ? "true" : "false") + ", \"accesses\": " + std::to_string(tally.accesses) +
                ", \"cost\": " + std::to_string(tally.cost) + ", \"least\": " + std::to_string(tally.least) +
                ", \"bytes\": " + std::to_string(tally.bytes) + "}";
    }
    return json + "]";
}

std::string take_traffic() {
    std::string json = "[";
    for (const Run& run : traffic) {
        if (json.size() > 1) json += ", ";
        json += std::string("{\"write\": ") + (run.write ? "true" : "false") +
                ", \"begin\": " + std::to_string(run.begin) + ", \"bytes\": " + std::to_string(run.bytes) + "}";
    }
    traffic.clear();
    return json + "]";
}

}  // namespace fastconv::emulator
