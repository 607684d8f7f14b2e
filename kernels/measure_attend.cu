// measure_attend.cu: records of random codes, and the clock around attention over them.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include "kernels/cuda_handles.h"
#include "kernels/gpu_attend.h"
#include "kernels/gpu_backend.h"
#include "kernels/measure_attend.h"

namespace vkv {
namespace {

constexpr uint64_t kCacheBytes = uint64_t{256} << 20;  // several times any L2
constexpr uint64_t kReadBytes = uint64_t{1} << 30;
constexpr int kRounds = 15;
constexpr unsigned kThreads = 512;

CudaMemory memory_of(Tier tier) {
  return tier == Tier::kHbm ? CudaMemory::kDevice : CudaMemory::kPinned;
}

__device__ uint32_t hash(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return static_cast<uint32_t>(x ^ (x >> 31));
}

// Records of `record` words, whose first `header` words are pairs of fp16: 2^-6 and -0.125 are as
// good as any; all others are random, and finite if read as fp16 or bf16.
__global__ void fill_records(uint32_t* words, uint64_t count, uint64_t record, uint64_t header) {
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < count;
       i += uint64_t{gridDim.x} * blockDim.x)
    words[i] = i % record < header ? 0x24002400u : hash(i) & 0xbfffbfffu;
}

__global__ void fill_floats(float* values, uint64_t count) {
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < count;
       i += uint64_t{gridDim.x} * blockDim.x)
    values[i] = static_cast<float>(hash(i) % 2001) / 1000.0f - 1.0f;
}

__global__ void __launch_bounds__(kThreads)
    read_all(const uint4* values, uint64_t count, uint32_t* sum) {
  uint32_t own = 0;
  const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
  uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x;
  for (; i + 3 * stride < count; i += 4 * stride) {
    uint4 four[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) four[j] = __ldcs(values + i + j * stride);
#pragma unroll
    for (int j = 0; j < 4; ++j) own ^= four[j].x ^ four[j].y ^ four[j].z ^ four[j].w;
  }
  if (own == 0x12345678u) *sum = own;  // never, but the compiler cannot know
}

__global__ void fill_halves(uint32_t* pairs, uint64_t count) {  // within +-2
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < count;
       i += uint64_t{gridDim.x} * blockDim.x)
    pairs[i] = hash(i) & 0xbfffbfffu;
}

// Seconds that `work` takes, of `rounds` rounds the median, after one to warm up.
Result<double> median_seconds(cudaStream_t stream, const std::function<Status()>& work) {
  VKV_TRY_ASSIGN(begin, make_event(EventKind::kTime));
  VKV_TRY_ASSIGN(end, make_event(EventKind::kTime));
  std::vector<double> seconds;
  for (int round = 0; round <= kRounds; ++round) {
    VKV_TRY(cuda_status(cudaEventRecord(begin.get(), stream), "cudaEventRecord"));
    VKV_TRY(work());
    VKV_TRY(cuda_status(cudaEventRecord(end.get(), stream), "cudaEventRecord"));
    VKV_TRY(synchronize(stream));
    float milliseconds = 0;
    VKV_TRY(cuda_status(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()),
                        "cudaEventElapsedTime"));
    if (round > 0) seconds.push_back(milliseconds * 1e-3);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRounds / 2, seconds.end());
  return seconds[kRounds / 2];
}

// The records of one layer and what attends to them.
struct Layer {
  CudaArray<std::byte> records;
  std::vector<BlockView> blocks;    // of all sequences
  std::vector<AttendItem> items;    // of all sequences
  std::optional<GpuAttend> attend;  // of few queries, prepared
};

// What all layers share.
struct Tokens {
  CudaArray<float> q, out, lse;
  CudaArray<uint16_t> own;  // K and V of the queries, of a chunk
};

Result<Layer> make_layer(const AttendMeasurementOptions& options, const Tokens& tokens,
                         cudaStream_t stream) {
  const KvShape& shape = options.shape;
  const int block_tokens = tokens_per_block(shape.head_dim);
  const BlockLayout full = block_layout(shape.kv_heads, shape.head_dim, options.codecs.k,
                                        options.codecs.v, block_tokens);
  const int blocks = (options.token_count + block_tokens - 1) / block_tokens;
  const size_t record_bytes = full.record_bytes();
  VKV_TRY_ASSIGN(records, CudaArray<std::byte>::make(record_bytes * static_cast<size_t>(blocks) *
                                                         static_cast<size_t>(options.batch),
                                                     memory_of(options.tier)));
  Layer layer{.records = std::move(records)};
  fill_records<<<1024, kThreads, 0, stream>>>(reinterpret_cast<uint32_t*>(layer.records.data()),
                                              layer.records.size() / 4, record_bytes / 4,
                                              full.headers_bytes() / 4);
  VKV_TRY(launch_status("fill_records"));
  for (int i = 0; i < blocks * options.batch; ++i) {
    const std::byte* record = layer.records.data() + static_cast<size_t>(i) * record_bytes;
    const int first = i % blocks * block_tokens;
    layer.blocks.push_back({.k_codec = options.codecs.k,
                            .v_codec = options.codecs.v,
                            .token_count = std::min(block_tokens, options.token_count - first),
                            .headers = record,
                            .payload = record + full.payload_offset()});
  }
  for (int i = 0; i < options.batch; ++i) {
    const size_t heads = static_cast<size_t>(i * options.q_len * shape.q_heads);
    AttendItem item = {
        .shape = shape,
        .scale = 0.1f,
        .q_len = options.q_len,
        .q = tokens.q.data() + heads * static_cast<size_t>(shape.head_dim),
        .blocks = std::span<const BlockView>(layer.blocks)
                      .subspan(static_cast<size_t>(i * blocks), static_cast<size_t>(blocks)),
        .out = tokens.out.data() + heads * static_cast<size_t>(shape.head_dim),
        .lse = tokens.lse.data() + heads};
    if (is_prefill(options)) {
      const uint16_t* const own = tokens.own.data();
      item.open = {.token_count = options.q_len, .k = own, .v = own + tokens.own.size() / 2};
      item.causal = true;
    }
    layer.items.push_back(item);
  }
  if (!is_prefill(options)) {
    VKV_TRY_ASSIGN(attend, GpuAttend::make());
    VKV_TRY(attend.prepare(layer.items, stream));
    layer.attend.emplace(std::move(attend));
  }
  return Result<Layer>(std::move(layer));
}

Result<Tokens> make_tokens(const AttendMeasurementOptions& options, cudaStream_t stream) {
  const KvShape& shape = options.shape;
  const size_t heads = static_cast<size_t>(options.batch * options.q_len * shape.q_heads);
  const size_t own = static_cast<size_t>(options.q_len * shape.kv_heads * shape.head_dim);
  VKV_TRY_ASSIGN(q, CudaArray<float>::make(heads * static_cast<size_t>(shape.head_dim)));
  VKV_TRY_ASSIGN(out, CudaArray<float>::make(q.size()));
  VKV_TRY_ASSIGN(lse, CudaArray<float>::make(heads));
  VKV_TRY_ASSIGN(halves, CudaArray<uint16_t>::make(2 * own));
  fill_floats<<<64, kThreads, 0, stream>>>(q.data(), q.size());
  VKV_TRY(launch_status("fill_floats"));
  fill_halves<<<64, kThreads, 0, stream>>>(reinterpret_cast<uint32_t*>(halves.data()), own);
  VKV_TRY(launch_status("fill_halves"));
  return Tokens{
      .q = std::move(q), .out = std::move(out), .lse = std::move(lse), .own = std::move(halves)};
}

// The engine of a cache, on the stream, for chunks.
Result<std::unique_ptr<Backend>> make_backend(const AttendMeasurementOptions& options,
                                              cudaStream_t stream) {
  int device = 0;
  VKV_TRY(cuda_status(cudaGetDevice(&device), "cudaGetDevice"));
  VKV_TRY_ASSIGN(
      engine, make_gpu_engine({.shape = options.shape, .device_index = device, .stream = stream}));
  return std::move(engine.backend);
}

// A query sees all records, and of its own chunk on average half the tokens.
double operations_of(const AttendMeasurementOptions& options) {
  const double seen = options.token_count + (is_prefill(options) ? (options.q_len + 1) / 2.0 : 0.0);
  return 4.0 * options.batch * options.q_len * options.shape.q_heads * options.shape.head_dim *
         seen;
}

}  // namespace

Result<AttendMeasurement> measure_attend(const AttendMeasurementOptions& options) {
  VKV_TRY_ASSIGN(stream, make_stream());
  VKV_TRY_ASSIGN(tokens, make_tokens(options, stream.get()));
  std::unique_ptr<Backend> backend;
  if (is_prefill(options)) {
    VKV_TRY_ASSIGN(made, make_backend(options, stream.get()));
    backend = std::move(made);
  }
  std::vector<Layer> layers;
  uint64_t bytes = 0;
  do {
    VKV_TRY_ASSIGN(layer, make_layer(options, tokens, stream.get()));
    bytes += layer.records.size();
    layers.push_back(std::move(layer));
  } while (bytes < kCacheBytes || layers.size() < 4);
  VKV_TRY_ASSIGN(
      seconds, median_seconds(stream.get(), [&]() -> Status {
        for (Layer& layer : layers)
          VKV_TRY(layer.attend ? layer.attend->run(stream.get()) : backend->attend(layer.items));
        return {};
      }));
  return AttendMeasurement{.record_bytes = bytes / layers.size(),
                           .operations = operations_of(options),
                           .seconds = seconds / static_cast<double>(layers.size()),
                           .engine = backend ? std::string(backend->name()) : ""};
}

Result<double> measure_read_speed(Tier tier, const std::function<void(bool)>& timing) {
  VKV_TRY_ASSIGN(stream, make_stream());
  VKV_TRY_ASSIGN(bytes, CudaArray<uint4>::make(kReadBytes / sizeof(uint4), memory_of(tier)));
  VKV_TRY_ASSIGN(sum, CudaArray<uint32_t>::make(1));
  VKV_TRY(
      cuda_status(cudaMemsetAsync(bytes.data(), 1, kReadBytes, stream.get()), "cudaMemsetAsync"));
  VKV_TRY(synchronize(stream.get()));
  if (timing) timing(true);
  const Result<double> seconds = median_seconds(stream.get(), [&]() -> Status {
    read_all<<<132 * 4, kThreads, 0, stream.get()>>>(bytes.data(), bytes.size(), sum.data());
    return launch_status("read_all");
  });
  if (timing) timing(false);
  VKV_TRY(seconds.status());
  return static_cast<double>(kReadBytes) / seconds.value();
}

}  // namespace vkv
