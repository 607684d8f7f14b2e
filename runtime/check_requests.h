// check_requests.h: whether calls to a cache make sense for the sequence they name.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "runtime/sequence.h"
#include "vkv/cache.h"
#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

// Errors, of all: kInvalidArgument, saying what is wrong and what would be right.
Status check_append(const KvShape& shape, int layer, const AppendRequest& request,
                    const SequenceState& sequence);
Status check_attend(const KvShape& shape, int layer, const AttendRequest& request,
                    const SequenceState& sequence);

// Every layer has all tokens. what: "forked", "saved".
Status check_level(const SequenceState& sequence, SequenceId id, std::string_view what);

}  // namespace vkv
