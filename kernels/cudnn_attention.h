// cudnn_attention.h: attention over 16-bit K and V by cuDNN, where there is one.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "vkv/status.h"

namespace vkv {

// What a plan is made for. Everything is fp16 but sums, which are fp32.
struct CudnnAttentionShape {
  int q_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int query_count_max = 0;  // a multiple of 128
  int token_count_max = 0;  // a call has one less at most

  auto operator<=>(const CudnnAttentionShape&) const = default;
};

// Device memory, 16-byte aligned.
struct CudnnAttentionCall {
  int query_count = 0;
  int token_count = 0;
  const uint16_t* q = nullptr;  // [query_count, q_heads, head_dim]
  const uint16_t* k = nullptr;  // [kv_heads, token_count_max, head_dim], the first ones of it
  const uint16_t* v = nullptr;  // the same
  // [2]: how many queries and tokens there really are, the first ones; what is behind them must be
  // finite. nullptr: as many as said above.
  const int* live_counts = nullptr;
  // The last query sees all tokens, each one before it a token less. Else every query sees all.
  bool causal = false;
  uint16_t* out = nullptr;    // [query_count, q_heads, head_dim]
  float* lse = nullptr;       // [q_heads, query_count_max], natural
  std::byte* work = nullptr;  // [kCudnnWorkBytes]
};

inline constexpr size_t kCudnnWorkBytes = size_t{1} << 20;  // more than any plan has asked for

// Plans of the current device. The library is loaded by the first make() of a process. Plans are
// made when they are first needed, in 50 ms up to a second, and shared by all of a process. Not
// thread-safe, but two of these are.
class CudnnAttention {
 public:
  // Errors: kUnsupported, in some words, where the build or the machine has no cuDNN 9.18 or newer,
  // or cuDNN no kernel for the shape.
  static Result<CudnnAttention> make(const CudnnAttentionShape& shape);
  CudnnAttention(CudnnAttention&&) noexcept;
  CudnnAttention& operator=(CudnnAttention&&) noexcept;
  ~CudnnAttention();

  const std::string& version() const;  // "9.19.0"

  // Queued on the stream. Errors: kUnsupported where cuDNN has no kernel for live counts, which is
  // only found when they are first asked for; kCuda.
  Status run(const CudnnAttentionCall& call, cudaStream_t stream);

 private:
  struct State;
  explicit CudnnAttention(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace vkv
