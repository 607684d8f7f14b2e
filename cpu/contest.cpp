// contest.cpp: both engines by turns on one tile that lies in a cache.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/contest.h"

#include <tbb/cache_aligned_allocator.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <vector>

#include "runtime/base/block_format.h"

namespace vkv {
namespace {

constexpr int kRounds = 4;  // the fastest counts
constexpr int kSide = 128;  // tokens, and channels
constexpr double kLead = 0.9;

template <class T>
using Buffer = std::vector<T, tbb::cache_aligned_allocator<T>>;

// Nanoseconds of a product with signed rows and one with unsigned ones, as of K and V; those of an
// engine that cannot: very many.
class Match {
 public:
  Match(int bits, int rows)
      : tile_{nullptr, bits, kSide, 0, kSide, 0, kSide},
        row_count_(2 * rows),
        payload_(size_t{kSide} * kSide, std::byte{0x5a}),
        bytes_(room() * kSide + kPanelWidth, 3),
        products_(room() * kSide) {
    tile_.payload = payload_.data();
  }

  double nanoseconds(TileProducts& products) {
    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    for (const bool is_signed : {true, false}) {
      const Status status =
          products.multiply_codes(tile_, ByteRows{bytes_.data(), row_count_, kSide, is_signed},
                                  Rows<int32_t>{products_.data(), row_count_, kSide});
      if (!status.ok()) return 1e9;
    }
    return std::chrono::duration<double, std::nano>(Clock::now() - begin).count();
  }

 private:
  size_t room() const { return static_cast<size_t>(round_up(row_count_, kRowRoom)); }

  CodeTile tile_;
  const int row_count_;
  const Buffer<std::byte> payload_;
  const Buffer<uint8_t> bytes_;
  Buffer<int32_t> products_;
};

int measure(int bits, int rows, TileProducts& first, TileProducts& second) {
  Match match(bits, rows);
  double least[2] = {1e9, 1e9};
  for (int round = 0; round < kRounds; ++round) {
    least[0] = std::min(least[0], match.nanoseconds(first));
    least[1] = std::min(least[1], match.nanoseconds(second));
  }
  // Whoever multiplies next on this thread need not be these two.
  first.release();
  second.release();
  return least[1] < kLead * least[0] ? 1 : 0;
}

}  // namespace

int ContestTable::winner(int bits, int rows, TileProducts& first, TileProducts& second) {
  const size_t codec =
      std::find(std::begin(kContestBits), std::end(kContestBits), bits) - std::begin(kContestBits);
  size_t nearest = 0;
  for (size_t i = 1; i < std::size(kContestRows); ++i)
    if (std::abs(kContestRows[i] - rows) < std::abs(kContestRows[nearest] - rows)) nearest = i;
  std::atomic<int>& found = entries_[codec][nearest].winner;
  if (const int known = found.load(std::memory_order_relaxed); known != kUnknown) return known;
  const std::lock_guard lock(mutex_);
  if (found == kUnknown) found = measure(bits, kContestRows[nearest], first, second);
  return found;
}

Status ContestedProducts::multiply_codes(const CodeTile& tile, const ByteRows& rows,
                                         const Rows<int32_t>& products) {
  if (tile.bits != known_bits_ || rows.count != known_rows_) {
    known_winner_ = table_.winner(tile.bits, rows.count / 2, *first_, *second_);
    known_bits_ = tile.bits;
    known_rows_ = rows.count;
  }
  return (known_winner_ == 1 ? *second_ : *first_).multiply_codes(tile, rows, products);
}

Status ContestedProducts::multiply_codes(const CodeTile& tile, const Rows<const float>& rows,
                                         const Rows<float>& products) {
  return first_->multiply_codes(tile, rows, products);
}

Status ContestedProducts::multiply_halves(const HalfTile& tile, const Rows<const float>& rows,
                                          uint64_t rows_version, const Rows<float>& products) {
  return first_->multiply_halves(tile, rows, rows_version, products);
}

Status ContestedProducts::multiply_transposed(const HalfTile& tile, const Rows<const float>& rows,
                                              const Rows<float>& products) {
  return first_->multiply_transposed(tile, rows, products);
}

void ContestedProducts::release() {
  first_->release();
  second_->release();
}

}  // namespace vkv
