// Finds data races and uses of unwritten memory by shadow cells (shadow.h).
#include "shadow.h"

#include <memory>
#include <unordered_map>

#include "state.h"

namespace fastconv::emulator {

namespace {

struct Record {
    uint32_t time = 0;    // 0: no access yet
    uint32_t thread = 0;  // its number among all threads of the process; its warp is thread / 32
    SourceLine line = 0;
};

// The last read, the last read by another thread than that, and the last read by another warp. A later write is ordered
// after all reads if it is ordered after these three.
struct Cell {
    Record write, read, other_thread, other_warp;
    bool copying = false;
};

constexpr int page_bytes = 1024;

// Cells have 4 bytes until an access touches fewer.
struct Page {
    int cell_bytes = 4;
    std::vector<Cell> cells = std::vector<Cell>(page_bytes / 4);
    void split(int bytes) {
        std::vector<Cell> finer(size_t(page_bytes / bytes));
        for (size_t i = 0; i < finer.size(); ++i) finer[i] = cells[i * size_t(bytes) / size_t(cell_bytes)];
        cells = std::move(finer);
        cell_bytes = bytes;
    }
};

std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;

Page& page_of(uintptr_t number) {
    constexpr size_t ways = 256;
    static struct {
        uintptr_t number = ~uintptr_t(0);
        Page* page = nullptr;
    } recent[ways];
    auto& slot = recent[number % ways];
    if (slot.number != number) {
        std::unique_ptr<Page>& page = pages[number];
        if (!page) page = std::make_unique<Page>();
        slot = {number, page.get()};
    }
    return *slot.page;
}

// Calls f(cell) for the cells of an access.
template <class F>
void for_cells(const void* p, int bytes, F f) {
    uintptr_t at = uintptr_t(p);
    const uintptr_t end = at + unsigned(bytes);
    const int grain = (at | unsigned(bytes)) % 4 == 0 ? 4 : (at | unsigned(bytes)) % 2 == 0 ? 2 : 1;
    while (at < end) {
        Page& page = page_of(at / page_bytes);
        if (page.cell_bytes > grain) page.split(grain);
        f(page.cells[at % page_bytes / unsigned(page.cell_bytes)]);
        at += unsigned(page.cell_bytes);
    }
}

struct Me {
    uint32_t thread;
    uint32_t time;  // of the warp's last barrier
};

Me me() {
    const int index = running.current->index;
    return {running.block_serial * most_threads + uint32_t(index), running.warps[size_t(index / warp_size)].time};
}

bool unordered(const Record& before, const Me& now, bool shared) {
    if (before.time < running.block_start)  // by another block; shared memory is new in every block
        return !shared && before.time >= running.launch_start;
    if (before.thread == now.thread) return false;
    return before.time >= (before.thread / warp_size == now.thread / warp_size ? now.time : running.barrier_time);
}

std::string describe(uint32_t thread) {
    std::string text = "thread " + std::to_string(thread % most_threads);
    if (thread / most_threads != running.block_serial) text += " of another block";
    return text;
}

[[noreturn]] void report(const char* what, bool shared, bool write, const Me& now, SourceLine line, const char* earlier,
                         const Record& before) {
    const std::vector<std::string> names = name_source_lines({line, before.line});
    fail(names[0] + ": " + what + " in " + (shared ? "shared" : "global") + " memory: " + (write ? "write" : "read") +
         " by " + name_of(*running.current) + ", " + earlier + " by " + describe(before.thread) + " at " + names[1] +
         (before.thread / most_threads != now.thread / most_threads ? ", nothing orders blocks"
                                                                    : ", no barrier between them"));
}

}  // namespace

void shadow_access(const void* p, int bytes, bool write, SourceLine line) {
    const bool shared = in_shared(p);
    if (shared && !in_part(p, bytes))
        fail(name_source_line(line) + ": " + (write ? "write" : "read") + " out of bounds of shared memory by " +
             name_of(*running.current));
    const Me now = me();
    for_cells(p, bytes, [&](Cell& cell) {
        const bool written = cell.write.time >= (shared ? running.block_start : 1);
        if (shared && !written && cell.copying) cell.copying = false;  // left by an earlier block
        if (cell.copying) report("use of a copy under way", shared, write, now, line, "copy_async", cell.write);
        if (unordered(cell.write, now, shared)) report("data race", shared, write, now, line, "write", cell.write);
        if (!write) {
            if (shared && !written)
                fail(name_source_line(line) + ": read of shared memory that nobody has written by " +
                     name_of(*running.current));
            if (cell.read.thread != now.thread) {
                if (cell.read.thread / warp_size != now.thread / warp_size) cell.other_warp = cell.read;
                cell.other_thread = cell.read;
            }
            cell.read = {now.time, now.thread, line};
            return;
        }
        for (const Record* read : {&cell.read, &cell.other_thread, &cell.other_warp})
            if (unordered(*read, now, shared)) report("data race", shared, write, now, line, "read", *read);
        cell = Cell();
        cell.write = {now.time, now.thread, line};
    });
}

void shadow_copy_begins(const void* p, int bytes) {
    for_cells(p, bytes, [](Cell& cell) { cell.copying = true; });
}

void shadow_copy_ends(const void* p, int bytes, SourceLine line) {
    const Me now = me();
    for_cells(p, bytes, [&](Cell& cell) {
        cell.copying = false;
        cell.write = {now.time, now.thread, line};
    });
}

}  // namespace fastconv::emulator
