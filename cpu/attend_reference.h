// attend_reference.h: attention straight from its formula in double precision; the oracle.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// Any shape and codec that check_attend() lets pass. Blocking; works in the calling thread's arena.
Status attend_reference(const AttendItem& item);

}  // namespace vkv
