// weight_loader.h: tensors of one part of a model, by the names that part uses.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "tools/mllm/linear.h"
#include "tools/mllm/weights.h"

namespace vkv {

// Names under a prefix. Versions of transformers put the parts of a LLaVA under different ones.
class WeightLoader {
 public:
  // Takes the first prefix under which tensor `probe` is found. Errors: kNotFound, listing them.
  static Result<WeightLoader> make(const Weights* weights, const char* probe,
                                   std::initializer_list<const char*> prefixes);

  bool contains(const std::string& name) const { return weights_->contains(prefix_ + name); }
  Result<std::vector<float>> floats(const std::string& name,
                                    std::initializer_list<int64_t> shape) const {
    return weights_->floats(prefix_ + name, shape);
  }

  // NAME.weight [outputs, inputs] and, if asked for, NAME.bias. `scale` multiplies both.
  struct LinearShape {
    int outputs = 0;
    int inputs = 0;
    bool bias = false;
    Activation activation = Activation::kNone;
    float scale = 1.0f;
  };
  Result<Linear> linear(const std::string& name, const LinearShape& shape) const;

 private:
  WeightLoader(const Weights* weights, std::string prefix)
      : weights_(weights), prefix_(std::move(prefix)) {}
  const Weights* weights_;  // outlives the loader
  std::string prefix_;
};

}  // namespace vkv
