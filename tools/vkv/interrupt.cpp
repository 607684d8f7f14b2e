// interrupt.cpp: the signal handler.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/interrupt.h"

#include <signal.h>

#include "vkv/status.h"

namespace vkv {
namespace {

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a handler may set it");

void on_signal(int) { interrupted.store(true); }

}  // namespace

const std::atomic<bool>& catch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  // Reset: the second signal has its usual effect. Restart: reads and writes go on.
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    VKV_CHECK(sigaction(signal, &action, nullptr) == 0);
  }
  return interrupted;
}

}  // namespace vkv
