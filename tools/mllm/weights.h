// weights.h: tensors of a checkpoint, by name, whatever file they lie in.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vkv/status.h"

namespace vkv {

// Names and layout are those of transformers ("model.layers.0.self_attn.q_proj.weight"). Immutable;
// any thread may read.
class Weights {
 public:
  virtual ~Weights() = default;

  virtual const std::string& path() const = 0;  // of the file or folder, for messages
  virtual bool contains(std::string_view name) const = 0;

  // The tensor as fp32, row by row. Errors: kNotFound if there is none of that name,
  // kInvalidArgument if it has another shape, kUnsupported for a type that is not read.
  virtual Result<std::vector<float>> floats(std::string_view name,
                                            std::span<const int64_t> shape) const = 0;
  Result<std::vector<float>> floats(std::string_view name,
                                    std::initializer_list<int64_t> shape) const {
    return floats(name, std::span<const int64_t>(shape.begin(), shape.size()));
  }
};

// "[2, 3]"
std::string shape_text(std::span<const int64_t> shape);

// What both kinds of file say of a tensor that is missing or has another shape than asked for.
Status no_tensor(const Weights& weights, std::string_view name);
Status other_shape(const Weights& weights, std::string_view name, std::span<const int64_t> found,
                   std::span<const int64_t> asked);

}  // namespace vkv
