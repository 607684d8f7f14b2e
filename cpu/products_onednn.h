// products_onednn.h: tiles unpacked into panels, and multiplied by oneDNN's micro-kernels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <tbb/cache_aligned_allocator.h>

#include <vector>

#include "cpu/brgemm.h"
#include "cpu/tile_products.h"

namespace vkv {

// Few rows against 16-bit tiles are multiplied without oneDNN: their dot products need no panel.
// Borrows the functions and the cache of kernels.
class OnednnProducts : public TileProducts {
 public:
  OnednnProducts(const TileFunctions& functions, BrgemmCache& kernels)
      : functions_(functions), kernels_(kernels) {}

  Status multiply_codes(const CodeTile& tile, const ByteRows& rows,
                        const Rows<int32_t>& products) override;
  Status multiply_codes(const CodeTile& tile, const Rows<const float>& rows,
                        const Rows<float>& products) override;
  Status multiply_halves(const HalfTile& tile, const Rows<const float>& rows, uint64_t rows_version,
                         const Rows<float>& products) override;
  Status multiply_transposed(const HalfTile& tile, const Rows<const float>& rows,
                             const Rows<float>& products) override;
  void release() override { runner_.release(); }

 private:
  template <class A, class C>
  Status multiply(const Rows<const A>& rows, int n, int k, const Rows<C>& products);
  void* panels(int n, int k);
  // Signed rows become unsigned ones, which alone all CPUs have kernels for: 128 more in each byte,
  // so that a row of ones gives what the products have too much.
  Status multiply_signed(const ByteRows& rows, int n, int k, const Rows<int32_t>& products);

  const TileFunctions& functions_;
  BrgemmCache& kernels_;
  BrgemmRunner runner_;
  std::vector<float, tbb::cache_aligned_allocator<float>> panels_;
  std::vector<uint8_t, tbb::cache_aligned_allocator<uint8_t>> unsigned_rows_;
  std::vector<int32_t, tbb::cache_aligned_allocator<int32_t>> unsigned_products_;
  // The kernels of the last shapes, so that no tile waits for the cache's lock.
  struct Known {
    BrgemmShape shape;
    const Brgemm* kernel = nullptr;
  };
  Known known_[8];
  int next_known_ = 0;
};

}  // namespace vkv
