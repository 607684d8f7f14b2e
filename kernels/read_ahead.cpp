// read_ahead.cpp: one buffer, a stream of copies, and who waits for whom.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/read_ahead.h"

#include <algorithm>
#include <utility>

#include "kernels/trace_range.h"

namespace vkv {
namespace {

// The kernels fetch pieces of lines: a copy lies in its line as its source does.
constexpr size_t kLine = 128;

size_t place_in_line(const std::byte* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kLine;
}

// What of a block is adjacent to its payload.
struct Range {
  const std::byte* begin = nullptr;
  size_t byte_count = 0;
};

Range range_of(const KvShape& shape, const BlockView& block) {
  const BlockLayout layout = block_layout(shape, block);
  const std::byte* const record = block.payload - layout.payload_offset();
  if (block.headers == record) return {record, layout.record_bytes()};
  return {block.payload, layout.payload_bytes()};
}

}  // namespace

Result<ReadAhead> ReadAhead::make(std::span<std::byte> buffer) {
  ReadAhead ahead;
  ahead.buffer_ = buffer;
  VKV_TRY_ASSIGN(copies, make_stream());
  ahead.copies_ = std::move(copies);
  VKV_TRY_ASSIGN(read, make_event());
  ahead.read_ = std::move(read);
  for (size_t i = 0; i < kTimings; ++i) {
    Timing timing;
    for (CudaEvent* const event : {&timing.begun, &timing.copied, &timing.needed}) {
      VKV_TRY_ASSIGN(made, make_event(EventKind::kTime));
      *event = std::move(made);
    }
    ahead.timings_.push_back(std::move(timing));
  }
  return Result<ReadAhead>(std::move(ahead));
}

ReadAhead::~ReadAhead() {
  if (copies_.get() != nullptr) (void)cudaStreamSynchronize(copies_.get());
}

Result<uint64_t> ReadAhead::start(int label, const KvShape& shape,
                                  std::span<const std::span<const BlockView>> groups,
                                  cudaStream_t stream) {
  const TraceRange trace("read ahead");
  list_.clear();
  next_ = 0;
  taken_ = false;

  // 1. A place for each; neighbours become one copy.
  struct Run {
    const std::byte* source;
    std::byte* target;
    size_t byte_count;
  };
  std::vector<Run> runs;
  size_t used = 0;
  const auto place = [&](const Range& range, bool may_follow) {
    const bool follows = may_follow && range.begin == runs.back().source + runs.back().byte_count;
    const size_t at = follows ? used : round_up_bytes(used, kLine) + place_in_line(range.begin);
    if (at + range.byte_count > buffer_.size()) return false;
    std::byte* const target = buffer_.data() + at;
    if (follows)
      runs.back().byte_count += range.byte_count;
    else
      runs.push_back({range.begin, target, range.byte_count});
    list_.push_back({range.begin, target});
    used = at + range.byte_count;
    return true;
  };
  bool fits = true;
  for (const std::span<const BlockView> group : groups)
    for (size_t i = 0; i < group.size() && fits; ++i)
      fits = place(range_of(shape, group[i]), /*may_follow=*/i > 0);
  if (runs.empty()) return uint64_t{0};

  // 2. Behind what reads the buffer, and what wrote the blocks.
  if (!std::exchange(read_recorded_, false))
    VKV_TRY(cuda_status(cudaEventRecord(read_.get(), stream), "cudaEventRecord"));
  VKV_TRY(cuda_status(cudaStreamWaitEvent(copies_.get(), read_.get(), 0), "cudaStreamWaitEvent"));
  ++started_;
  Timing& timing = newest();
  timing.label = label;
  timing.byte_count = 0;
  timing.waited_for = false;
  under_way_ = true;
  const Status queued = [&]() -> Status {
    VKV_TRY(cuda_status(cudaEventRecord(timing.begun.get(), copies_.get()), "cudaEventRecord"));
    for (const Run& run : runs) {
      VKV_TRY(copy_async(run.target, run.source, run.byte_count, copies_.get()));
      timing.byte_count += run.byte_count;
    }
    return cuda_status(cudaEventRecord(timing.copied.get(), copies_.get()), "cudaEventRecord");
  }();
  if (!queued.ok()) {
    list_.clear();
    return queued;
  }
  return timing.byte_count;
}

bool ReadAhead::take(BlockView& view) {
  if (next_ == list_.size()) return false;
  const Copy& copy = list_[next_];
  if (view.headers == copy.source) {
    view.payload = copy.target + (view.payload - view.headers);
    view.headers = copy.target;
  } else if (view.payload == copy.source) {
    view.payload = copy.target;
  } else {
    return false;
  }
  ++next_;
  taken_ = true;
  return true;
}

Status ReadAhead::begin_reading(cudaStream_t stream) {
  if (!taken_ || !std::exchange(under_way_, false)) return {};
  Timing& timing = newest();
  timing.waited_for = true;
  VKV_TRY(cuda_status(cudaEventRecord(timing.needed.get(), stream), "cudaEventRecord"));
  return cuda_status(cudaStreamWaitEvent(stream, timing.copied.get(), 0), "cudaStreamWaitEvent");
}

Status ReadAhead::end_reading(cudaStream_t stream) {
  if (started_ == 0) return {};
  read_recorded_ = true;
  return cuda_status(cudaEventRecord(read_.get(), stream), "cudaEventRecord");
}

Status ReadAhead::stop(cudaStream_t stream) {
  list_.clear();
  next_ = 0;
  read_recorded_ = false;  // copies to come follow what is written now
  if (started_ == 0) return {};
  return cuda_status(cudaStreamWaitEvent(stream, newest().copied.get(), 0), "cudaStreamWaitEvent");
}

std::optional<AheadTiming> ReadAhead::next_timing() {
  if (started_ > kTimings) told_ = std::max(told_, started_ - kTimings);
  for (; told_ < started_; ++told_) {
    const Timing& timing = timings_[told_ % kTimings];
    if (!timing.waited_for && told_ + 1 == started_) return std::nullopt;
    if (!timing.waited_for) continue;  // given up
    float copying = 0, free = 0;
    const cudaError_t copied =
        cudaEventElapsedTime(&copying, timing.begun.get(), timing.copied.get());
    const cudaError_t waited = cudaEventElapsedTime(&free, timing.begun.get(), timing.needed.get());
    (void)cudaGetLastError();  // what is not done yet is no error of the next call
    if (copied != cudaSuccess || waited != cudaSuccess) return std::nullopt;
    ++told_;
    return AheadTiming{.label = timing.label,
                       .byte_count = timing.byte_count,
                       .copy_seconds = copying * 1e-3,
                       .free_seconds = free * 1e-3};
  }
  return std::nullopt;
}

}  // namespace vkv
