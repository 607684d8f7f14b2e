// linear.h: y = activation(x W^T + b) by oneDNN, in fp32.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <utility>
#include <vector>

#include "tools/mllm/model_config.h"
#include "vkv/status.h"

namespace vkv {

// The one CPU engine of the process; made at the first call.
const dnnl::engine& cpu_engine();

// What oneDNN throws becomes a status: `what` names the operation.
Status onednn_status(const char* what, const dnnl::error& error);

// Not thread-safe: run() fills a cache of primitives. Runs on the TBB arena of the caller.
class Linear {
 public:
  // `weight` [outputs, inputs], as checkpoints store it; `bias` [outputs] or empty.
  // Errors: kUnsupported or kOutOfMemory with oneDNN's message.
  static Result<Linear> make(int outputs, int inputs, const std::vector<float>& weight,
                             std::vector<float> bias, Activation activation);

  // y [rows, outputs] from x [rows, inputs]; they do not overlap. rows >= 1.
  Status run(const float* x, int64_t rows, float* y) { return execute(x, rows, y, false); }

  // y += x W^T + b, for residual streams; only without activation.
  Status run_add(const float* x, int64_t rows, float* y);

  uint64_t bytes() const { return packed_.get_desc().get_size() + bias_values_.size() * 4; }

 private:
  Linear() = default;
  dnnl::matmul::primitive_desc describe(int64_t rows, bool add,
                                        const dnnl::memory::desc& weight) const;
  Status execute(const float* x, int64_t rows, float* y, bool add);

  int outputs_ = 0;
  int inputs_ = 0;
  Activation activation_ = Activation::kNone;
  std::vector<float> bias_values_;
  dnnl::memory packed_;  // the weight in the layout that oneDNN likes best
  std::map<std::pair<int64_t, bool>, dnnl::matmul> primitives_;  // by rows, add
};

}  // namespace vkv
