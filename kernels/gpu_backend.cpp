// gpu_backend.cpp: the parts of the GPU's engine on one stream, within fixed work memory.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/gpu_backend.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/attend_waves.h"
#include "kernels/cuda_handles.h"
#include "kernels/device_index.h"
#include "kernels/encode.h"
#include "kernels/gpu_attend.h"
#include "kernels/gpu_memory.h"
#include "kernels/host_share.h"
#include "kernels/late_errors.h"
#include "kernels/merge.h"
#include "kernels/pinned_ring.h"
#include "kernels/prefill.h"
#include "kernels/read_ahead.h"
#include "kernels/rows.h"
#include "kernels/side_stream.h"
#include "kernels/stream_marks.h"
#include "kernels/trace_range.h"
#include "kernels/work_room.h"

namespace vkv {
namespace {

bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

class GpuBackend final : public Backend {
 public:
  GpuBackend(int device, std::string name, GpuEncoder encoder, GpuAttend attend)
      : device_(device),
        name_(std::move(name)),
        encoder_(std::move(encoder)),
        attend_(std::move(attend)) {}
  ~GpuBackend() override {
    const DeviceScope scope(device_);
    // What failed was reported, or nobody asked.
    (void)cudaStreamSynchronize(stream_);
    if (side_.stream() != nullptr) (void)cudaStreamSynchronize(side_.stream());
  }

  // The rest of the construction, on the device: takes all memory. Errors: kOutOfMemory, kCuda.
  Status prepare(cudaStream_t stream, int64_t slots_max);
  // Has many queries go another way, or says in name() why none do. Errors: kOutOfMemory, kCuda.
  Status prepare_prefill(const KvShape& shape);

  // Has `host` compute beside the GPU. Errors: kOutOfMemory, kCuda.
  Status prepare_share(const KvShape& shape, std::unique_ptr<Backend> host);

  std::string_view name() const override { return name_; }
  bool cuts_attention() const override { return true; }

  Status attend(std::span<const AttendItem> items) override;
  bool can_share(std::span<const AttendItem> items) const override {
    return share_ != nullptr && HostShare::fits(items);
  }
  Status attend_shared(std::span<const AttendItem> items, std::span<const AttendItem> host_items,
                       uint64_t device_bytes) override;
  std::optional<ShareTiming> next_share_timing() override {
    return share_ ? share_->next_timing() : std::nullopt;
  }
  Status give_ahead_room(std::span<std::byte> device_memory) override;
  size_t ahead_room() const override { return ahead_.room(); }
  Result<uint64_t> read_ahead(int label, const KvShape& shape,
                              std::span<const std::span<const BlockView>> groups) override;
  bool take_ahead(BlockView& view) override { return ahead_.take(view); }
  std::optional<AheadTiming> next_ahead_timing() override { return ahead_.next_timing(); }
  Status merge(std::span<const MergeItem> items) override;
  Status encode(std::span<const EncodeItem> items) override;
  Status encode_headers(const EncodeItem& item) override;
  Status mean_key(const KvShape& shape, const OpenTokens& source, std::span<const uint32_t> rows,
                  float* mean) override;
  Status saliency(const SaliencyItem& item) override;
  Status squared_distances(const KvShape& shape, const OpenTokens& source,
                           std::span<const uint32_t> rows, const float* mean,
                           std::span<float> distances) override;
  Result<std::optional<BadValue>> append(std::span<const AppendItem> items) override;
  Status to_float(ElementType element, const void* source, float* target, size_t count) override {
    return on_device([&] { return launch_to_float(element, source, target, count, stream_); });
  }
  Status from_float(ElementType element, const float* source, void* target, size_t count) override {
    return on_device([&] { return launch_from_float(element, source, target, count, stream_); });
  }
  Status keep_rows(uint16_t* rows, size_t row_values, std::span<const uint32_t> kept) override;
  Status copy(void* target, const void* source, size_t byte_count) override;
  Status zero(std::span<std::byte> bytes) override;
  void label_calls(const CallLabel& label) override { label_ = label; }
  bool knows_late_errors() const override { return late_.any_known(); }
  Result<std::vector<LateError>> late_errors() override;
  void begin_aside() override {
    sealing_.emplace("seal");
    side_.begin();
  }
  Result<uint64_t> end_aside() override;
  Status join(uint64_t stretch) override {
    return on_device([&] { return side_.join(stretch); });
  }
  Status join_all() override { return side_.inside() ? Status() : join(side_.last()); }
  Result<uint64_t> mark() override {
    VKV_TRY(on_device([&] { return marks_.set(stream_); }));
    return marks_.last();
  }
  Status reach(uint64_t mark) override {
    return on_device([&] { return marks_.reach(mark); });
  }
  bool is_reached(uint64_t mark) override { return marks_.is_reached(mark); }
  Status quiesce() override;
  Status drop_ahead() override {
    return on_device([&] { return ahead_.stop(stream_); });
  }
  Status finish() override {
    return waits() ? on_device([&] { return synchronize(stream_); }) : Status();
  }

  uint64_t host_bytes() const { return share_ ? share_->host_bytes() : 0; }
  uint64_t device_bytes() const {
    return encoder_.device_bytes() + attend_.device_bytes() + late_.device_bytes() +
           list_.size() * sizeof(uint32_t) + (prefill_ ? prefill_->work_bytes() : 0);
  }

 private:
  // Runs `work` with the device current, unless the device has failed before.
  template <class Work>
  Status on_device(Work&& work) {
    if (!failure_.ok()) return failure_;
    const DeviceScope scope(device_);
    VKV_TRY(scope.status());
    return noted(work());
  }
  // The same, with the stream where work stands now, which may be the one aside.
  template <class Work>
  Status on_stream(Work&& work) {
    return on_device([&]() -> Status {
      VKV_TRY_ASSIGN(stream, side_.current());
      return work(stream);
    });
  }
  // Runs work(stream), which encodes, and has its errors now or later.
  template <class Work>
  Status encoding(Work&& work);
  bool waits() const { return own_stream_.get() != nullptr; }
  Status noted(Status status);

  const int device_;
  std::string name_;
  CudaStream own_stream_;  // empty where the caller gave one
  cudaStream_t stream_ = nullptr;
  GpuEncoder encoder_;
  GpuAttend attend_;
  std::optional<GpuPrefill> prefill_;
  std::unique_ptr<HostShare> share_;
  ReadAhead ahead_;
  int64_t slots_max_ = 0;
  std::optional<TraceRange> sealing_;
  SideStream side_;  // beside a caller's stream
  LateErrors late_;
  CallLabel label_;
  StreamMarks marks_;
  PinnedRing kept_ring_;      // of keep_rows
  CudaArray<uint32_t> list_;  // [kListValues]: what a call carries to the device, or back
  Status failure_;            // that the device does not recover from
};

Status GpuBackend::prepare(cudaStream_t stream, int64_t slots_max) {
  stream_ = stream;
  slots_max_ = slots_max;
  if (stream_ == nullptr) {
    VKV_TRY_ASSIGN(own, make_stream());
    own_stream_ = std::move(own);
    stream_ = own_stream_.get();
  }
  side_ = SideStream(stream_);
  if (!waits()) {
    VKV_TRY_ASSIGN(side, SideStream::make(stream_));
    side_ = std::move(side);
  }
  VKV_TRY_ASSIGN(list, CudaArray<uint32_t>::make(kListValues));
  list_ = std::move(list);
  VKV_TRY_ASSIGN(ring, PinnedRing::make(kKeptRingBytes));
  kept_ring_ = std::move(ring);
  VKV_TRY_ASSIGN(late, LateErrors::make(stream_));
  late_ = std::move(late);
  VKV_TRY_ASSIGN(marks, StreamMarks::make());
  marks_ = std::move(marks);
  return synchronize(stream_);
}

Status GpuBackend::prepare_prefill(const KvShape& shape) {
  const char* wish = std::getenv("VKV_PREFILL");
  Status refused(Code::kUnsupported, "VKV_PREFILL=own");
  if (wish == nullptr || std::string_view(wish) != "own") {
    Result<GpuPrefill> prefill = GpuPrefill::make(shape, stream_);
    if (prefill.ok()) prefill_.emplace(std::move(prefill.value()));
    refused = prefill.status();
  }
  if (!refused.ok() && refused.code() != Code::kUnsupported) return refused;
  const std::string way =
      prefill_ ? "cuDNN " + prefill_->library_version() : "own kernel: " + refused.message();
  name_ = "cuda (" + name_ + "; prefill by " + way + ")";
  return {};
}

Status GpuBackend::give_ahead_room(std::span<std::byte> device_memory) {
  return on_device([&]() -> Status {
    VKV_TRY_ASSIGN(ahead, ReadAhead::make(device_memory));
    ahead_ = std::move(ahead);
    return {};
  });
}

Status GpuBackend::prepare_share(const KvShape& shape, std::unique_ptr<Backend> host) {
  if (host == nullptr) return {};
  const std::string host_name(host->name());
  VKV_TRY_ASSIGN(share, HostShare::make(shape, std::move(host)));
  share_ = std::move(share);
  name_.insert(name_.size() - 1, "; beside it " + host_name);
  return {};
}

Status GpuBackend::noted(Status status) {
  if (status.code() != Code::kCuda) return status;
  const cudaError_t now = cudaStreamQuery(stream_);
  (void)cudaGetLastError();
  if (now != cudaSuccess && now != cudaErrorNotReady)
    failure_ = {Code::kCuda, "the GPU no longer works for this process, since " + status.message() +
                                 "; close the cache and start a new process"};
  return status;
}

Status GpuBackend::attend(std::span<const AttendItem> items) {
  for (const AttendItem& item : items)
    if (!is_aligned(item.q) || !is_aligned(item.out))
      return {Code::kInvalidArgument, "q and out must be 16-byte aligned on device cuda"};
  const TraceRange trace("attend");
  return on_device([&]() -> Status {
    VKV_TRY(ahead_.begin_reading(stream_));
    std::vector<AttendItem> others;
    for (const AttendItem& item : items) {
      Status status(Code::kUnsupported, "");
      if (prefill_ && prefill_->pays(item)) status = prefill_->attend(item, stream_);
      if (status.code() == Code::kUnsupported)
        others.push_back(item);
      else
        VKV_TRY(status);
    }
    for (const std::vector<AttendItem>& wave : attend_waves(others, slots_max_))
      VKV_TRY(attend_.attend(wave, stream_));
    return ahead_.end_reading(stream_);
  });
}

Status GpuBackend::attend_shared(std::span<const AttendItem> items,
                                 std::span<const AttendItem> host_items, uint64_t device_bytes) {
  VKV_CHECK(can_share(host_items));
  VKV_TRY(on_device([&] { return share_->begin(host_items, device_bytes, stream_); }));
  VKV_TRY(attend(items));
  return on_device([&] { return share_->end(stream_); });
}

Result<uint64_t> GpuBackend::read_ahead(int label, const KvShape& shape,
                                        std::span<const std::span<const BlockView>> groups) {
  uint64_t bytes = 0;
  const Status status = on_device([&]() -> Status {
    VKV_TRY_ASSIGN(started, ahead_.start(label, shape, groups, stream_));
    bytes = started;
    return {};
  });
  VKV_TRY(status);
  return bytes;
}

Status GpuBackend::merge(std::span<const MergeItem> items) {
  return on_device([&]() -> Status {
    for (const MergeItem& item : items) VKV_TRY(launch_merge(item, stream_));
    return {};
  });
}

template <class Work>
Status GpuBackend::encoding(Work&& work) {
  const TraceRange trace("encode");
  return on_stream([&](cudaStream_t stream) -> Status {
    if (waits()) {
      VKV_TRY(work(stream));
      return encoder_.check(stream);
    }
    VKV_TRY_ASSIGN(error, late_.next_encode(label_, stream));
    encoder_.report_to(error);
    const Status queued = work(stream);
    encoder_.report_to(nullptr);
    const Status noted_down = late_.encoded(stream);
    return queued.ok() ? noted_down : queued;
  });
}

Status GpuBackend::encode(std::span<const EncodeItem> items) {
  return encoding([&](cudaStream_t stream) { return encoder_.encode(items, stream); });
}

Status GpuBackend::encode_headers(const EncodeItem& item) {
  const size_t values = item.rows.size() * static_cast<size_t>(item.shape.kv_heads) *
                        static_cast<size_t>(item.shape.head_dim);
  VKV_TRY(check_room(item.k_rotated ? values * sizeof(float) : 0, item.rows.size(),
                     "a header over a segment"));
  return encoding([&](cudaStream_t stream) { return encoder_.encode_headers(item, stream); });
}

Status GpuBackend::mean_key(const KvShape& shape, const OpenTokens& source,
                            std::span<const uint32_t> rows, float* mean) {
  VKV_TRY(check_room(0, rows.size(), "a mean key"));
  return on_stream(
      [&](cudaStream_t stream) { return encoder_.mean_key(shape, source, rows, mean, stream); });
}

Status GpuBackend::saliency(const SaliencyItem& item) {
  const size_t tokens = static_cast<size_t>(item.open.token_count);
  const size_t kv_heads = static_cast<size_t>(item.shape.kv_heads);
  VKV_TRY(check_room((tokens + static_cast<size_t>(item.shape.head_dim)) * kv_heads * sizeof(float),
                     tokens, "saliency"));
  return on_stream([&](cudaStream_t stream) -> Status {
    SaliencyItem on_gpu = item;
    on_gpu.score = reinterpret_cast<float*>(list_.data());
    VKV_TRY(encoder_.saliency(on_gpu, stream));
    VKV_TRY(copy_async(item.score, on_gpu.score, tokens, stream));
    return synchronize(stream);
  });
}

Status GpuBackend::squared_distances(const KvShape& shape, const OpenTokens& source,
                                     std::span<const uint32_t> rows, const float* mean,
                                     std::span<float> distances) {
  return on_stream([&](cudaStream_t stream) -> Status {
    const size_t kv_heads = static_cast<size_t>(shape.kv_heads);
    const size_t rows_max = std::min(kListValues / kv_heads, kListedRowsMax);
    float* const found = reinterpret_cast<float*>(list_.data());
    for (size_t first = 0; first < rows.size(); first += rows_max) {
      const auto some = rows.subspan(first, std::min(rows_max, rows.size() - first));
      VKV_TRY(encoder_.squared_distances(shape, source, some, mean, found, stream));
      VKV_TRY(
          copy_async(distances.data() + first * kv_heads, found, some.size() * kv_heads, stream));
      VKV_TRY(synchronize(stream));
    }
    return {};
  });
}

Result<std::optional<BadValue>> GpuBackend::append(std::span<const AppendItem> items) {
  const TraceRange trace("append");
  std::optional<BadValue> bad;
  const Status status = on_device([&]() -> Status {
    for (size_t first = 0; first < items.size(); first += kAppendItemsMax) {
      const auto some = items.subspan(first, std::min(kAppendItemsMax, items.size() - first));
      VKV_TRY_ASSIGN(late, late_.next_appends(some, stream_));
      VKV_TRY(launch_append(some, late.slots, late.found, stream_));
    }
    if (!waits()) return {};
    VKV_TRY_ASSIGN(errors, late_.take(stream_));
    if (errors.empty() || !errors.front().bad) return {};
    const SequenceId whose = errors.front().label.sequence;
    const auto item = std::ranges::find_if(
        items, [&](const AppendItem& one) { return one.label.sequence == whose; });
    VKV_CHECK(item != items.end());
    bad = errors.front().bad;
    bad->item = static_cast<size_t>(item - items.begin());
    return {};
  });
  VKV_TRY(status);
  return bad;
}

Result<std::vector<LateError>> GpuBackend::late_errors() {
  std::vector<LateError> errors;
  const Status status = on_device([&]() -> Status {
    VKV_TRY_ASSIGN(taken, late_.take(stream_));
    errors = std::move(taken);
    return share_ ? share_->failure() : Status();
  });
  VKV_TRY(status);
  return errors;
}

Result<uint64_t> GpuBackend::end_aside() {
  sealing_.reset();
  uint64_t stretch = 0;
  const Status status = on_device([&]() -> Status {
    VKV_TRY_ASSIGN(ended, side_.end());
    stretch = ended;
    return {};
  });
  VKV_TRY(status);
  return stretch;
}

Status GpuBackend::keep_rows(uint16_t* rows, size_t row_values, std::span<const uint32_t> kept) {
  return on_stream([&](cudaStream_t stream) -> Status {
    size_t first = 0;
    while (first < kept.size() && kept[first] == first) ++first;
    for (; first < kept.size(); first += kListValues) {
      const size_t count = std::min(kListValues, kept.size() - first);
      VKV_TRY(kept_ring_.copy(reinterpret_cast<std::byte*>(list_.data()),
                              reinterpret_cast<const std::byte*>(kept.data() + first),
                              count * sizeof(uint32_t), stream));
      VKV_TRY(launch_keep_rows({.rows = rows,
                                .row_values = row_values,
                                .kept = list_.data(),
                                .first = static_cast<uint32_t>(first),
                                .count = static_cast<uint32_t>(count)},
                               stream));
    }
    return {};
  });
}

Status GpuBackend::copy(void* target, const void* source, size_t byte_count) {
  if (byte_count == 0) return {};
  return on_stream([&](cudaStream_t stream) -> Status {
    // What was read ahead, came from the host's memory.
    if (!is_device_memory(target)) VKV_TRY(ahead_.stop(stream));
    return copy_async(static_cast<std::byte*>(target), static_cast<const std::byte*>(source),
                      byte_count, stream);
  });
}

Status GpuBackend::zero(std::span<std::byte> bytes) {
  if (bytes.empty()) return {};
  return on_stream([&](cudaStream_t stream) -> Status {
    if (!is_device_memory(bytes.data())) VKV_TRY(ahead_.stop(stream));
    return cuda_status(cudaMemsetAsync(bytes.data(), 0, bytes.size(), stream), "cudaMemsetAsync");
  });
}

Status GpuBackend::quiesce() {
  return on_stream([&](cudaStream_t stream) -> Status {
    VKV_TRY(ahead_.stop(stream));
    VKV_TRY(synchronize(stream));
    if (side_.stream() != nullptr) VKV_TRY(synchronize(side_.stream()));
    VKV_TRY(synchronize(stream_));
    marks_.all_reached();
    return {};
  });
}

}  // namespace

Result<GpuEngine> make_gpu_engine(GpuEngineOptions options) {
  VKV_TRY(check_device_index(options.device_index));
  const DeviceScope scope(options.device_index);
  VKV_TRY(scope.status());
  cudaDeviceProp properties{};
  VKV_TRY(cuda_status(cudaGetDeviceProperties(&properties, options.device_index),
                      "cudaGetDeviceProperties"));

  // 1. Attention: a head_dim with kernels, and the most partials of a call.
  const AttendItem smallest{.shape = options.shape, .q_len = 1};
  VKV_TRY(plan_attend({&smallest, 1}, 1, kSlotRowsMost).status());
  VKV_TRY_ASSIGN(channels, kernel_channels(options.shape.head_dim));
  int64_t slots_max = kSlotsMin;
  for (const int rows : {kRowsPerTile, kSlotRowsMost}) {
    VKV_TRY_ASSIGN(resident, resident_tasks(channels, rows));
    slots_max = std::max<int64_t>(slots_max, 2 * resident * properties.multiProcessorCount);
  }

  // 2. The parts, which take all their memory now.
  VKV_TRY_ASSIGN(encoder, GpuEncoder::make({.rows_max = kListedRowsMax, .room_bytes = kRoomBytes}));
  VKV_TRY_ASSIGN(attend, GpuAttend::make({.head_dim = options.shape.head_dim,
                                          .slots_max = slots_max,
                                          .table_bytes = kTableBytes}));
  auto backend = std::make_unique<GpuBackend>(options.device_index, std::string(properties.name),
                                              std::move(encoder), std::move(attend));
  VKV_TRY(backend->prepare(static_cast<cudaStream_t>(options.stream), slots_max));
  VKV_TRY(backend->prepare_prefill(options.shape));
  VKV_TRY(backend->prepare_share(options.shape, std::move(options.host)));

  GpuEngine engine;
  engine.work_bytes = backend->device_bytes();
  engine.work_bytes = round_up_bytes(engine.work_bytes, kExtentAlignment);
  engine.host_bytes = backend->host_bytes();
  engine.backend = std::move(backend);
  engine.device_memory = std::make_unique<GpuMemory>(options.device_index);
  engine.pinned_memory =
      std::make_unique<PinnedMemory>(options.device_index, std::move(options.host_pages));
  return Result<GpuEngine>(std::move(engine));
}

}  // namespace vkv
