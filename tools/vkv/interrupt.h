// interrupt.h: Ctrl-C and kill as a flag that the work looks at.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>

namespace vkv {

// From now on SIGINT, SIGTERM and SIGHUP set the flag instead of ending the process, once: a second
// one ends it at once. The flag lives as long as the process.
const std::atomic<bool>& catch_interrupts();

}  // namespace vkv
