// open_options.h: options checked, and defaults filled in.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

// Errors: kInvalidArgument naming the option and its range; kOutOfMemory for budgets that cannot
// hold one block and what every call needs, naming the least that would do.
Result<CacheOptions> with_defaults(const CacheOptions& requested);

// HBM that every call needs, without the kernels' work memory.
uint64_t least_hbm_bytes(const CacheOptions& options);

}  // namespace vkv
