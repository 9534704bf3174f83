// Types is a list of types, for the last arguments of an entry, which depend on the device.
#pragma once

namespace fastconv::python {

template <class...>
struct Types {};

}  // namespace fastconv::python
