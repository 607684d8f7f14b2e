// open_options.cpp: ranges and least budgets.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/open_options.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "runtime/attention.h"
#include "runtime/base/block_format.h"
#include "runtime/open_block.h"
#include "runtime/promotion.h"
#include "runtime/seal.h"

namespace vkv {
namespace {

constexpr uint64_t kExtentBytesMin = kExtentAlignment;
constexpr uint64_t kExtentBytesMax = uint64_t{16} << 20;
constexpr int kPrefetchMin = 2;
// A GPU attends to all blocks of a layer in one call, so all that it has on NVMe is staged at once,
// and what comes next beside it. Most: what io_uring registers.
struct PrefetchRange {
  int usual_max, max;
};
constexpr PrefetchRange kPrefetchOnCpu{16, 64}, kPrefetchOnCuda{256, 8192};
constexpr int kRecentMin = 16, kRecentMax = 4096;

Status out_of_range(const char* option, const std::string& value, const std::string& range) {
  return {Code::kInvalidArgument, std::string(option) + " is " + value + "; it may be " + range};
}

Status check_policy(const CacheOptions& options) {
  const PrecisionPolicy& policy = options.precision;
  VKV_TRY(validate(policy));
  for (int layer = 0; layer < options.shape.layers; ++layer) {
    const LayerPrecision own = precision_of_layer(policy, layer);
    if ((own.high.k_rotated || own.low.k_rotated) &&
        !std::has_single_bit(static_cast<unsigned>(options.shape.head_dim)))
      return {Code::kInvalidArgument,
              "precision '" + policy.name + "' has k_rotated, which needs a head_dim that is a " +
                  "power of two; the model's is " + std::to_string(options.shape.head_dim)};
  }
  for (const LayerPrecision& own : policy.layers)
    if (own.layer >= options.shape.layers)
      return {Code::kInvalidArgument, "precision '" + policy.name + "' has an override for layer " +
                                          std::to_string(own.layer) +
                                          "; the model has layers 0 to " +
                                          std::to_string(options.shape.layers - 1)};
  return {};
}

Status check_quality(const CacheOptions& options) {
  if (options.keep_original == KeepOriginal::kNvme && options.nvme_bytes_max == 0)
    return {Code::kInvalidArgument, "keep_original is nvme, which needs an nvme budget"};
  const QualityOptions& quality = options.quality;
  if (!(quality.sample_fraction >= 0 && quality.sample_fraction <= 1))
    return out_of_range("quality.sample_fraction", std::to_string(quality.sample_fraction),
                        "0 to 1");
  if (!(quality.error_bound >= 0))
    return out_of_range("quality.error_bound", std::to_string(quality.error_bound), "0 or more");
  if (quality.action == QualityAction::kPromote && options.keep_original == KeepOriginal::kNone)
    return {Code::kInvalidArgument,
            "quality.action is promote, which needs originals: set keep_original to dram or nvme"};
  return {};
}

// What every call needs, with one sequence that decodes: in every layer its recent tokens, a block
// of each class that is filling, and one layer's open block twice while it moves.
struct LeastOpen {
  uint64_t kv_bytes = 0;
  uint64_t label_bytes = 0;
};

LeastOpen least_open(const CacheOptions& options) {
  const uint64_t block_tokens = static_cast<uint64_t>(tokens_per_block(options.shape.head_dim));
  const uint64_t classes = has_classes(options.precision) ? 2 : 1;
  const uint64_t open_tokens = static_cast<uint64_t>(options.recent_tokens) +
                               classes * block_tokens + 2 * OpenBlock::kGrowthTokens;
  const uint64_t blocks = static_cast<uint64_t>(options.shape.layers) + 1;
  return {.kv_bytes = blocks * round_up_bytes(open_tokens * OpenBlock::kv_bytes(options.shape),
                                              kExtentAlignment),
          .label_bytes = blocks * open_tokens * OpenBlock::kLabelBytes};
}

uint64_t least_dram_bytes(const CacheOptions& options) {
  const LeastOpen open = least_open(options);
  const uint64_t staging =
      options.nvme_bytes_max > 0
          ? static_cast<uint64_t>(options.prefetch_extents) * options.extent_bytes_max
          : 0;
  // On their way from HBM to NVMe extents lie in DRAM.
  if (options.device == Device::kCuda)
    return open.label_bytes + staging + (staging > 0 ? 2 * options.extent_bytes_max : 0);
  return Attention::scratch_bytes(options.shape, 0) + open.kv_bytes + open.label_bytes + staging +
         options.extent_bytes_max + promotion_dram_bytes(options);
}

Status check_device(const CacheOptions& options) {
  if (options.device == Device::kCpu) {
    if (options.hbm_bytes_max > 0 || options.hbm_block_bytes_max != UINT64_MAX ||
        options.hbm_ahead_bytes != UINT64_MAX || options.stream != nullptr)
      return {Code::kInvalidArgument,
              "an HBM budget or a stream needs device cuda; this cache is on the CPU"};
    return {};
  }
  if (options.device != Device::kCuda)
    return out_of_range("device", std::to_string(static_cast<int>(options.device)),
                        "0 (cpu) or 1 (cuda)");
  const auto unsupported = [](const std::string& what, const std::string& instead) {
    return Status(Code::kUnsupported, what + " is not there on device cuda yet; " + instead);
  };
  if (options.keep_original != KeepOriginal::kNone)
    return unsupported("keep_original " + std::string(name(options.keep_original)),
                       "set it to none");
  if (options.quality.sample_fraction > 0)
    return unsupported("the quality meter", "set quality.sample_fraction to 0");
  if (options.device_index < 0)
    return out_of_range("device_index", std::to_string(options.device_index), "0 or more");
  if (options.hbm_bytes_max == 0)
    return {Code::kInvalidArgument, "device cuda needs hbm_bytes_max, the budget in GPU memory"};
  return {};
}

}  // namespace

Result<CacheOptions> with_defaults(const CacheOptions& requested) {
  CacheOptions options = requested;
  VKV_TRY(validate(options.shape));
  VKV_TRY(check_policy(options));
  VKV_TRY(check_device(options));
  if (!is_16_bit(options.open_codec))
    return out_of_range("open_codec", std::string(name(options.open_codec)), "f16 or bf16");
  if (options.recent_tokens < kRecentMin || options.recent_tokens > kRecentMax)
    return out_of_range("recent_tokens", std::to_string(options.recent_tokens), "16 to 4096");
  if (options.threads < 0)
    return out_of_range("threads", std::to_string(options.threads), "0 or more");
  if (options.host_share != -1 && !(options.host_share >= 0 && options.host_share <= 1))
    return out_of_range("host_share", std::to_string(options.host_share), "0 to 1, or -1");
  if (options.score_scale == 0)
    options.score_scale = 1.0f / std::sqrt(static_cast<float>(options.shape.head_dim));
  if (!std::isfinite(options.score_scale))
    return out_of_range("score_scale", "not finite", "any finite number");

  if (options.extent_bytes_max < kExtentBytesMin || options.extent_bytes_max > kExtentBytesMax)
    return out_of_range("extent_bytes_max", std::to_string(options.extent_bytes_max),
                        "4096 to 16777216 bytes");
  options.extent_bytes_max =
      round_up_bytes(std::max<uint64_t>(options.extent_bytes_max,
                                        record_bytes_max(options.shape, options.precision)),
                     kExtentAlignment);
  const PrefetchRange prefetch = options.device == Device::kCuda ? kPrefetchOnCuda : kPrefetchOnCpu;
  if (options.prefetch_extents == 0) {
    const uint64_t affordable = options.dram_bytes_max / 8 / options.extent_bytes_max;
    options.prefetch_extents =
        std::max(kPrefetchMin, static_cast<int>(std::min<uint64_t>(
                                   affordable, static_cast<uint64_t>(prefetch.usual_max))));
  }
  if (options.prefetch_extents < kPrefetchMin || options.prefetch_extents > prefetch.max)
    return out_of_range("prefetch_extents", std::to_string(options.prefetch_extents),
                        "2 to " + std::to_string(prefetch.max) + ", or 0 for the default");

  if (options.nvme_bytes_max == 0 && options.dram_block_bytes_max < options.dram_bytes_max)
    return out_of_range("dram_block_bytes_max", std::to_string(options.dram_block_bytes_max),
                        "less than the dram budget only with an nvme budget for the rest");
  VKV_TRY(check_quality(options));
  if (options.keep_store && options.nvme_bytes_max == 0)
    return Status(Code::kInvalidArgument, "keep_store is set, which needs an nvme budget");
  if (options.nvme_bytes_max > 0 && options.store_path.empty())
    return Status(Code::kInvalidArgument,
                  "an NVMe budget needs store_path, the file to keep it in");
  if (options.nvme_bytes_max > 0 && options.nvme_bytes_max < options.extent_bytes_max)
    return Status(Code::kOutOfMemory, "the nvme budget of " +
                                          std::to_string(options.nvme_bytes_max) +
                                          " bytes cannot hold one extent of " +
                                          std::to_string(options.extent_bytes_max));
  const uint64_t least = least_dram_bytes(options);
  if (options.dram_bytes_max < least)
    return Status(Code::kOutOfMemory,
                  "the dram budget of " + std::to_string(options.dram_bytes_max) +
                      " bytes is too small: this model and these options need at least " +
                      std::to_string(least) +
                      " (smaller extents or fewer recent tokens need less)");
  return options;
}

uint64_t least_hbm_bytes(const CacheOptions& options) {
  const uint64_t mean_bytes =
      static_cast<uint64_t>(options.shape.layers) *
      round_up_bytes(sizeof(float) * static_cast<size_t>(options.shape.kv_heads) *
                         static_cast<size_t>(options.shape.head_dim),
                     kExtentAlignment);
  return least_open(options).kv_bytes + mean_bytes + options.extent_bytes_max;
}

}  // namespace vkv
