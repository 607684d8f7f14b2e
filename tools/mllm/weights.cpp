// weights.cpp: tensors of a checkpoint, by name, whatever file they lie in.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/weights.h"

#include <fmt/format.h>

namespace vkv {

std::string shape_text(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Status no_tensor(const Weights& weights, std::string_view name) {
  return {Code::kNotFound, fmt::format("{}: the weights have no tensor {}", weights.path(), name)};
}

Status other_shape(const Weights& weights, std::string_view name, std::span<const int64_t> found,
                   std::span<const int64_t> asked) {
  return {Code::kInvalidArgument,
          fmt::format("{}: tensor {} has shape {}, the model's configuration asks for {}",
                      weights.path(), name, shape_text(found), shape_text(asked))};
}

}  // namespace vkv
