// gpu_backend.cpp: the parts of the GPU's engine on one stream, within fixed work memory.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/gpu_backend.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/cuda_handles.h"
#include "kernels/encode.h"
#include "kernels/gpu_attend.h"
#include "kernels/merge.h"
#include "kernels/prefill.h"
#include "kernels/rows.h"
#include "runtime/base/codec.h"

namespace vkv {
namespace {

// Work memory of an engine. Constants, so that a budget never changes how work is cut.
constexpr size_t kListValues = size_t{1} << 20;       // row indices, distances or scores at once
constexpr size_t kRoomBytes = size_t{24} << 20;       // of the encoder's calls that need some
constexpr size_t kTableBytes = size_t{8} << 20;       // of attention
constexpr size_t kListedRowsMax = size_t{256} << 10;  // of one call of the encoder
constexpr int64_t kSlotsMin = 4096;                   // partials of attention at once
constexpr int kSlotRows = 2 * kRowsPerTile;           // at most

// Makes a device current, and the one before at the end.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    status_ = cuda_status(cudaGetDevice(&before_), "cudaGetDevice");
    if (status_.ok() && before_ != device)
      status_ = cuda_status(cudaSetDevice(device), "cudaSetDevice");
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  ~DeviceScope() { (void)cudaSetDevice(before_); }

  const Status& status() const { return status_; }

 private:
  int before_ = 0;
  Status status_;
};

class GpuMemory final : public MemorySource {
 public:
  GpuMemory(int device, CudaMemory memory) : device_(device), memory_(memory) {}

  Result<std::byte*> map(uint64_t byte_count) override {
    const DeviceScope scope(device_);
    VKV_TRY(scope.status());
    VKV_TRY_ASSIGN(array, CudaArray<std::byte>::make(byte_count, memory_));
    pieces_.push_back(std::move(array));
    return pieces_.back().data();
  }

  void unmap(std::byte* data, uint64_t) override {
    const DeviceScope scope(device_);
    (void)cudaDeviceSynchronize();  // kernels may still use it
    const auto piece = std::find_if(pieces_.begin(), pieces_.end(),
                                    [&](const auto& array) { return array.data() == data; });
    VKV_CHECK(piece != pieces_.end());
    pieces_.erase(piece);
  }

 private:
  const int device_;
  const CudaMemory memory_;
  std::vector<CudaArray<std::byte>> pieces_;
};

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
    (void)cudaStreamSynchronize(stream_);  // what failed was reported, or nobody asked
  }

  // The rest of the construction, on the device. Errors: kOutOfMemory, kCuda.
  Status prepare(cudaStream_t stream, int64_t slots_max);
  // Has many queries go another way, or says in name() why none do. Errors: kOutOfMemory, kCuda.
  Status prepare_prefill(const KvShape& shape);

  std::string_view name() const override { return name_; }
  bool cuts_attention() const override { return true; }

  Status attend(std::span<const AttendItem> items) override;
  Status merge(std::span<const MergeItem> items) override;
  Status encode(std::span<const EncodeItem> items) override;
  Status encode_headers(const EncodeItem& item) override;
  Status mean_key(const KvShape& shape, const OpenTokens& source, std::span<const uint32_t> rows,
                  float* mean) override;
  Status saliency(const SaliencyItem& item) override;
  Status squared_distances(const KvShape& shape, const OpenTokens& source,
                           std::span<const uint32_t> rows, const float* mean,
                           std::span<float> distances) override;
  Result<std::optional<BadValue>> append(const AppendItem& item) override;
  Status to_float(ElementType element, const void* source, float* target, size_t count) override;
  Status from_float(ElementType element, const float* source, void* target, size_t count) override;
  Status keep_rows(uint16_t* rows, size_t row_values, std::span<const uint32_t> kept) override;
  Status copy(void* target, const void* source, size_t byte_count) override;
  Status zero(std::span<std::byte> bytes) override;
  Status finish() override;

  uint64_t fixed_bytes() const {
    return encoder_.device_bytes() + kListValues * sizeof(float) +
           (prefill_ ? prefill_->work_bytes() : 0);
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
  Status noted(Status status);
  // Slots of attention that so many queries of an item take, at most, and blocks of their tasks.
  int64_t groups_of(const AttendItem& item, int q_count) const;
  int64_t task_blocks_of(const AttendItem& item, int64_t groups) const;
  int queries_that_fit(const AttendItem& item, int q_begin, int64_t groups, int64_t blocks) const;
  Status check_room(size_t byte_count, size_t row_count, const char* purpose) const;
  Status first_bad_value(const AppendItem& item, std::optional<BadValue>& bad);

  const int device_;
  std::string name_;
  CudaStream own_stream_;  // empty where the caller gave one
  cudaStream_t stream_ = nullptr;
  GpuEncoder encoder_;
  GpuAttend attend_;
  std::optional<GpuPrefill> prefill_;
  int64_t slots_max_ = 0;
  CudaArray<uint32_t> list_;         // [kListValues]: what a call carries to the device, or back
  CudaArray<uint64_t> first_bad_;    // [2]: kNoBadValue between calls
  CudaArray<uint64_t> from_device_;  // [2], pinned
  Status failure_;                   // that the device does not recover from
};

Status GpuBackend::prepare(cudaStream_t stream, int64_t slots_max) {
  stream_ = stream;
  slots_max_ = slots_max;
  if (stream_ == nullptr) {
    VKV_TRY_ASSIGN(own, make_stream());
    own_stream_ = std::move(own);
    stream_ = own_stream_.get();
  }
  VKV_TRY_ASSIGN(list, CudaArray<uint32_t>::make(kListValues));
  list_ = std::move(list);
  VKV_TRY_ASSIGN(first_bad, CudaArray<uint64_t>::make(2));
  first_bad_ = std::move(first_bad);
  VKV_TRY_ASSIGN(from_device, CudaArray<uint64_t>::make(2, CudaMemory::kPinned));
  from_device_ = std::move(from_device);
  VKV_TRY(cuda_status(cudaMemsetAsync(first_bad_.data(), 0xff, 2 * sizeof(uint64_t), stream_),
                      "cudaMemsetAsync"));
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

Status GpuBackend::noted(Status status) {
  if (status.code() != Code::kCuda) return status;
  const cudaError_t now = cudaStreamQuery(stream_);
  (void)cudaGetLastError();
  if (now != cudaSuccess && now != cudaErrorNotReady)
    failure_ = {Code::kCuda, "the GPU no longer works for this process, since " + status.message() +
                                 "; close the cache and start a new process"};
  return status;
}

int64_t GpuBackend::groups_of(const AttendItem& item, int q_count) const {
  const int64_t rows = int64_t{q_count} * item.shape.group();
  return (rows + kSlotRows / 2 - 1) / (kSlotRows / 2) * item.shape.kv_heads;
}

int64_t GpuBackend::task_blocks_of(const AttendItem& item, int64_t groups) const {
  const int64_t open_tokens = tokens_per_block(item.shape.head_dim);
  const int64_t units = static_cast<int64_t>(item.blocks.size()) +
                        (item.open.token_count + open_tokens - 1) / open_tokens;
  return groups * (units + kTaskUnitsMax - 1) / kTaskUnitsMax;
}

int GpuBackend::queries_that_fit(const AttendItem& item, int q_begin, int64_t groups,
                                 int64_t blocks) const {
  // Slots are no more than groups, and one more for each task that a group is cut into.
  const int rest = item.q_len - q_begin;
  for (int count = rest; count > 0; count /= 2) {
    const int64_t more = groups_of(item, count);
    if (groups + more + blocks + task_blocks_of(item, more) <= slots_max_ / 2) return count;
  }
  return 0;
}

Status GpuBackend::attend(std::span<const AttendItem> items) {
  for (const AttendItem& item : items)
    if (!is_aligned(item.q) || !is_aligned(item.out))
      return {Code::kInvalidArgument, "q and out must be 16-byte aligned on device cuda"};
  return on_device([&]() -> Status {
    std::vector<AttendItem> wave;
    int64_t groups = 0, blocks = 0;
    const auto flush = [&]() -> Status {
      VKV_TRY(attend_.attend(wave, stream_));
      wave.clear();
      groups = blocks = 0;
      return {};
    };
    for (const AttendItem& item : items) {
      if (prefill_ && prefill_->pays(item)) {
        Status status = prefill_->attend(item, stream_);
        if (status.ok()) continue;
        if (status.code() != Code::kUnsupported) return status;  // else as below
      }
      for (int q_begin = 0; q_begin < item.q_len;) {
        int count = queries_that_fit(item, q_begin, groups, blocks);
        if (count == 0 && !wave.empty()) {
          VKV_TRY(flush());
          continue;
        }
        count = std::max(count, 1);
        const size_t at = static_cast<size_t>(q_begin) * static_cast<size_t>(item.shape.q_heads);
        const size_t head_dim = static_cast<size_t>(item.shape.head_dim);
        AttendItem part = item;
        part.q = item.q + at * head_dim;
        part.out = item.out + at * head_dim;
        part.lse = item.lse + at;
        part.q_len = count;
        // Later queries of the item see later open tokens: leave those out.
        if (item.causal) part.open.token_count -= item.q_len - (q_begin + count);
        wave.push_back(part);
        const int64_t more = groups_of(item, count);
        groups += more;
        blocks += task_blocks_of(item, more);
        q_begin += count;
      }
    }
    return wave.empty() ? Status() : flush();
  });
}

Status GpuBackend::merge(std::span<const MergeItem> items) {
  return on_device([&]() -> Status {
    for (const MergeItem& item : items) VKV_TRY(launch_merge(item, stream_));
    return {};
  });
}

Status GpuBackend::check_room(size_t byte_count, size_t row_count, const char* purpose) const {
  if (byte_count <= kRoomBytes && row_count <= kListedRowsMax) return {};
  return {Code::kOutOfMemory,
          "hbm tier: " + std::string(purpose) + " of " + std::to_string(row_count) +
              " tokens needs " + std::to_string(byte_count) + " bytes; its work memory is " +
              std::to_string(kRoomBytes) + " bytes and " + std::to_string(kListedRowsMax) +
              " tokens: prefill in smaller windows"};
}

Status GpuBackend::encode(std::span<const EncodeItem> items) {
  return on_device([&]() -> Status {
    VKV_TRY(encoder_.encode(items, stream_));
    return encoder_.check(stream_);
  });
}

Status GpuBackend::encode_headers(const EncodeItem& item) {
  const size_t values = item.rows.size() * static_cast<size_t>(item.shape.kv_heads) *
                        static_cast<size_t>(item.shape.head_dim);
  VKV_TRY(check_room(item.k_rotated ? values * sizeof(float) : 0, item.rows.size(),
                     "a header over a segment"));
  return on_device([&]() -> Status {
    VKV_TRY(encoder_.encode_headers(item, stream_));
    return encoder_.check(stream_);
  });
}

Status GpuBackend::mean_key(const KvShape& shape, const OpenTokens& source,
                            std::span<const uint32_t> rows, float* mean) {
  VKV_TRY(check_room(0, rows.size(), "a mean key"));
  return on_device([&] { return encoder_.mean_key(shape, source, rows, mean, stream_); });
}

Status GpuBackend::saliency(const SaliencyItem& item) {
  const size_t tokens = static_cast<size_t>(item.open.token_count);
  const size_t kv_heads = static_cast<size_t>(item.shape.kv_heads);
  VKV_TRY(check_room((tokens + static_cast<size_t>(item.shape.head_dim)) * kv_heads * sizeof(float),
                     tokens, "saliency"));
  return on_device([&]() -> Status {
    SaliencyItem on_gpu = item;
    on_gpu.score = reinterpret_cast<float*>(list_.data());
    VKV_TRY(encoder_.saliency(on_gpu, stream_));
    VKV_TRY(copy_async(item.score, on_gpu.score, tokens, stream_));
    return synchronize(stream_);
  });
}

Status GpuBackend::squared_distances(const KvShape& shape, const OpenTokens& source,
                                     std::span<const uint32_t> rows, const float* mean,
                                     std::span<float> distances) {
  return on_device([&]() -> Status {
    const size_t kv_heads = static_cast<size_t>(shape.kv_heads);
    const size_t rows_max = std::min(kListValues / kv_heads, kListedRowsMax);
    float* const found = reinterpret_cast<float*>(list_.data());
    for (size_t first = 0; first < rows.size(); first += rows_max) {
      const auto some = rows.subspan(first, std::min(rows_max, rows.size() - first));
      VKV_TRY(encoder_.squared_distances(shape, source, some, mean, found, stream_));
      VKV_TRY(
          copy_async(distances.data() + first * kv_heads, found, some.size() * kv_heads, stream_));
      VKV_TRY(synchronize(stream_));
    }
    return {};
  });
}

Result<std::optional<BadValue>> GpuBackend::append(const AppendItem& item) {
  std::optional<BadValue> bad;
  const Status status = on_device([&]() -> Status {
    VKV_TRY(launch_append(item, first_bad_.data(), stream_));
    VKV_TRY(copy_async(from_device_.data(), first_bad_.data(), 2, stream_));
    VKV_TRY(synchronize(stream_));
    return first_bad_value(item, bad);
  });
  VKV_TRY(status);
  return bad;
}

Status GpuBackend::first_bad_value(const AppendItem& item, std::optional<BadValue>& bad) {
  const uint64_t in_k = from_device_.data()[0], in_v = from_device_.data()[1];
  if (in_k == kNoBadValue && in_v == kNoBadValue) return {};
  bad = BadValue{.of_v = in_k == kNoBadValue, .index = in_k == kNoBadValue ? in_v : in_k};
  const size_t bytes = item.element == ElementType::kF32 ? sizeof(float) : sizeof(uint16_t);
  const auto* source = static_cast<const std::byte*>(bad->of_v ? item.v : item.k);
  auto* const target = reinterpret_cast<std::byte*>(from_device_.data());
  VKV_TRY(copy_async(target, source + bad->index * bytes, bytes, stream_));
  VKV_TRY(cuda_status(cudaMemsetAsync(first_bad_.data(), 0xff, 2 * sizeof(uint64_t), stream_),
                      "cudaMemsetAsync"));
  VKV_TRY(synchronize(stream_));
  const uint64_t bits = from_device_.data()[0];
  bad->value = item.element == ElementType::kF32
                   ? std::bit_cast<float>(static_cast<uint32_t>(bits))
                   : float_from_16_bit(codec_of(item.element), static_cast<uint16_t>(bits));
  return {};
}

Status GpuBackend::to_float(ElementType element, const void* source, float* target, size_t count) {
  return on_device([&] { return launch_to_float(element, source, target, count, stream_); });
}

Status GpuBackend::from_float(ElementType element, const float* source, void* target,
                              size_t count) {
  return on_device([&] { return launch_from_float(element, source, target, count, stream_); });
}

Status GpuBackend::keep_rows(uint16_t* rows, size_t row_values, std::span<const uint32_t> kept) {
  return on_device([&]() -> Status {
    size_t first = 0;
    while (first < kept.size() && kept[first] == first) ++first;
    for (; first < kept.size(); first += kListValues) {
      const size_t count = std::min(kListValues, kept.size() - first);
      VKV_TRY(copy_async(list_.data(), kept.data() + first, count, stream_));
      VKV_TRY(launch_keep_rows({.rows = rows,
                                .row_values = row_values,
                                .kept = list_.data(),
                                .first = static_cast<uint32_t>(first),
                                .count = static_cast<uint32_t>(count)},
                               stream_));
    }
    return {};
  });
}

Status GpuBackend::copy(void* target, const void* source, size_t byte_count) {
  if (byte_count == 0) return {};
  return on_device([&] {
    return copy_async(static_cast<std::byte*>(target), static_cast<const std::byte*>(source),
                      byte_count, stream_);
  });
}

Status GpuBackend::zero(std::span<std::byte> bytes) {
  if (bytes.empty()) return {};
  return on_device([&] {
    return cuda_status(cudaMemsetAsync(bytes.data(), 0, bytes.size(), stream_), "cudaMemsetAsync");
  });
}

Status GpuBackend::finish() {
  if (own_stream_.get() == nullptr) return {};
  return on_device([&] { return synchronize(stream_); });
}

Status check_device_index(int index) {
  int count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted == cudaErrorNoDevice || counted == cudaErrorInsufficientDriver ||
      counted == cudaErrorStubLibrary)
    return {Code::kUnsupported,
            "device cuda: " + cuda_status(counted, "cudaGetDeviceCount").message()};
  VKV_TRY(cuda_status(counted, "cudaGetDeviceCount"));
  if (index < 0 || index >= count)
    return {Code::kInvalidArgument, "device_index is " + std::to_string(index) + "; CUDA sees " +
                                        std::to_string(count) + " device" +
                                        (count == 1 ? "" : "s")};
  return {};
}

}  // namespace

Result<GpuEngine> make_gpu_engine(const GpuEngineOptions& options) {
  VKV_TRY(check_device_index(options.device_index));
  const DeviceScope scope(options.device_index);
  VKV_TRY(scope.status());
  cudaDeviceProp properties{};
  VKV_TRY(cuda_status(cudaGetDeviceProperties(&properties, options.device_index),
                      "cudaGetDeviceProperties"));

  // 1. Attention: a head_dim with kernels, and the most partials of a call.
  const AttendItem smallest{.shape = options.shape, .q_len = 1};
  VKV_TRY(plan_attend({&smallest, 1}, 1, kSlotRows).status());
  const int channels = padded_channels(options.shape.head_dim) <= 128
                           ? padded_channels(options.shape.head_dim)
                           : kHeadDimMax;
  int64_t slots_max = kSlotsMin;
  for (const int rows : {kSlotRows / 2, kSlotRows}) {
    VKV_TRY_ASSIGN(resident, resident_tasks(channels, rows));
    slots_max = std::max<int64_t>(slots_max, 2 * resident * properties.multiProcessorCount);
  }
  const uint64_t slot_bytes =
      static_cast<uint64_t>(kSlotRows) * static_cast<uint64_t>(channels + 2) * sizeof(float);

  // 2. The parts.
  VKV_TRY_ASSIGN(encoder, GpuEncoder::make());
  VKV_TRY_ASSIGN(attend, GpuAttend::make());
  auto backend = std::make_unique<GpuBackend>(options.device_index, std::string(properties.name),
                                              std::move(encoder), std::move(attend));
  VKV_TRY(backend->prepare(static_cast<cudaStream_t>(options.stream), slots_max));
  VKV_TRY(backend->prepare_prefill(options.shape));

  // Attention takes half as much again where it grows.
  GpuEngine engine;
  engine.work_bytes = backend->fixed_bytes() + kRoomBytes + kTableBytes +
                      static_cast<uint64_t>(slots_max) * slot_bytes * 3 / 2;
  engine.work_bytes = round_up_bytes(engine.work_bytes, kExtentAlignment);
  engine.backend = std::move(backend);
  engine.device_memory = std::make_unique<GpuMemory>(options.device_index, CudaMemory::kDevice);
  engine.pinned_memory = std::make_unique<GpuMemory>(options.device_index, CudaMemory::kPinned);
  return Result<GpuEngine>(std::move(engine));
}

}  // namespace vkv
