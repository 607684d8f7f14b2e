// encode_bench.cu: random K and V, each codec pair timed by events on the device.
// SPDX-License-Identifier: Apache-2.0
#include <cuda_fp16.h>

#include <algorithm>
#include <numeric>

#include "kernels/cuda_handles.h"
#include "kernels/encode.h"
#include "kernels/encode_bench.h"
#include "runtime/base/hadamard.h"
#include "runtime/base/stopwatch.h"

namespace vkv {
namespace {

constexpr int kBlockTokens = 128;
constexpr int kThreads = 256;
constexpr uint64_t kHeadStartNs = 4'000'000;  // longer than the host needs for a call

__device__ float uniform(uint64_t seed) {  // splitmix64; above 0, up to 1
  seed += 0x9e3779b97f4a7c15ull;
  seed = (seed ^ seed >> 30) * 0xbf58476d1ce4e5b9ull;
  seed = (seed ^ seed >> 27) * 0x94d049bb133111ebull;
  return static_cast<float>((seed ^ seed >> 31) >> 40) * 0x1p-24f + 0x1p-25f;
}

__device__ float normal(uint64_t seed) {
  return sqrtf(-2.0f * logf(uniform(2 * seed))) * cospif(2.0f * uniform(2 * seed + 1));
}

// Normal values with an offset and a size of its own for each of `width` channels.
__global__ void fill_kernel(uint16_t* values, size_t count, int width) {
  const size_t step = static_cast<size_t>(gridDim.x) * kThreads;
  for (size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const uint64_t channel = i % width;
    const float offset = 3.0f * normal((uint64_t{1} << 40) + channel);
    const float size = expf(0.5f * normal((uint64_t{1} << 41) + channel));
    values[i] = __half_as_ushort(__float2half_rn(offset + size * normal(i)));
  }
}

__global__ void read_kernel(const uint4* values, size_t count, uint32_t* never) {
  const size_t step = static_cast<size_t>(gridDim.x) * kThreads;
  uint32_t all = 0;
  size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (; i + 3 * step < count; i += 4 * step) {
    const uint4 a = values[i], b = values[i + step], c = values[i + 2 * step],
                d = values[i + 3 * step];
    all |= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w;
    all |= c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
  }
  for (; i < count; i += step) all |= values[i].x ^ values[i].w;
  if (all == 0) *never = 1;  // random values leave no bit at 0
}

// Keeps the stream busy while the host queues what is to be timed.
__global__ void wait_kernel(uint64_t ns) {
  uint64_t begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  while (now - begin < ns);
}

struct Times {
  double device_us, host_us;
};

double median(std::vector<double>& values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

template <class Call>
Result<Times> time_call(int repetitions, cudaStream_t stream, const Call& call) {
  VKV_TRY_ASSIGN(begin, make_event(EventKind::kTime));
  VKV_TRY_ASSIGN(end, make_event(EventKind::kTime));
  std::vector<double> device_us, host_us;
  for (int i = 0; i <= repetitions; ++i) {
    wait_kernel<<<1, 1, 0, stream>>>(kHeadStartNs);
    VKV_TRY(launch_status("wait_kernel"));
    VKV_TRY(cuda_status(cudaEventRecord(begin.get(), stream), "cudaEventRecord"));
    const Stopwatch stopwatch;
    VKV_TRY(call());
    const double seconds = stopwatch.seconds();
    VKV_TRY(cuda_status(cudaEventRecord(end.get(), stream), "cudaEventRecord"));
    VKV_TRY(synchronize(stream));
    float ms = 0;
    VKV_TRY(cuda_status(cudaEventElapsedTime(&ms, begin.get(), end.get()), "cudaEventElapsedTime"));
    if (i == 0) continue;
    device_us.push_back(double{ms} * 1e3);
    host_us.push_back(seconds * 1e6);
  }
  return Times{median(device_us), median(host_us)};
}

struct Pair {
  const char* what;
  Codec codec;
  bool k_rotated, v_per_token;
};

constexpr Pair kPairs[] = {{"F16 / F16", Codec::kF16, false, false},
                           {"I8 / I8", Codec::kI8, false, false},
                           {"I4 / I4", Codec::kI4, false, false},
                           {"I2 / I2", Codec::kI2, false, false},
                           {"I1 / I1", Codec::kI1, false, false},
                           {"I4 / I4 per token", Codec::kI4, false, true},
                           {"I2 rotated / I2 per token", Codec::kI2, true, true},
                           {"I1 rotated / I1 per token", Codec::kI1, true, true}};

Status check_arguments(const GpuEncodeBenchArguments& arguments) {
  if (arguments.blocks < 1 || arguments.kv_heads < 1 || arguments.repetitions < 1)
    return {Code::kInvalidArgument, "blocks, kv_heads and repetitions must be positive"};
  if (arguments.head_dim < 8 || arguments.head_dim > kHeadDimMax || arguments.head_dim % 8 != 0)
    return {Code::kInvalidArgument, "head_dim is " + std::to_string(arguments.head_dim) +
                                        "; it must be a multiple of 8 from 8 to 256"};
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    (void)cudaGetLastError();
    return {Code::kUnsupported, "there is no GPU"};
  }
  return {};
}

// Everything in place for one codec pair after another.
struct Bench {
  GpuEncodeBenchArguments arguments;
  KvShape shape;
  size_t block_values = 0;
  CudaStream stream;
  CudaArray<uint16_t> source;  // [blocks][K, V][tokens, kv_heads, head_dim]
  CudaArray<std::byte> records;
  CudaArray<float> mean;
  GpuEncoder encoder;
  std::vector<uint32_t> rows;

  Result<GpuEncodeBenchRow> measure(const Pair& pair);
};

Result<GpuEncodeBenchRow> Bench::measure(const Pair& pair) {
  std::vector<EncodeItem> items;
  size_t record_bytes = 0;
  for (int i = 0; i < arguments.blocks; ++i) {
    const uint16_t* k = source.data() + 2 * block_values * static_cast<size_t>(i);
    EncodeItem item = {.shape = shape,
                       .k_codec = pair.codec,
                       .v_codec = pair.codec,
                       .k_rotated = pair.k_rotated,
                       .v_per_token = pair.v_per_token,
                       .source = {.codec = Codec::kF16,
                                  .token_count = kBlockTokens,
                                  .k = k,
                                  .v = k + block_values},
                       .rows = rows,
                       .k_mean = mean.data()};
    record_bytes = block_layout(item).record_bytes();
    item.record = {records.data() + record_bytes * static_cast<size_t>(i), record_bytes};
    items.push_back(item);
  }
  VKV_TRY_ASSIGN(times, time_call(arguments.repetitions, stream.get(),
                                  [&] { return encoder.encode(items, stream.get()); }));
  VKV_TRY(encoder.check(stream.get()));
  const double moved =
      static_cast<double>(arguments.blocks) * static_cast<double>(4 * block_values + record_bytes);
  return GpuEncodeBenchRow{.what = pair.what,
                           .moved_mb = moved / 1e6,
                           .us = times.device_us,
                           .host_us = times.host_us,
                           .gb_s = moved / times.device_us / 1e3};
}

Result<Bench> make_bench(const GpuEncodeBenchArguments& arguments) {
  const KvShape shape = {.layers = 1,
                         .q_heads = arguments.kv_heads,
                         .kv_heads = arguments.kv_heads,
                         .head_dim = arguments.head_dim};
  const size_t width = static_cast<size_t>(shape.kv_heads) * static_cast<size_t>(shape.head_dim);
  const size_t block_values = width * kBlockTokens, blocks = static_cast<size_t>(arguments.blocks);
  const size_t record_max =
      block_layout(shape.kv_heads, shape.head_dim, Codec::kF16, Codec::kF16, kBlockTokens)
          .record_bytes();
  VKV_TRY_ASSIGN(stream, make_stream());
  VKV_TRY_ASSIGN(source, CudaArray<uint16_t>::make(2 * block_values * blocks));
  VKV_TRY_ASSIGN(records, CudaArray<std::byte>::make(record_max * blocks));
  VKV_TRY_ASSIGN(mean, CudaArray<float>::make(width));
  VKV_TRY_ASSIGN(encoder, GpuEncoder::make({.items_max = static_cast<uint32_t>(arguments.blocks)}));
  fill_kernel<<<4096, kThreads, 0, stream.get()>>>(source.data(), source.size(),
                                                   static_cast<int>(width));
  VKV_TRY(launch_status("fill_kernel"));
  std::vector<uint32_t> rows(kBlockTokens);
  std::iota(rows.begin(), rows.end(), 0u);
  VKV_TRY(encoder.mean_key(
      shape,
      {.codec = Codec::kF16, .token_count = kBlockTokens, .k = source.data(), .v = source.data()},
      rows, mean.data(), stream.get()));
  VKV_TRY(encoder.check(stream.get()));
  return Bench{
      arguments,          shape,           block_values,       std::move(stream), std::move(source),
      std::move(records), std::move(mean), std::move(encoder), std::move(rows)};
}

}  // namespace

Result<GpuEncodeBench> bench_gpu_encode(const GpuEncodeBenchArguments& arguments) {
  VKV_TRY(check_arguments(arguments));
  int device = 0;
  cudaDeviceProp properties{};
  VKV_TRY(cuda_status(cudaGetDevice(&device), "cudaGetDevice"));
  VKV_TRY(cuda_status(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties"));
  VKV_TRY_ASSIGN(bench, make_bench(arguments));
  GpuEncodeBench result = {.device = properties.name};

  const size_t read_bytes = bench.source.size() * sizeof(uint16_t);
  VKV_TRY_ASSIGN(read, time_call(arguments.repetitions, bench.stream.get(), [&] {
                   read_kernel<<<static_cast<uint32_t>(properties.multiProcessorCount) * 8,
                                 kThreads, 0, bench.stream.get()>>>(
                       reinterpret_cast<const uint4*>(bench.source.data()),
                       read_bytes / sizeof(uint4),
                       reinterpret_cast<uint32_t*>(bench.records.data()));
                   return launch_status("read_kernel");
                 }));
  result.read_gb_s = static_cast<double>(read_bytes) / read.device_us / 1e3;

  for (const Pair& pair : kPairs) {
    if (pair.k_rotated && !is_power_of_two(arguments.head_dim)) continue;
    VKV_TRY_ASSIGN(row, bench.measure(pair));
    row.of_read = row.gb_s / result.read_gb_s;
    result.rows.push_back(row);
  }
  return result;
}

}  // namespace vkv
