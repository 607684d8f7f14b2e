// linear.cpp: y = activation(x W^T + b) by oneDNN, in fp32.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/linear.h"

#include <fmt/format.h>

namespace vkv {
namespace {

using dnnl::memory;

// The layout of the weight is chosen for this many rows: a prefill chunk. It also serves one row.
constexpr int64_t kLayoutRows = 256;
// Prompts come in any length: past this many different ones the cache starts anew.
constexpr size_t kPrimitivesMax = 32;

void append_activation(Activation activation, dnnl::post_ops& ops) {
  switch (activation) {
    case Activation::kNone:
      return;
    case Activation::kSilu:
      return ops.append_eltwise(dnnl::algorithm::eltwise_swish, 1.0f, 0.0f);
    case Activation::kQuickGelu:
      return ops.append_eltwise(dnnl::algorithm::eltwise_swish, 1.702f, 0.0f);
    case Activation::kGeluErf:
      return ops.append_eltwise(dnnl::algorithm::eltwise_gelu_erf, 0.0f, 0.0f);
    case Activation::kGeluTanh:
      return ops.append_eltwise(dnnl::algorithm::eltwise_gelu_tanh, 0.0f, 0.0f);
  }
}

}  // namespace

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

Status onednn_status(const char* what, const dnnl::error& error) {
  const Code code = error.status == dnnl_out_of_memory ? Code::kOutOfMemory : Code::kUnsupported;
  return {code, fmt::format("oneDNN: {}: {}", what, error.what())};
}

Result<Linear> Linear::make(int outputs, int inputs, const std::vector<float>& weight,
                            std::vector<float> bias, Activation activation) {
  VKV_CHECK(weight.size() == static_cast<size_t>(outputs) * static_cast<size_t>(inputs));
  VKV_CHECK(bias.empty() || bias.size() == static_cast<size_t>(outputs));
  Linear linear;
  linear.outputs_ = outputs;
  linear.inputs_ = inputs;
  linear.activation_ = activation;
  linear.bias_values_ = std::move(bias);
  try {
    const memory::desc any({inputs, outputs}, memory::data_type::f32, memory::format_tag::any);
    linear.packed_ = memory(linear.describe(kLayoutRows, false, any).weights_desc(), cpu_engine());
    const memory::desc plain({inputs, outputs}, memory::data_type::f32, memory::format_tag::ba);
    memory source(plain, cpu_engine(), const_cast<float*>(weight.data()));
    dnnl::stream stream(cpu_engine());
    dnnl::reorder(source, linear.packed_).execute(stream, source, linear.packed_);
    stream.wait();
  } catch (const dnnl::error& error) {
    return onednn_status("matmul weights", error);
  }
  return linear;
}

dnnl::matmul::primitive_desc Linear::describe(int64_t rows, bool add,
                                              const memory::desc& weight) const {
  const memory::desc x({rows, inputs_}, memory::data_type::f32, memory::format_tag::ab);
  const memory::desc y({rows, outputs_}, memory::data_type::f32, memory::format_tag::ab);
  dnnl::post_ops ops;
  if (add) ops.append_sum(1.0f);
  append_activation(activation_, ops);
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(ops);
  if (bias_values_.empty())
    return dnnl::matmul::primitive_desc(cpu_engine(), x, weight, y, attributes);
  const memory::desc bias({1, outputs_}, memory::data_type::f32, memory::format_tag::ab);
  return dnnl::matmul::primitive_desc(cpu_engine(), x, weight, bias, y, attributes);
}

Status Linear::run_add(const float* x, int64_t rows, float* y) {
  VKV_CHECK(activation_ == Activation::kNone);
  return execute(x, rows, y, true);
}

Status Linear::execute(const float* x, int64_t rows, float* y, bool add) {
  VKV_CHECK(rows >= 1);
  try {
    auto found = primitives_.find({rows, add});
    if (found == primitives_.end()) {
      if (primitives_.size() >= kPrimitivesMax) primitives_.clear();
      const dnnl::matmul matmul(describe(rows, add, packed_.get_desc()));
      found = primitives_.emplace(std::pair(rows, add), matmul).first;
    }
    const auto tensor = [](int64_t height, int width, const float* values) {
      return memory({{height, width}, memory::data_type::f32, memory::format_tag::ab}, cpu_engine(),
                    const_cast<float*>(values));
    };
    std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, tensor(rows, inputs_, x)},
                                                 {DNNL_ARG_WEIGHTS, packed_},
                                                 {DNNL_ARG_DST, tensor(rows, outputs_, y)}};
    if (!bias_values_.empty())
      arguments.emplace(DNNL_ARG_BIAS, tensor(1, outputs_, bias_values_.data()));
    dnnl::stream stream(cpu_engine());
    found->second.execute(stream, arguments);
    stream.wait();
  } catch (const dnnl::error& error) {
    return onednn_status("matmul", error);
  }
  return {};
}

}  // namespace vkv
