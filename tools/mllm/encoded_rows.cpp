// encoded_rows.cpp: visual tokens that are made when a prompt comes to them.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/encoded_rows.h"

#include <algorithm>

#include "runtime/base/stopwatch.h"
#include "tools/mllm/visual_layout.h"

namespace vkv {

EncodedRows::EncodedRows(Model* model, MediaSource* source) : model_(model), source_(source) {
  for (const VisualShape& shape : source->shapes())
    row_count_ += visual_token_count(model->config(), shape);
}

Result<std::span<const float>> EncodedRows::take(int64_t count, const Watch& watch) {
  const Stopwatch since_call;
  rows_.erase(rows_.begin(), rows_.begin() + static_cast<ptrdiff_t>(given_values_));
  given_values_ = 0;
  const auto needed = static_cast<size_t>(count * model_->config().text.hidden);
  while (rows_.size() < needed) {
    VKV_TRY_ASSIGN(piece, source_->next({.cancel = watch.cancel}));
    if (piece.empty()) break;
    VKV_TRY_ASSIGN(encoded, model_->encode_images(piece, {.cancel = watch.cancel}));
    rows_.reserve(std::max(rows_.size() + encoded.size(), needed));
    rows_.insert(rows_.end(), encoded.begin(), encoded.end());
    watch.report(std::min(rows_.size(), needed), needed);
  }
  given_values_ = std::min(rows_.size(), needed);
  rows_taken_ += count;
  seconds_ += since_call.seconds();
  return std::span<const float>(rows_).first(given_values_);
}

}  // namespace vkv
