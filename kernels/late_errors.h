// late_errors.h: what the device finds wrong with values after the call that brought them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "kernels/cuda_handles.h"
#include "kernels/rows.h"
#include "runtime/base/backend.h"

namespace vkv {

// A slot a call, on the device, in two rings: appends, whose kernels set a word of the host where
// they find something, so that the usual step looks at that word alone; and encodes, whose slots
// are copied to the host behind them. For a main stream and, of encodes, one beside it.
class LateErrors {
 public:
  LateErrors() = default;
  // On the current device, on whose `stream` slots are cleared. Errors: kOutOfMemory, kCuda.
  static Result<LateErrors> make(cudaStream_t stream);

  struct AppendSlots {
    LateSlot* slots = nullptr;  // one an item
    uint32_t* found = nullptr;
  };
  // For a call about to be queued on the main stream, of at most kAppendItemsMax. Waits where a
  // ring is full.
  Result<AppendSlots> next_appends(std::span<const AppendItem> items, cudaStream_t main);
  // nullptr: the word for errors of an encode about to be queued on `stream`; encoded() behind it.
  Result<uint64_t*> next_encode(const CallLabel& label, cudaStream_t stream);
  Status encoded(cudaStream_t stream);

  // Whether any call is known to have failed. Does not wait.
  bool any_known() const;

  // Appends: all so far; waits for the main stream. Encodes: those that are done. In the order of
  // the calls, appends first; the others are forgotten.
  Result<std::vector<LateError>> take(cudaStream_t main);

  uint64_t device_bytes() const { return slots_.size() * sizeof(LateSlot); }

 private:
  static constexpr size_t kAppends = 4096, kEncodes = 4096;
  static constexpr uint64_t kNotKnown = UINT64_MAX - 1;

  Status take_appends(cudaStream_t main);
  void take_encodes();
  uint64_t& word_of_encode(uint64_t call) const;

  CudaArray<LateSlot> slots_;       // [kAppends + kEncodes]
  CudaArray<uint64_t> words_;       // pinned: [kEncodes], then `found`
  std::vector<CallLabel> appends_;  // since the last take
  std::deque<CallLabel> encodes_;   // not known yet
  uint64_t encode_count_ = 0;       // so far
  std::vector<LateError> taken_;    // where a ring was full
};

}  // namespace vkv
