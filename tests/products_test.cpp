// products_test: all engines multiply bytes with packed codes exactly, whoever wins the contest.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <tbb/cache_aligned_allocator.h>

#include <cstring>
#include <random>

#include "cpu/tile_worker.h"
#include "runtime/base/block_format.h"

namespace vkv {
namespace {

template <class T>
using Buffer = std::vector<T, tbb::cache_aligned_allocator<T>>;

std::vector<TileEngine> exact_engines() {
  std::vector<TileEngine> engines;
  for (const TileEngine engine : kTileEngines)
    if (can_run(engine).ok() && exact_8_bit(engine, matrix_unit())) engines.push_back(engine);
  return engines;
}

// A matrix of codes, of which a tile is multiplied.
struct Case {
  int bits, stored_rows, stored_columns;
  int row_begin, row_end, column_begin, column_end;
  int row_count;
  bool is_signed;
};

class Products {
 public:
  explicit Products(const Case& c)
      : c_(c),
        payload_(static_cast<size_t>(c.stored_rows) * c.stored_columns * c.bits / 8),
        rows_(room() * k() + 64),
        products_(room() * n(), -1) {
    std::mt19937 random(static_cast<uint32_t>(c.bits * 100 + c.row_count));
    for (std::byte& byte : payload_) byte = static_cast<std::byte>(random());
    for (uint8_t& byte : rows_) byte = static_cast<uint8_t>(random());
    rows_[0] = 0x80;  // the extremes of both kinds of bytes
    rows_[1] = 0xff;
  }

  Buffer<int32_t> by(TileProducts& products) {
    const CodeTile tile = {payload_.data(), c_.bits,         c_.stored_columns, c_.row_begin,
                           c_.row_end,      c_.column_begin, c_.column_end};
    std::fill(products_.begin(), products_.end(), -1);
    const Status status = products.multiply_codes(
        tile, ByteRows{rows_.data(), c_.row_count, static_cast<int>(k()), c_.is_signed},
        Rows<int32_t>{products_.data(), c_.row_count, static_cast<int>(n())});
    EXPECT_TRUE(status.ok()) << status.message();
    products.release();
    return {products_.begin(), products_.begin() + c_.row_count * static_cast<long>(n())};
  }

  // By the definition in cpu/tile_products.h.
  Buffer<int32_t> by_definition() const {
    Buffer<int32_t> sums;
    for (int m = 0; m < c_.row_count; ++m)
      for (int row = c_.row_begin; row < c_.row_end; ++row) {
        int32_t sum = 0;
        for (size_t i = 0; i < k(); ++i) {
          const uint8_t byte = rows_[static_cast<size_t>(m) * k() + i];
          const int factor = c_.is_signed ? static_cast<int8_t>(byte) : byte;
          sum += factor *
                 (code(row, c_.column_begin + static_cast<int>(i)) - (c_.bits == 8 ? 128 : 0));
        }
        sums.push_back(sum);
      }
    return sums;
  }

 private:
  size_t n() const { return static_cast<size_t>(c_.row_end - c_.row_begin); }
  size_t k() const { return static_cast<size_t>(c_.column_end - c_.column_begin); }
  size_t room() const { return static_cast<size_t>(round_up(c_.row_count, kRowRoom)); }

  int code(int row, int column) const {
    const CodePosition at = code_position(c_.bits, c_.stored_columns, row, column);
    uint32_t word;
    std::memcpy(&word, payload_.data() + size_t{4} * at.word, sizeof(word));
    return static_cast<int>(word >> at.bit & ((1u << c_.bits) - 1));
  }

  const Case c_;
  Buffer<std::byte> payload_;
  Buffer<uint8_t> rows_;
  Buffer<int32_t> products_;
};

void expect_exact(const Case& c) {
  Products products(c);
  const Buffer<int32_t> expected = products.by_definition();
  BrgemmCache kernels;
  for (const TileEngine engine : exact_engines()) {
    const auto by = make_products({&engine, 1}, matrix_unit(), kernels);
    ASSERT_EQ(products.by(*by), expected)
        << name(engine) << ", " << c.bits << " bits, " << c.row_count << " rows, "
        << (c.is_signed ? "signed" : "unsigned");
  }
}

TEST(products, every_number_of_rows_is_exact) {
  if (exact_engines().empty()) GTEST_SKIP() << "no engine multiplies 8 bits exactly here";
  for (const int bits : {8, 4, 2, 1})
    for (const int rows : {2, 4, 6, 8, 10, 12, 14, 16, 18, 28, 32, 34, 64})
      for (const bool is_signed : {true, false})
        expect_exact({bits, 128, 128, 0, 128, 0, 128, rows, is_signed});
}

TEST(products, every_part_of_a_matrix_is_exact) {
  if (exact_engines().empty()) GTEST_SKIP() << "no engine multiplies 8 bits exactly here";
  for (const int bits : {8, 4, 2, 1})
    for (const int rows : {2, 14, 18})
      for (const bool is_signed : {true, false}) {
        expect_exact({bits, 256, 64, 128, 256, 0, 64, rows, is_signed});
        expect_exact({bits, 64, 256, 0, 64, 128, 256, rows, is_signed});
        expect_exact({bits, 96, 96, 32, 96, 0, 96, rows, is_signed});
        expect_exact({bits, 32, 256, 0, 32, 0, 256, rows, is_signed});
        expect_exact({bits, 96, 32, 0, 96, 0, 32, rows, is_signed});
      }
}

TEST(products, a_contest_ends_with_the_same_winner_and_the_same_products_each_time) {
  const std::vector<TileEngine> engines = exact_engines();
  if (engines.size() < 2) GTEST_SKIP() << "a contest needs two engines";
  BrgemmCache kernels;
  const auto first = make_products({&engines[0], 1}, matrix_unit(), kernels);
  const auto second = make_products({&engines[1], 1}, matrix_unit(), kernels);
  ContestTable table;
  for (const int bits : kContestBits)
    for (const int rows : {1, 3, 7, 8, 100}) {
      const int winner = table.winner(bits, rows, *first, *second);
      EXPECT_TRUE(winner == 0 || winner == 1);
      for (int i = 0; i < 3; ++i) EXPECT_EQ(table.winner(bits, rows, *first, *second), winner);
      // What won before is not measured again, whoever asks.
      EXPECT_EQ(table.winner(bits, rows, *second, *first), winner);

      Products products({bits, 128, 128, 0, 128, 0, 128, 2 * rows, true});
      const auto both = make_products(std::span(engines).first(2), matrix_unit(), kernels);
      EXPECT_EQ(products.by(*both), products.by_definition());
    }
}

TEST(products, contenders_are_exact_and_can_run) {
  const std::vector<TileEngine> engines = contenders();
  ASSERT_LE(engines.size(), 2u);
  for (const TileEngine engine : engines) EXPECT_TRUE(can_run(engine).ok());
  if (engines.size() == 2) {
    EXPECT_TRUE(exact_8_bit(engines[0], matrix_unit()));
    EXPECT_TRUE(exact_8_bit(engines[1], matrix_unit()));
  }
  EXPECT_EQ(contest_results().size(),
            engines.size() < 2 ? 0 : std::size(kContestBits) * std::size(kContestRows));
}

}  // namespace
}  // namespace vkv
