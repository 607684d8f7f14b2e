// products_amx.h: products in AMX tiles that are filled from records without panels of fp32.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/amx_functions.h"
#include "cpu/products_onednn.h"

namespace vkv {

// Whether the CPU has AMX with bytes and bf16, and the system lets this process use it. The first
// call asks the system, for the whole process.
bool amx_can_run();

// What tiles cannot do, oneDNN does: codes in fp32, and 16-bit tokens that are still open.
class AmxProducts final : public OnednnProducts {
 public:
  AmxProducts(const AmxFunctions& tiles, const TileFunctions& functions, BrgemmCache& kernels)
      : OnednnProducts(functions, kernels), tiles_(tiles) {}

  using OnednnProducts::multiply_codes;
  Status multiply_codes(const CodeTile& tile, const ByteRows& rows,
                        const Rows<int32_t>& products) override;
  Status multiply_codes(const CodeTile& tile, const Rows<const float>& rows,
                        const Rows<float>& products) override;
  Status multiply_halves(const HalfTile& tile, const Rows<const float>& rows, uint64_t rows_version,
                         const Rows<float>& products) override;
  Status multiply_transposed(const HalfTile& tile, const Rows<const float>& rows,
                             const Rows<float>& products) override;
  void release() override;

 private:
  // Of 16 rows, or at least of so many. oneDNN's kernels may configure the tiles of a thread as
  // they need them.
  void use_tiles(int rows);
  void use_onednn();

  const AmxFunctions& tiles_;
  int configured_rows_ = 0;  // 0: the tiles are not ours
  std::vector<std::byte, tbb::cache_aligned_allocator<std::byte>> scratch_;
  std::vector<uint16_t, tbb::cache_aligned_allocator<uint16_t>> split_;       // of weights
  std::vector<uint16_t, tbb::cache_aligned_allocator<uint16_t>> kept_split_;  // of queries
  uint64_t kept_version_ = 0;
};

}  // namespace vkv
