// saliency.h: which 16-bit tokens the newest queries look at.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// Blocking; works in the calling thread's arena. The score of a token does not depend on the number
// of threads.
Status token_saliency(const SaliencyItem& item);

}  // namespace vkv
