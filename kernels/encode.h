// encode.h: 16-bit K and V -> records, on the GPU, with the bits of the CPU's encoder.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "runtime/base/backend.h"
#include "vkv/status.h"

typedef struct CUstream_st* cudaStream_t;  // as in CUDA's own headers

namespace vkv {

struct GpuEncoderOptions {
  uint32_t items_max = 1024;       // 1..32767 encoded at once; longer calls are split
  uint32_t rows_max = 128 * 1024;  // of those items whose rows are not one ascending run
  uint32_t calls_in_flight = 4;    // 1..16; the next waits until the first one's is done
  size_t room_bytes = 0;           // of rotated headers and saliency, at once; grows beyond
};

// Items are those of runtime/base/backend.h, but source.k, source.v, k_mean, v_mean, q, lse,
// shared_headers, record and score point to memory of the device, or to mapped pinned memory
// (CudaMemory::kPinned); source.k and source.v are 16-byte aligned. `rows` is host memory and is
// copied before a call returns.
//
// Calls queue work on `stream` of the device that was current in make() and return; they wait only
// where calls_in_flight are unfinished, and for what grows. What is wrong with a call itself is
// refused at once in the words of runtime/base/check.h, and then nothing was queued. What is wrong
// with the values is found by the device: check() has it. Results depend on nothing but the inputs.
//
// Calls may be queued on several streams; they are ordered by nothing but the streams, except that
// those with room of their own, encode_headers() of rotated K and saliency(), follow each other.
// One thread at a time.
class GpuEncoder {
 public:
  // Takes all device and pinned memory that encode() will need: some 0.3 KiB an item and 8 bytes a
  // row for each call in flight. Errors: kInvalidArgument, kOutOfMemory, kCuda.
  static Result<GpuEncoder> make(const GpuEncoderOptions& options = {});

  GpuEncoder(GpuEncoder&&) noexcept;
  GpuEncoder& operator=(GpuEncoder&&) noexcept;
  ~GpuEncoder();  // waits for the work queued

  // Writes every byte of each item's record, unless check() will name an error of that item.
  // Errors: kInvalidArgument, kUnsupported, kCuda.
  Status encode(std::span<const EncodeItem> items, cudaStream_t stream);

  // Headers over all of item.rows, [kv_heads], at item.record.
  Status encode_headers(const EncodeItem& item, cudaStream_t stream);

  // mean: [kv_heads, head_dim], of the device.
  Status mean_key(const KvShape& shape, const OpenTokens& source, std::span<const uint32_t> rows,
                  float* mean, cudaStream_t stream);

  // As the CPU's to some 1e-5 of the score: sums are of fp32 and in another order.
  Status saliency(const SaliencyItem& item, cudaStream_t stream);

  // ||k - mean||^2 of each row and KV head. mean: [kv_heads, head_dim]; distances: [rows,
  // kv_heads]; both of the device.
  Status squared_distances(const KvShape& shape, const OpenTokens& source,
                           std::span<const uint32_t> rows, const float* mean, float* distances,
                           cudaStream_t stream);

  // Waits for the work queued on `stream`; what other streams still run must be waited for before,
  // or its errors may be found by the next check(). Errors: kInvalidArgument in the words of the
  // CPU's encoder for the first item since the last check() with a value that is not finite or a
  // range that fp16 scales and zeros cannot hold; records of other items are right. kCuda.
  Status check(cudaStream_t stream);

  // Errors of the calls from now on go to this word of the device instead, which holds UINT64_MAX
  // before; check() does not see them. nullptr: as before. error_of() says what the word means.
  void report_to(uint64_t* first_error);
  static Status error_of(uint64_t word);

  // How often a call allocated memory: for more rows at once than options.rows_max (only
  // encode_headers, mean_key and squared_distances can have them), rotated headers and saliency.
  uint64_t growth_count() const;
  uint64_t device_bytes() const;  // of its own memory

 private:
  struct State;
  explicit GpuEncoder(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace vkv
