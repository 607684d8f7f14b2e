// prefill.h: attention of many queries: records decoded to fp16, then a library's kernel.
// SPDX-License-Identifier: Apache-2.0
//
// The kernels of gpu_attend.h read codes as they lie and are bound by memory; of 17 queries or more
// each code would be read, and its scale applied, for 4 or 8 rows at a time. Here a piece of the
// past becomes fp16 rows once, in work memory of a fixed size, and a kernel that is bound by
// products has all queries over it. Pieces are merged by their lse.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda_handles.h"
#include "kernels/cudnn_attention.h"
#include "kernels/prefill_work.h"
#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// How much of an item is in work memory at once.
struct PrefillLimits {
  int token_count = 0;  // of a piece
  int query_count = 0;  // of a call of the library; a multiple of 128
  int unit_count = 0;   // of a piece: blocks, and runs of open tokens
};

// 36,864 tokens and 4,096 queries, or what 72 and 32 MiB hold.
PrefillLimits prefill_limits(const KvShape& shape);

// Tokens that are in work memory together.
struct PrefillCut {
  std::vector<PrefillUnit> units;
  int token_count = 0;  // dead ones too
  bool any_bf16 = false;
  bool any_mask = false;  // some tokens may be dead
};

// The item's tokens in pieces, blocks first. Where it is causal, its own open tokens are all in the
// last piece; needs q_len <= limits.token_count / 2.
std::vector<PrefillCut> cut_prefill(const AttendItem& item, const PrefillLimits& limits);

// Not thread-safe. Owns work memory on the device that was current at make().
class GpuPrefill {
 public:
  // Errors: kUnsupported where there is no cuDNN or no kernel for the shape, in few words;
  // kOutOfMemory, kCuda.
  static Result<GpuPrefill> make(const KvShape& shape, cudaStream_t stream);
  static Result<GpuPrefill> make(const KvShape& shape, const PrefillLimits& limits,
                                 cudaStream_t stream);

  const std::string& library_version() const { return library_.version(); }
  uint64_t work_bytes() const { return work_bytes_; }

  // Whether this is the faster way. Depends on the item's shape, codecs and lengths alone.
  bool pays(const AttendItem& item) const;

  // As GpuAttend::attend() for one item of the shape with tokens, but K, V and queries are rounded
  // to fp16 once more: out is within 2e-3 of max|out|. Errors: kUnsupported where cuDNN has no
  // kernel for blocks with masks, and nothing of use is written; kCuda.
  Status attend(const AttendItem& item, cudaStream_t stream);

 private:
  GpuPrefill(const KvShape& shape, const PrefillLimits& limits, CudnnAttention library)
      : shape_(shape), limits_(limits), library_(std::move(library)) {}

  Status make_room(cudaStream_t stream);
  Status attend_some(const AttendItem& item, cudaStream_t stream);
  Status decode(const AttendItem& item, const PrefillCut& cut, cudaStream_t stream);
  Status attend_piece(const AttendItem& item, const PrefillCut& cut, bool is_first, bool is_last,
                      cudaStream_t stream);

  KvShape shape_;
  PrefillLimits limits_;
  CudnnAttention library_;
  uint64_t work_bytes_ = 0;
  CudaArray<uint16_t> k_, v_;      // [kv_heads, token_count, head_dim]
  CudaArray<uint16_t> q_, out_;    // [query_count, q_heads, head_dim]
  CudaArray<float> lse_;           // [q_heads, query_count]
  CudaArray<PrefillUnit> units_;   // [unit_count]
  CudaArray<int> unit_begin_;      // [unit_count + 1]
  CudaArray<int> counts_;          // [2]
  CudaArray<uint32_t> magnitude_;  // [2]
  CudaArray<std::byte> library_work_;
};

}  // namespace vkv
