// bit_plan.cpp: the knapsack of layers and codecs.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bit_plan.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "runtime/base/block_format.h"

namespace vkv {
namespace {

constexpr double kUnit = 1.0 / 16;  // of bits: headers are 0.25 or 0.125 a value

int units_of(const CodecPair& codecs, int head_dim) {
  return static_cast<int>(std::lround(pair_bits(codecs, head_dim) / kUnit));
}

}  // namespace

double pair_bits(const CodecPair& codecs, int head_dim) {
  const int tokens = tokens_per_block(head_dim);
  const BlockLayout layout =
      block_layout(1, head_dim, codecs.k, codecs.v, tokens, false, codecs.v_per_token);
  return 8.0 * static_cast<double>(layout.record_bytes()) / (tokens * head_dim);
}

Result<std::vector<CodecPair>> plan_bits(std::span<const std::vector<LayerChoice>> layers,
                                         int head_dim, double bits_max) {
  constexpr double kNever = std::numeric_limits<double>::infinity();
  const size_t layer_count = layers.size();
  const auto budget = static_cast<size_t>(
      std::floor(2 * bits_max * static_cast<double>(layer_count) / kUnit + 1e-6));

  // least[layer][units]: of the layers up to this one, with exactly so many units.
  std::vector<std::vector<double>> least(layer_count + 1, std::vector<double>(budget + 1, kNever));
  std::vector<std::vector<size_t>> pick(layer_count, std::vector<size_t>(budget + 1, 0));
  least[0][0] = 0;
  for (size_t layer = 0; layer < layer_count; ++layer)
    for (size_t choice = 0; choice < layers[layer].size(); ++choice) {
      const auto units = static_cast<size_t>(units_of(layers[layer][choice].codecs, head_dim));
      for (size_t before = 0; before + units <= budget; ++before) {
        const double loss = least[layer][before] + layers[layer][choice].loss;
        if (!(loss < least[layer + 1][before + units])) continue;
        least[layer + 1][before + units] = loss;
        pick[layer][before + units] = choice;
      }
    }

  size_t units = budget + 1;
  for (size_t i = 0; i <= budget; ++i)
    if (least[layer_count][i] < kNever &&
        (units > budget || least[layer_count][i] < least[layer_count][units]))
      units = i;
  if (units > budget)
    return Status(Code::kInvalidArgument,
                  fmt::format("{} bits a value are fewer than the smallest codecs need", bits_max));
  std::vector<CodecPair> plan(layer_count);
  for (size_t layer = layer_count; layer-- > 0;) {
    const LayerChoice& choice = layers[layer][pick[layer][units]];
    plan[layer] = choice.codecs;
    units -= static_cast<size_t>(units_of(choice.codecs, head_dim));
  }
  return plan;
}

}  // namespace vkv
