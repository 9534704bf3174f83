// The entries of the CPU kernels. Their last arguments are the number of threads and, for convolutions, the name of an
// implementation ("": the fastest that takes the problem).
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "conv2d.h"
#include "cpu_device.h"
#include "entries.h"
#include "max_pool2d.h"
#include "relu.h"

namespace fastconv::python {

// A forked child uses one thread: libgomp's threads do not survive fork, and starting new ones hangs.
static std::atomic<bool> in_forked_child{false};

int usable_threads(int64_t threads) {
    if (threads < 1) throw std::invalid_argument("threads must be at least 1, got " + std::to_string(threads));
    return in_forked_child ? 1 : int(std::min<int64_t>(threads, 1024));
}

void add_cpu_entries(pybind11::module_& m) {
    pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
    cpu::kernels();  // a wrong FASTCONV_ISA fails the import, not some later call
    add_conv2d<Cpu>(m);
    add_relu<Cpu>(m);
    add_max_pool2d<Cpu>(m);
}

}  // namespace fastconv::python
