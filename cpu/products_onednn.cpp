// products_onednn.cpp: unpack, then a micro-kernel a panel.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/products_onednn.h"

#include <algorithm>
#include <type_traits>

#include "runtime/base/block_format.h"

namespace vkv {
namespace {

// From so many rows on a transposed panel pays: measured on one Zen 4 core.
constexpr int kPanelRowsMin = 17;

// Few rows are multiplied as they are; more in eights, so that there are few different kernels.
// Memory of rows has room for those that this adds.
int kernel_rows(int rows) { return rows <= 16 ? rows : round_up(rows, 8); }

}  // namespace

void* OnednnProducts::panels(int n, int k) {
  const size_t count = static_cast<size_t>(round_up(n, kPanelWidth)) * static_cast<size_t>(k);
  if (panels_.size() < count) panels_.resize(count);
  return panels_.data();
}

Status OnednnProducts::multiply_codes(const CodeTile& tile, const ByteRows& rows,
                                      const Rows<int32_t>& products) {
  const int n = tile.row_end - tile.row_begin, k = tile.column_end - tile.column_begin;
  functions_.unpack_bytes(tile, static_cast<uint8_t*>(panels(n, k)));
  if (rows.is_signed) return multiply_signed(rows, n, k, products);
  return multiply(Rows<const uint8_t>{rows.bytes, rows.count, rows.stride}, n, k, products);
}

Status OnednnProducts::multiply_signed(const ByteRows& rows, int n, int k,
                                       const Rows<int32_t>& products) {
  const int count = rows.count + 1;
  const size_t room = static_cast<size_t>(round_up(count, kRowRoom));
  const size_t row_bytes = static_cast<size_t>(rows.stride);
  if (unsigned_rows_.size() < room * row_bytes + kPanelWidth)
    unsigned_rows_.resize(room * row_bytes + kPanelWidth);
  if (unsigned_products_.size() < room * static_cast<size_t>(products.stride))
    unsigned_products_.resize(room * static_cast<size_t>(products.stride));
  const size_t byte_count = static_cast<size_t>(rows.count) * row_bytes;
  functions_.make_unsigned(rows.bytes, byte_count, unsigned_rows_.data());
  std::fill_n(&unsigned_rows_[byte_count], row_bytes, uint8_t{1});
  VKV_TRY(multiply(Rows<const uint8_t>{unsigned_rows_.data(), count, rows.stride}, n, k,
                   Rows<int32_t>{unsigned_products_.data(), count, products.stride}));
  const int32_t* const code_sums =
      &unsigned_products_[static_cast<size_t>(rows.count) * static_cast<size_t>(products.stride)];
  functions_.subtract_code_sums(unsigned_products_.data(), code_sums, rows.count, products.stride,
                                n, products.values, products.stride);
  return {};
}

Status OnednnProducts::multiply_codes(const CodeTile& tile, const Rows<const float>& rows,
                                      const Rows<float>& products) {
  const int n = tile.row_end - tile.row_begin, k = tile.column_end - tile.column_begin;
  functions_.unpack_floats(tile, static_cast<float*>(panels(n, k)));
  return multiply(rows, n, k, products);
}

Status OnednnProducts::multiply_halves(const HalfTile& tile, const Rows<const float>& rows,
                                       uint64_t, const Rows<float>& products) {
  if (rows.count < kPanelRowsMin) {
    functions_.dot_halves(tile, rows.values, rows.count, rows.stride, products.values,
                          products.stride);
    return {};
  }
  const int n = round_up(tile.row_count, 32);
  functions_.transpose_halves(tile, static_cast<float*>(panels(n, tile.padded_columns)));
  return multiply(rows, n, tile.padded_columns, products);
}

Status OnednnProducts::multiply_transposed(const HalfTile& tile, const Rows<const float>& rows,
                                           const Rows<float>& products) {
  if (rows.count < kPanelRowsMin) {
    functions_.sum_halves(tile, rows.values, rows.count, rows.stride, products.values,
                          products.stride);
    return {};
  }
  const int k = round_up(tile.row_count, 32);
  functions_.convert_halves(tile, static_cast<float*>(panels(tile.padded_columns, k)));
  return multiply(rows, tile.padded_columns, k, products);
}

// rows [count, k] x panels, a panel of up to 64 columns at a time.
template <class A, class C>
Status OnednnProducts::multiply(const Rows<const A>& rows, int n, int k, const Rows<C>& products) {
  const A* const panels = reinterpret_cast<const A*>(panels_.data());
  for (int column = 0; column < n; column += kPanelWidth) {
    const BrgemmShape shape = {.bytes = std::is_same_v<A, uint8_t>,
                               .m = kernel_rows(rows.count),
                               .n = std::min(kPanelWidth, n - column),
                               .k = k,
                               .a_stride = rows.stride,
                               .c_stride = products.stride};
    const auto known = std::find_if(std::begin(known_), std::end(known_), [&](const Known& one) {
      return one.kernel != nullptr && one.shape == shape;
    });
    const Brgemm* kernel = known == std::end(known_) ? nullptr : known->kernel;
    if (kernel == nullptr) {
      VKV_TRY_ASSIGN(made, kernels_.get(shape));
      kernel = made;
      known_[next_known_++ % std::size(known_)] = {shape, made};
    }
    runner_.run(*kernel, rows.values, panels + static_cast<size_t>(k) * column,
                products.values + column);
  }
  return {};
}

}  // namespace vkv
