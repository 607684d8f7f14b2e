// tier_stats.h: what each tier holds, and what its disk did, for a cache's stats.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/open_tiers.h"
#include "runtime/placement.h"
#include "runtime/stager.h"
#include "vkv/options.h"
#include "vkv/stats.h"

namespace vkv {

// stager: nullptr without an NVMe tier.
void report_tiers(const CacheOptions& options, const Tiers& tiers, const Placement& placement,
                  const Stager* stager, CacheStats& stats);

}  // namespace vkv
