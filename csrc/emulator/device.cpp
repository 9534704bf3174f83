// The emulator is one device, whatever its number.
#include "../simt/device.h"

namespace fastconv::simt {

DeviceCount device_count() { return {1, ""}; }
OnDevice::OnDevice(int) {}
OnDevice::~OnDevice() = default;
std::string why_not_on(int) { return ""; }

}  // namespace fastconv::simt
