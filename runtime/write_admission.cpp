// write_admission.cpp: counting who was asked for.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/write_admission.h"

#include <string>

namespace vkv {
namespace {

constexpr size_t kKeysMax = 4096;  // 500 KB or so
// Whoever saves has asked once before, in vain.
constexpr uint32_t kAsksWorthIt = 2;

}  // namespace

void WriteAdmission::asked_for(const SequenceKey& key) {
  const auto [found, is_new] = asks_.try_emplace(key, 0);
  ++found->second;
  if (!is_new) return;
  order_.push_back(key);
  if (order_.size() <= kKeysMax) return;
  asks_.erase(order_.front());
  order_.pop_front();
}

Status WriteAdmission::admit(const WriteRequest& request) {
  const uint64_t left = request.bytes_left;
  if (left == UINT64_MAX) return {};
  const bool fits = request.byte_count <= left;
  const bool is_short = !fits || left - request.byte_count < request.bytes_per_day / 2;
  const auto asks = asks_.find(request.key);
  const bool is_worth_it = request.goes_on || (asks != asks_.end() && asks->second >= kAsksWorthIt);
  if (fits && (!is_short || is_worth_it)) return {};
  ++refused_count_;
  return {Code::kOutOfMemory,
          "nvme tier: the sequence would write " + std::to_string(request.byte_count) +
              " bytes, the write budget of " + std::to_string(request.bytes_per_day) +
              " bytes a day has " + std::to_string(left) + " left now" +
              (fits ? ", the last half of it for blocks that DRAM cannot hold and for sequences "
                      "that were asked for twice"
                    : "")};
}

}  // namespace vkv
