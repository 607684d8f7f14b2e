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

Result<Linear> WeightLoader::linear(const std::string& name, const LinearShape& shape) const {
  VKV_TRY_ASSIGN(weight, floats(name + ".weight", {shape.outputs, shape.inputs}));
  std::vector<float> bias;
  if (shape.bias) {
    VKV_TRY_ASSIGN(values, floats(name + ".bias", {shape.outputs}));
    bias = std::move(values);
  }
  if (shape.scale != 1.0f) {
    for (float& value : weight) value *= shape.scale;
    for (float& value : bias) value *= shape.scale;
  }
  auto linear =
      Linear::make(shape.outputs, shape.inputs, weight, std::move(bias), shape.activation);
  if (!linear.ok())
    return Status(linear.status().code(),
                  fmt::format("tensor {}{}: {}", prefix_, name, linear.status().message()));
  return linear;
}

}  // namespace vkv
