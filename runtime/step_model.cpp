// step_model.cpp: sums and quotients.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/step_model.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/block_format.h"
#include "runtime/base/check.h"
#include "runtime/extent.h"

namespace vkv {

StepEstimate estimate_step(const StepBytes& bytes, const ReadSpeeds& speeds) {
  VKV_CHECK(speeds.hbm > 0 && (bytes.dram_kv == 0 || speeds.link > 0));
  StepEstimate estimate;
  estimate.hbm_seconds = static_cast<double>(bytes.weights + bytes.hbm_kv) / speeds.hbm;
  estimate.seconds = estimate.hbm_seconds;
  const auto in_dram = static_cast<double>(bytes.dram_kv);
  const double ahead = std::min(in_dram, estimate.hbm_seconds * speeds.link);
  estimate.ahead_bytes = static_cast<uint64_t>(std::llround(ahead));
  const uint64_t rest = bytes.dram_kv - std::min(bytes.dram_kv, estimate.ahead_bytes);
  if (rest == 0) return estimate;

  const double both = speeds.link + speeds.host;
  estimate.seconds += static_cast<double>(rest) / both;
  estimate.host_bytes =
      static_cast<uint64_t>(std::llround(static_cast<double>(rest) * speeds.host / both));
  estimate.link_bytes = rest - estimate.host_bytes;
  estimate.bound = speeds.host > 0 ? StepBound::kBoth : StepBound::kLink;
  return estimate;
}

SequenceBytes estimate_bytes(const KvShape& shape, const PrecisionPolicy& policy, int recent_tokens,
                             uint64_t token_count, uint64_t visual_count) {
  const double token_values = 2.0 * shape.kv_heads * shape.head_dim;
  const int block_tokens = tokens_per_block(shape.head_dim);
  const auto token_bytes = [&](const CodecPair& pair) {
    return static_cast<double>(block_layout(shape, pair, block_tokens).record_bytes()) /
           block_tokens;
  };
  const auto open = static_cast<double>(
      std::min<uint64_t>(token_count, static_cast<uint64_t>(recent_tokens + policy.sink_tokens)));
  const auto all = static_cast<double>(token_count), visual = static_cast<double>(visual_count);
  const double text = all - visual;
  const double visual_high =
      std::clamp(policy.high_fraction * all - text, 0.0, policy.visual_high_fraction_max * visual);
  const double sealed = all == 0 ? 0 : 1 - open / all;  // of each kind alike

  SequenceBytes bytes;
  double blocks = 0, visual_bytes = 0;
  for (int layer = 0; layer < shape.layers; ++layer) {
    const LayerPrecision pairs = precision_of_layer(policy, layer);
    const double high = token_bytes(pairs.high), low = token_bytes(pairs.low);
    visual_bytes += visual_high * high + (visual - visual_high) * low;
    blocks += sealed * ((text + visual_high) * high + (visual - visual_high) * low);
  }
  bytes.blocks = static_cast<uint64_t>(blocks);
  bytes.open = static_cast<uint64_t>(open * token_values * 2 * shape.layers);
  if (visual > 0)
    bytes.bits_per_visual_value = 8 * visual_bytes / (visual * token_values * shape.layers);
  return bytes;
}

}  // namespace vkv
