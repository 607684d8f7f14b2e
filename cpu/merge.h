// merge.h: partial results of attention, by several threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "runtime/base/backend.h"

namespace vkv {

// As Backend::merge(), on the threads of the current arena. Each row is one thread's, so that bits
// do not depend on how many there are.
void merge_partials(std::span<const MergeItem> items);

}  // namespace vkv
