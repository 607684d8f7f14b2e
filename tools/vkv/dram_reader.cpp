// dram_reader.cpp: whole lines, read in pieces of 1 MiB.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/dram_reader.h"

#include <algorithm>

#include "cpu/cpu_features.h"
#include "cpu/parallel.h"
#include "cpu/read_memory.h"

namespace vkv {
namespace {

constexpr size_t kPiece = size_t{1} << 20;

}  // namespace

DramReader::DramReader(int threads) : memory_(allocate_for_bench(kBytes)), arena_(threads) {
  advise_huge_pages(memory_.get(), kBytes);
  arena_.execute([&] {
    parallel_tasks(kBytes / kPiece, 1e9, [&](size_t i) {
      std::fill_n(memory_.get() + i * kPiece, kPiece, static_cast<std::byte>(i));
    });
  });
}

void DramReader::pass() {
  const auto xor_of = cpu_has_avx512() ? avx512::xor_of : avx2::xor_of;
  arena_.execute([&] {
    parallel_tasks(kBytes / kPiece, 1e9,
                   [&](size_t i) { sum_ += xor_of(memory_.get() + i * kPiece, kPiece); });
  });
}

double DramReader::speed(int repetitions) {
  return static_cast<double>(kBytes) / median_seconds(repetitions, [&] { pass(); });
}

uint64_t DramReader::read_until(const std::atomic<bool>& stop) {
  uint64_t bytes = 0;
  for (; !stop.load(); bytes += kBytes) pass();
  return bytes;
}

}  // namespace vkv
