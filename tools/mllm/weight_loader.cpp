// weight_loader.cpp: tensors of one part of a model, by the names that part uses.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/weight_loader.h"

#include <fmt/format.h>

namespace vkv {

Result<WeightLoader> WeightLoader::make(const Weights* weights, const char* probe,
                                        std::initializer_list<const char*> prefixes) {
  for (const char* prefix : prefixes)
    if (weights->contains(std::string(prefix) + probe)) return WeightLoader(weights, prefix);
  return Status(Code::kNotFound, fmt::format("{}: the weights have no tensor {} under any of: {}",
                                             weights->path(), probe, fmt::join(prefixes, " ")));
}

Result<LinearValues> WeightLoader::values(const LinearTensor& tensor) const {
  LinearValues values;
  VKV_TRY_ASSIGN(weight, floats(tensor.name + ".weight", {tensor.outputs, tensor.inputs}));
  values.weight = std::move(weight);
  if (tensor.bias) {
    VKV_TRY_ASSIGN(bias, floats(tensor.name + ".bias", {tensor.outputs}));
    values.bias = std::move(bias);
  }
  return values;
}

Result<Linear> WeightLoader::linear(const LinearTensor& tensor, float scale) const {
  VKV_TRY_ASSIGN(read, values(tensor));
  if (scale != 1.0f) {
    for (float& value : read.weight) value *= scale;
    for (float& value : read.bias) value *= scale;
  }
  auto linear = Linear::make(tensor.outputs, tensor.inputs, read.weight, std::move(read.bias),
                             tensor.activation);
  if (!linear.ok())
    return Status(linear.status().code(),
                  fmt::format("tensor {}{}: {}", prefix_, tensor.name, linear.status().message()));
  return linear;
}

}  // namespace vkv
