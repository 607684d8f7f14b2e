// rows.h: rows of 16-bit values on the CPU: converted, moved, compared with a mean.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "runtime/base/backend.h"

namespace vkv {

// As the functions of Backend with these names.
std::optional<BadValue> append_rows(std::span<const AppendItem> items);
void keep_rows(uint16_t* rows, size_t row_values, std::span<const uint32_t> kept);
void squared_distances(const KvShape& shape, const OpenTokens& source,
                       std::span<const uint32_t> rows, const float* mean,
                       std::span<float> distances);
void to_float(ElementType element, const void* source, float* target, size_t count);
void from_float(ElementType element, const float* source, void* target, size_t count);

}  // namespace vkv
