// host_share.cpp: calls in a ring, and the thread that computes them.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/host_share.h"

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <string>
#include <utility>

#include "kernels/host_flags.h"
#include "kernels/merge.h"
#include "kernels/trace_range.h"
#include "runtime/base/check.h"
#include "runtime/base/stopwatch.h"

namespace vkv {
namespace {

constexpr size_t kPiecesMax = 32;  // of an item: partials of their own, for as many threads
constexpr size_t kPieceBlocksMin = 4;

// A word that the device reads or writes too.
std::atomic_ref<uint32_t> shared(uint32_t& word) { return std::atomic_ref<uint32_t>(word); }

size_t row_floats(const AttendItem& item) {
  return static_cast<size_t>(item.q_len) * static_cast<size_t>(item.shape.q_heads);
}
size_t query_floats(const AttendItem& item) {
  return row_floats(item) * static_cast<size_t>(item.shape.head_dim);
}
size_t mean_floats(const KvShape& shape) {
  return static_cast<size_t>(shape.kv_heads) * static_cast<size_t>(shape.head_dim);
}

uint64_t bytes_of(const AttendItem& item) {
  uint64_t bytes = 0;
  for (const BlockView& block : item.blocks)
    bytes += block_layout(item.shape, block).record_bytes();
  return bytes;
}

}  // namespace

HostShare::HostShare(const KvShape& shape, std::unique_ptr<Backend> cpu)
    : shape_(shape), cpu_(std::move(cpu)) {}

Result<std::unique_ptr<HostShare>> HostShare::make(const KvShape& shape,
                                                   std::unique_ptr<Backend> cpu) {
  std::unique_ptr<HostShare> share(new HostShare(shape, std::move(cpu)));
  VKV_TRY(share->take_memory());
  share->thread_ = std::thread([raw = share.get()] { raw->run(); });
  return share;
}

Status HostShare::take_memory() {
  const size_t rows = kHostQueriesMax * static_cast<size_t>(shape_.q_heads);
  const size_t q = rows * static_cast<size_t>(shape_.head_dim);
  const size_t means = kHostItemsMax * mean_floats(shape_);
  const size_t of_call = round_up_bytes(2 * q + means + rows, 32);
  VKV_TRY_ASSIGN(words, CudaArray<HostCallWords>::make(kCallsAhead, CudaMemory::kPinned));
  words_ = std::move(words);
  VKV_TRY_ASSIGN(floats, CudaArray<float>::make(kCallsAhead * of_call, CudaMemory::kPinned));
  floats_ = std::move(floats);
  std::fill(words_.span().begin(), words_.span().end(), HostCallWords{});
  for (size_t i = 0; i < kCallsAhead; ++i) {
    Call call;
    call.words = words_.data() + i;
    call.q = floats_.data() + i * of_call;
    call.out = call.q + q;
    call.mean = call.out + q;
    call.lse = call.mean + means;
    VKV_TRY_ASSIGN(merged, make_event());
    call.merged = std::move(merged);
    calls_.push_back(std::move(call));
  }
  return {};
}

HostShare::~HostShare() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  posted_.notify_all();
  if (thread_.joinable()) thread_.join();
}

uint64_t HostShare::host_bytes() const {
  const size_t rows = kHostQueriesMax * static_cast<size_t>(shape_.q_heads);
  return words_.size() * sizeof(HostCallWords) + floats_.size() * sizeof(float) +
         kPiecesMax * rows * static_cast<size_t>(shape_.head_dim + 1) * sizeof(float);
}

bool HostShare::fits(std::span<const AttendItem> items) {
  int queries = 0;
  for (const AttendItem& item : items) queries += item.q_len;
  return items.size() <= kHostItemsMax && queries <= kHostQueriesMax;
}

Status HostShare::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

Status HostShare::begin(std::span<const AttendItem> items, uint64_t device_bytes,
                        cudaStream_t stream) {
  VKV_CHECK(fits(items));
  VKV_TRY(failure());
  const size_t at = last_number_ % kCallsAhead;
  Call& call = calls_[at];
  if (call.number != 0)
    VKV_TRY(cuda_status(cudaEventSynchronize(call.merged.get()), "cudaEventSynchronize"));

  // 1. Where things of each item lie.
  Job job{.call = at, .number = ++last_number_};
  HostCopies copies;
  call.number = job.number;
  call.device_bytes = device_bytes;
  call.block_bytes = 0;
  call.device_items.clear();
  call.partials.clear();
  float *q = call.q, *out = call.out, *mean = call.mean, *lse = call.lse;
  for (const AttendItem& item : items) {
    if (item.blocks.empty()) continue;
    AttendItem own = item;
    own.blocks = {};
    own.q = q;
    own.out = out;
    own.lse = lse;
    const auto floats = static_cast<uint32_t>(query_floats(item));
    copies.copies[copies.count++] = {item.q, q, floats};
    if (item.k_mean != nullptr) {
      own.k_mean = mean;
      copies.copies[copies.count++] = {item.k_mean, mean,
                                       static_cast<uint32_t>(mean_floats(shape_))};
      mean += mean_floats(shape_);
    }
    q += floats;
    out += floats;
    lse += row_floats(item);
    call.block_bytes += bytes_of(item);
    call.device_items.push_back(item);
    call.partials.push_back({own.out, own.lse});
    job.items.push_back(own);
    job.blocks.insert(job.blocks.end(), item.blocks.begin(), item.blocks.end());
    job.block_counts.push_back(item.blocks.size());
  }

  // 2. The thread is told first: it has what it needs when the flag rises.
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  posted_.notify_one();
  const Status asked = launch_ask_host(copies, call.words, call.number, stream);
  // The thread shall not wait for ever: what it computes then is not merged.
  if (!asked.ok()) shared(call.words->asked).store(call.number, std::memory_order_release);
  return asked;
}

Status HostShare::end(cudaStream_t stream) {
  Call& call = calls_[(last_number_ - 1) % kCallsAhead];
  for (size_t i = 0; i < call.device_items.size(); ++i) {
    const AttendItem& item = call.device_items[i];
    const PartialView both[] = {{item.out, item.lse}, call.partials[i]};
    // The first waits for the CPU's results of all.
    const HostResults results = i == 0 ? HostResults{call.words, call.number} : HostResults{};
    VKV_TRY(launch_merge({.head_dim = shape_.head_dim,
                          .row_count = row_floats(item),
                          .partials = both,
                          .out = item.out,
                          .lse = item.lse},
                         stream, results));
  }
  return cuda_status(cudaEventRecord(call.merged.get(), stream), "cudaEventRecord");
}

std::optional<ShareTiming> HostShare::next_timing() {
  // Calls that were overtaken by newer ones in the ring are lost.
  if (last_number_ > kCallsAhead)
    oldest_untimed_ =
        std::max<uint32_t>(oldest_untimed_, last_number_ - static_cast<uint32_t>(kCallsAhead) + 1);
  if (oldest_untimed_ > last_number_) return std::nullopt;
  Call& call = calls_[(oldest_untimed_ - 1) % kCallsAhead];
  if (cudaEventQuery(call.merged.get()) != cudaSuccess) {
    (void)cudaGetLastError();  // not done is no error of the next call
    return std::nullopt;
  }
  ++oldest_untimed_;
  const auto seconds = [](uint64_t begin, uint64_t end) {
    return end > begin ? static_cast<double>(end - begin) * 1e-9 : 0.0;
  };
  return ShareTiming{.host_bytes = call.block_bytes,
                     .device_bytes = call.device_bytes,
                     .host_seconds = call.seconds,
                     .device_seconds = seconds(call.words->asked_ns, call.words->joined_ns),
                     .wait_seconds = seconds(call.words->joined_ns, call.words->merged_ns)};
}

// Spins: queries come a fraction of a millisecond after one another. Where nothing comes for long,
// the core is left to others. False: stopped.
bool HostShare::wait_for_queries(const Call& call, uint32_t number) const {
  constexpr int kSpins = 4000, kYields = 20'000;
  for (int i = 0;; ++i) {
    if (shared(call.words->asked).load(std::memory_order_acquire) == number) return true;
    if (i < kSpins) {
      _mm_pause();
    } else if (i < kYields) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      const std::lock_guard lock(mutex_);
      if (stops_) return false;
    }
  }
}

void HostShare::run() {
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      posted_.wait(lock, [&] { return stops_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    Call& call = calls_[job.call];
    if (!wait_for_queries(call, job.number)) return;
    const Stopwatch computing;
    const Status status = compute(job);
    call.seconds = computing.seconds();
    if (!status.ok()) {
      const std::lock_guard lock(mutex_);
      if (failure_.ok())
        failure_ = {status.code(), "the CPU's part of attention: " + status.message()};
    }
    // The device waits for it also where it failed: nobody will look at what it merges.
    shared(call.words->done).store(job.number, std::memory_order_release);
  }
}

Status HostShare::compute(Job& job) {
  const TraceRange trace("attend on the CPU");
  std::vector<AttendItem> pieces;
  std::vector<MergeItem> merges;
  std::vector<size_t> piece_counts;
  size_t floats = 0;
  const BlockView* blocks = job.blocks.data();
  for (size_t i = 0; i < job.items.size(); ++i) {
    const size_t count = job.block_counts[i];
    const size_t parts =
        std::clamp<size_t>(count / kPieceBlocksMin, 1, kPiecesMax / job.items.size());
    for (size_t part = 0; part < parts; ++part) {
      const size_t begin = count * part / parts, end = count * (part + 1) / parts;
      AttendItem piece = job.items[i];
      piece.blocks = {blocks + begin, end - begin};
      pieces.push_back(piece);
      floats += query_floats(piece) + row_floats(piece);
    }
    piece_counts.push_back(parts);
    blocks += count;
  }
  if (scratch_.size() < floats) scratch_.resize(floats);

  std::vector<PartialView> partials;
  float* free_floats = scratch_.data();
  for (AttendItem& piece : pieces) {
    piece.out = free_floats;
    piece.lse = free_floats + query_floats(piece);
    free_floats += query_floats(piece) + row_floats(piece);
    partials.push_back({piece.out, piece.lse});
  }
  VKV_TRY(cpu_->attend(pieces));
  const PartialView* first = partials.data();
  for (size_t i = 0; i < job.items.size(); ++i) {
    const AttendItem& item = job.items[i];
    merges.push_back({.head_dim = shape_.head_dim,
                      .row_count = row_floats(item),
                      .partials = {first, piece_counts[i]},
                      .out = item.out,
                      .lse = item.lse});
    first += piece_counts[i];
  }
  return cpu_->merge(merges);
}

}  // namespace vkv
