// check_requests.h: whether calls to a cache make sense for the sequence they name.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/sequence.h"
#include "vkv/cache.h"
#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

// Errors, of all: kInvalidArgument, saying what is wrong and what would be right.
// call: "append", "attend". Ids as of the requests of a call.
Status check_each_once(std::vector<SequenceId> ids, std::string_view call);
template <class Request>
Status check_each_once(std::span<const Request> requests, std::string_view call) {
  if (requests.size() < 2) return {};
  std::vector<SequenceId> ids;
  for (const Request& request : requests) ids.push_back(request.sequence);
  return check_each_once(std::move(ids), call);
}

Status check_append(const KvShape& shape, int layer, const AppendRequest& request,
                    const SequenceState& sequence);
Status check_attend(const KvShape& shape, int layer, const AttendRequest& request,
                    const SequenceState& sequence);

// Every layer has all tokens. what: "forked", "saved".
Status check_level(const SequenceState& sequence, SequenceId id, std::string_view what);

}  // namespace vkv
