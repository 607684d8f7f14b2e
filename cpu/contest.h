// contest.h: which of two engines multiplies codes faster here, by codec and number of rows.
// SPDX-License-Identifier: Apache-2.0
//
// Products of bytes are exact, so both give the same bits, and what a contest finds changes nothing
// but time: answers are the same whoever wins, in each run, and before and after a cache was saved.
// Products in fp32, which engines add in different orders, always are the first engine's.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "cpu/tile_products.h"

namespace vkv {

inline constexpr int kContestBits[] = {8, 4, 2, 1};
// Queries x query heads of a KV head that are measured. Others go by the nearest.
inline constexpr int kContestRows[] = {1, 2, 4, 7, 16, 28};

// What was found so far; thread-safe.
class ContestTable {
 public:
  // 0: the first engine, 1: the second. The first call for a codec and so many rows measures both,
  // with the caller's products, in less than a millisecond; the first engine wins when they are
  // less than a tenth apart. Whoever asks meanwhile waits.
  int winner(int bits, int rows, TileProducts& first, TileProducts& second);

 private:
  static constexpr int kUnknown = -1;
  struct Entry {
    std::atomic<int> winner{kUnknown};
  };

  std::mutex mutex_;
  Entry entries_[std::size(kContestBits)][std::size(kContestRows)];
};

// Bytes by the winner, all else by the first engine. Borrows the table.
class ContestedProducts final : public TileProducts {
 public:
  ContestedProducts(std::unique_ptr<TileProducts> first, std::unique_ptr<TileProducts> second,
                    ContestTable& table)
      : first_(std::move(first)), second_(std::move(second)), table_(table) {}

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
  const std::unique_ptr<TileProducts> first_, second_;
  ContestTable& table_;
  // The last answer of the table, since tile after tile asks the same.
  int known_bits_ = 0, known_rows_ = 0, known_winner_ = 0;
};

}  // namespace vkv
