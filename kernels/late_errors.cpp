// late_errors.cpp: slots, and what became of them.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/late_errors.h"

#include <atomic>
#include <utility>

#include "kernels/encode.h"

namespace vkv {
namespace {

constexpr uint64_t kNoError = UINT64_MAX;  // as kernels/encode.h has it

Status clear(LateSlot* slots, size_t count, cudaStream_t stream) {
  return cuda_status(cudaMemsetAsync(slots, 0xff, count * sizeof(LateSlot), stream),
                     "cudaMemsetAsync");
}

uint64_t read(const uint64_t& word) {
  return std::atomic_ref(const_cast<uint64_t&>(word)).load(std::memory_order_acquire);
}

}  // namespace

Result<LateErrors> LateErrors::make(cudaStream_t stream) {
  LateErrors errors;
  VKV_TRY_ASSIGN(slots, CudaArray<LateSlot>::make(kAppends + kEncodes));
  errors.slots_ = std::move(slots);
  VKV_TRY_ASSIGN(words, CudaArray<uint64_t>::make(kEncodes + 1, CudaMemory::kPinned));
  errors.words_ = std::move(words);
  errors.words_.data()[kEncodes] = 0;
  VKV_TRY(clear(errors.slots_.data(), errors.slots_.size(), stream));
  return Result<LateErrors>(std::move(errors));
}

uint64_t& LateErrors::word_of_encode(uint64_t call) const { return words_.data()[call % kEncodes]; }

Result<LateErrors::AppendSlots> LateErrors::next_appends(std::span<const AppendItem> items,
                                                         cudaStream_t main) {
  static_assert(kAppendItemsMax <= kAppends);
  if (appends_.size() + items.size() > kAppends) VKV_TRY(take_appends(main));
  LateSlot* const first = slots_.data() + appends_.size();
  for (const AppendItem& item : items) appends_.push_back(item.label);
  return AppendSlots{.slots = first,
                     .found = reinterpret_cast<uint32_t*>(words_.data() + kEncodes)};
}

Result<uint64_t*> LateErrors::next_encode(const CallLabel& label, cudaStream_t stream) {
  if (encodes_.size() == kEncodes) {
    VKV_TRY(synchronize(stream));
    take_encodes();
  }
  word_of_encode(encode_count_) = kNotKnown;
  encodes_.push_back(label);
  return &slots_.data()[kAppends + encode_count_++ % kEncodes].encode_error;
}

Status LateErrors::encoded(cudaStream_t stream) {
  const uint64_t call = encode_count_ - 1;
  LateSlot* const slot = slots_.data() + kAppends + call % kEncodes;
  VKV_TRY(copy_async(&word_of_encode(call), &slot->encode_error, 1, stream));
  return clear(slot, 1, stream);
}

bool LateErrors::any_known() const {
  if (!taken_.empty() || read(words_.data()[kEncodes]) != 0) return true;
  for (size_t i = 0; i < encodes_.size(); ++i) {
    const uint64_t word = read(word_of_encode(encode_count_ - encodes_.size() + i));
    if (word == kNotKnown) break;
    if (word != kNoError) return true;
  }
  return false;
}

Status LateErrors::take_appends(cudaStream_t main) {
  VKV_TRY(synchronize(main));
  uint64_t& found = words_.data()[kEncodes];
  if (read(found) != 0) {
    std::vector<LateSlot> slots(appends_.size());
    VKV_TRY(copy_async(slots.data(), slots_.data(), slots.size(), main));
    VKV_TRY(clear(slots_.data(), slots.size(), main));
    VKV_TRY(synchronize(main));
    found = 0;
    for (size_t i = 0; i < slots.size(); ++i)
      if (slots[i].has_bad_value())
        taken_.push_back({.label = appends_[i],
                          .bad = BadValue{.of_v = (slots[i].place & LateSlot::kOfV) != 0,
                                          .index = slots[i].place & ~LateSlot::kOfV,
                                          .value = slots[i].value}});
  }
  appends_.clear();
  return {};
}

void LateErrors::take_encodes() {
  while (!encodes_.empty()) {
    const uint64_t word = read(word_of_encode(encode_count_ - encodes_.size()));
    if (word == kNotKnown) return;
    if (word != kNoError)
      taken_.push_back({.label = encodes_.front(), .encoding = GpuEncoder::error_of(word)});
    encodes_.pop_front();
  }
}

Result<std::vector<LateError>> LateErrors::take(cudaStream_t main) {
  VKV_TRY(take_appends(main));
  take_encodes();
  return std::exchange(taken_, {});
}

}  // namespace vkv
