// work_room.h: the work memory of a GPU's engine, and what does not fit it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "vkv/status.h"

namespace vkv {

// Constants, so that a budget never changes how work is cut.
inline constexpr size_t kListValues = size_t{1} << 20;   // row indices, distances or scores at once
inline constexpr size_t kRoomBytes = size_t{24} << 20;   // of the encoder's calls that need some
inline constexpr size_t kTableBytes = size_t{32} << 20;  // of attention, of all layers
inline constexpr size_t kKeptRingBytes = size_t{1} << 20;    // of row indices on their way
inline constexpr size_t kListedRowsMax = size_t{256} << 10;  // of one call of the encoder
inline constexpr int64_t kSlotsMin = 4096;                   // partials of attention at once

// Errors: kOutOfMemory naming the purpose: "a mean key".
inline Status check_room(size_t byte_count, size_t row_count, const char* purpose) {
  if (byte_count <= kRoomBytes && row_count <= kListedRowsMax) return {};
  return {Code::kOutOfMemory,
          "hbm tier: " + std::string(purpose) + " of " + std::to_string(row_count) +
              " tokens needs " + std::to_string(byte_count) + " bytes; its work memory is " +
              std::to_string(kRoomBytes) + " bytes and " + std::to_string(kListedRowsMax) +
              " tokens: prefill in smaller windows"};
}

}  // namespace vkv
