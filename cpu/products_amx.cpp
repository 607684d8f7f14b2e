// products_amx.cpp: who has the tiles, and memory for them.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/products_amx.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "cpu/cpu_features.h"
#include "runtime/base/block_format.h"

namespace vkv {
namespace {

// Weights, which are not negative and sum to one, have 16 bits then: as many as in planes.
constexpr int kWeightSplits = 2;
constexpr int kTileRows = 16;

template <class Buffer>
void grow(Buffer& buffer, size_t count) {
  if (buffer.size() < count) buffer.resize(count);
}

}  // namespace

bool amx_can_run() {
  static const bool can = [] {
    if (!cpu_has_avx512() || !cpu_has_amx()) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // Linux, asm/prctl.h
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return can;
}

void AmxProducts::use_tiles(int rows) {
  if (configured_rows_ == rows || configured_rows_ == kTileRows) return;
  if (configured_rows_ == 0) OnednnProducts::release();
  tiles_.configure(rows);
  configured_rows_ = rows;
}

void AmxProducts::use_onednn() {
  if (configured_rows_ > 0) tiles_.release();
  configured_rows_ = 0;
}

void AmxProducts::release() {
  use_onednn();
  OnednnProducts::release();
}

Status AmxProducts::multiply_codes(const CodeTile& tile, const ByteRows& rows,
                                   const Rows<int32_t>& products) {
  const int n = tile.row_end - tile.row_begin, k = tile.column_end - tile.column_begin;
  use_tiles(k <= kFewColumns ? std::min(rows.count, kTileRows) : kTileRows);
  grow(scratch_, static_cast<size_t>(n) * static_cast<size_t>(round_up(k, 64)));
  tiles_.multiply_codes(tile, rows, reinterpret_cast<uint8_t*>(scratch_.data()), products.values,
                        products.stride);
  return {};
}

Status AmxProducts::multiply_codes(const CodeTile& tile, const Rows<const float>& rows,
                                   const Rows<float>& products) {
  use_onednn();
  return OnednnProducts::multiply_codes(tile, rows, products);
}

Status AmxProducts::multiply_halves(const HalfTile& tile, const Rows<const float>& rows,
                                    uint64_t rows_version, const Rows<float>& products) {
  if (tile.row_count % 32 != 0 || tile.column_count % 32 != 0) {  // open tokens
    use_onednn();
    return OnednnProducts::multiply_halves(tile, rows, rows_version, products);
  }
  use_tiles(kTileRows);
  grow(scratch_, half_scratch_bytes(tile.column_count));
  const int splits = rows_version == 0 ? kWeightSplits : kSplitsMax;
  auto& split = rows_version == 0 ? split_ : kept_split_;
  if (rows_version == 0 || rows_version != kept_version_) {
    grow(split, split_rows_values(rows.count, tile.column_count, splits));
    tiles_.split_rows(rows.values, rows.count, rows.stride, tile.column_count, splits,
                      split.data());
    if (rows_version != 0) kept_version_ = rows_version;
  }
  tiles_.multiply_halves(tile, split.data(), rows.count, splits, scratch_.data(), products.values,
                         products.stride);
  return {};
}

Status AmxProducts::multiply_transposed(const HalfTile& tile, const Rows<const float>& rows,
                                        const Rows<float>& products) {
  use_onednn();
  return OnednnProducts::multiply_transposed(tile, rows, products);
}

}  // namespace vkv
