// late_failures.h: what an engine found late, until the caller has heard of it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "runtime/base/backend.h"
#include "runtime/open_block.h"
#include "runtime/sequence.h"
#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

class LateFailures {
 public:
  // Marks the sequence, which already has what is wrong. nullptr: it was erased.
  void add(const LateError& error, const CacheOptions& options, SequenceState* sequence) {
    if (sequence != nullptr && !sequence->failure.ok()) return;  // of what came of the first
    const CallLabel& label = error.label;
    const std::string words =
        error.bad ? words_of(*error.bad, options.shape, options.open_codec, label.first_position)
                  : error.encoding.message();
    const Status failure(Code::kInvalidArgument,
                         "sequence " + std::to_string(static_cast<uint64_t>(label.sequence)) +
                             ", layer " + std::to_string(label.layer) + ": " + words +
                             ". Found after the call: the sequence can only be erased");
    if (sequence != nullptr) sequence->failure = failure;
    unreported_.emplace_back(label.sequence, failure);
  }

  // A call with the sequence has said it.
  void reported(SequenceId sequence) {
    std::erase_if(unreported_, [&](const auto& one) { return one.first == sequence; });
  }
  // The first of those that nobody has heard of; ok where there is none.
  Status report_all() {
    const Status first = unreported_.empty() ? Status() : unreported_.front().second;
    unreported_.clear();
    return first;
  }

 private:
  std::vector<std::pair<SequenceId, Status>> unreported_;
};

}  // namespace vkv
