// tile_products.h: products of rows with a stored tile of K or V: the work of a matrix unit.
// SPDX-License-Identifier: Apache-2.0
//
// A tile is a matrix [n, k] as it lies in a record: K has n = tokens and k = channels, V of a block
// n = channels and k = tokens. Implementations differ in speed alone where rows are bytes, whose
// products are exact; in fp32 they add in different orders.
#pragma once

#include <cstdint>

#include "cpu/tile_functions.h"
#include "vkv/status.h"

namespace vkv {

// Row-major. Memory holds `count` rounded up to kRowRoom rows, and a cache line more; what lies
// behind `count` may be read, and overwritten in a result, but means nothing.
inline constexpr int kRowRoom = 16;

template <class Value>
struct Rows {
  Value* values = nullptr;
  int count = 0;
  int stride = 0;  // values
};

// Not thread-safe: one a worker.
class TileProducts {
 public:
  virtual ~TileProducts() = default;

  // products[m][n] = sum over k of rows[m][k] * code[n][k]; codes of 8 bits count as code - 128.
  // Memory of the rows is as that of Rows. Errors, of all: kUnsupported where oneDNN lacks a
  // kernel.
  virtual Status multiply_codes(const CodeTile& tile, const ByteRows& rows,
                                const Rows<int32_t>& products) = 0;
  // The same in fp32; codes of 8 bits count as they are.
  virtual Status multiply_codes(const CodeTile& tile, const Rows<const float>& rows,
                                const Rows<float>& products) = 0;
  // products[m][n] = sum over k of rows[m][k] * value[n][k]. rows_version: not 0, it says that rows
  // are those of the last call with that number.
  virtual Status multiply_halves(const HalfTile& tile, const Rows<const float>& rows,
                                 uint64_t rows_version, const Rows<float>& products) = 0;
  // The same of the transposed tile: products[m][k] = sum over n of rows[m][n] * value[n][k].
  virtual Status multiply_transposed(const HalfTile& tile, const Rows<const float>& rows,
                                     const Rows<float>& products) = 0;

  // To be called on the same thread when no product follows soon.
  virtual void release() = 0;
};

}  // namespace vkv
