// weight_loader.h: tensors of one part of a model, by the names that part uses.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "tools/mllm/linear.h"
#include "tools/mllm/weights.h"

namespace vkv {

// A linear layer as a checkpoint has it: NAME.weight [outputs, inputs] and, if there is one,
// NAME.bias [outputs].
struct LinearTensor {
  std::string name;
  int outputs = 0;
  int inputs = 0;
  bool bias = false;
  Activation activation = Activation::kNone;
};

struct LinearValues {
  std::vector<float> weight;
  std::vector<float> bias;  // empty if there is none
};

// Names under a prefix. Versions of transformers put the parts of a LLaVA under different ones.
class WeightLoader {
 public:
  // Whole names.
  explicit WeightLoader(const Weights* weights) : weights_(weights) {}

  // Takes the first prefix under which tensor `probe` is found. Errors: kNotFound, listing them.
  static Result<WeightLoader> make(const Weights* weights, const char* probe,
                                   std::initializer_list<const char*> prefixes);

  bool contains(const std::string& name) const { return weights_->contains(prefix_ + name); }
  Result<std::vector<float>> floats(const std::string& name,
                                    std::initializer_list<int64_t> shape) const {
    return weights_->floats(prefix_ + name, shape);
  }

  // Errors: those of Weights::floats.
  Result<LinearValues> values(const LinearTensor& tensor) const;

  // For the CPU. `scale` multiplies weight and bias.
  Result<Linear> linear(const LinearTensor& tensor, float scale = 1.0f) const;

 private:
  WeightLoader(const Weights* weights, std::string prefix)
      : weights_(weights), prefix_(std::move(prefix)) {}
  const Weights* weights_;  // outlives the loader
  std::string prefix_;
};

}  // namespace vkv
