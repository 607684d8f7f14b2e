// encoded_rows.h: visual tokens that are made when a prompt comes to them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tools/mllm/media_source.h"
#include "tools/mllm/model.h"

namespace vkv {

// Holds the rows of one call, and what its last piece had beyond them.
class EncodedRows {
 public:
  // Model and source outlive it; the source is read from its beginning.
  EncodedRows(Model* model, MediaSource* source);

  // The next rows, [count, text.hidden]; fewer where there are no more. Valid until the next call.
  // Progress counts values of the call. Errors: those of MediaSource::next and
  // Model::encode_images.
  Result<std::span<const float>> take(int64_t count, const Watch& watch);

  int64_t row_count() const { return row_count_; }    // of the whole source
  int64_t rows_taken() const { return rows_taken_; }  // by calls that have returned
  double seconds() const { return seconds_; }         // that these took

 private:
  Model* const model_;
  MediaSource* const source_;
  int64_t row_count_ = 0;
  int64_t rows_taken_ = 0;
  std::vector<float> rows_;  // [, text.hidden]
  size_t given_values_ = 0;  // of rows_, by the call before
  double seconds_ = 0;
};

}  // namespace vkv
