// dram_reader.cpp: whole lines, read in pieces of 1 MiB.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/dram_reader.h"

#include <algorithm>
#include <chrono>

#include "cpu/cpu_features.h"
#include "cpu/parallel.h"
#include "cpu/read_memory.h"
#include "transfer/node_memory.h"

namespace vkv {
namespace {

constexpr size_t kPiece = size_t{1} << 20;
constexpr size_t kPieces = DramReader::kBytes / kPiece;

}  // namespace

DramReader::DramReader(const ThreadPlan& plan) : memory_(allocate_for_bench(kBytes)), teams_(plan) {
  if (teams_.are_bound()) crew_ = std::make_unique<Crew>(teams_, std::chrono::microseconds(0));
  advise_huge_pages(memory_.get(), kBytes);
  size_t threads = 0, begin = 0;
  for (const TeamPlan& team : plan.teams) {
    threads += static_cast<size_t>(team.thread_count);
    ends_.push_back(kPieces * threads / static_cast<size_t>(plan.thread_count()));
    // Only advice: elsewhere the memory is slower, which is what is measured then.
    (void)prefer_node({memory_.get() + begin * kPiece, (ends_.back() - begin) * kPiece}, team.node);
    begin = ends_.back();
  }
  over_pieces([&](size_t i) {
    std::fill_n(memory_.get() + i * kPiece, kPiece, static_cast<std::byte>(i));
  });
}

template <class Body>
void DramReader::over_pieces(const Body& body) {
  teams_.arena(0).execute([&] {
    const Crew::Scope scope(crew_.get());
    parallel_team_tasks(ends_, 1e9, body);
  });
}

void DramReader::pass() {
  const auto xor_of = cpu_has_avx512() ? avx512::xor_of : avx2::xor_of;
  over_pieces([&](size_t i) { sum_ += xor_of(memory_.get() + i * kPiece, kPiece); });
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
