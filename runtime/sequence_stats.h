// sequence_stats.h: how the tokens of a sequence are stored, by role.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/sequence.h"
#include "vkv/options.h"
#include "vkv/stats.h"

namespace vkv {

// On the host, besides blocks and open tokens.
uint64_t sequence_bytes(const CacheOptions& options, const SequenceState& sequence);

// Every byte of the sequence's storage is assigned to a role: that of an extent (padding and table
// entries too) by record and by the tokens in it, that of means by tokens.
SequenceStats sequence_stats(const CacheOptions& options, const SequenceState& sequence);

}  // namespace vkv
