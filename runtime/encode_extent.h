// encode_extent.h: 16-bit tokens -> the records of one extent.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "runtime/base/backend.h"
#include "runtime/extent.h"
#include "runtime/placement.h"
#include "runtime/quality_meter.h"
#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

struct EncodeExtentRequest {
  int layer = 0;
  ExtentKind kind = ExtentKind::kLow;
  CodecPair codecs;
  OpenTokens source;
  std::span<const uint32_t> rows;  // of source, in the order in which the blocks hold them
  std::span<const Role> roles;     // one a row
  const float* k_mean = nullptr;   // [kv_heads, head_dim]
  SharedHeaders headers;           // made over a whole segment; nullptr: the records hold their own
  SealSample* sample = nullptr;    // hears of each block; nullptr: nobody asks
};

// Records of the first of the rows, as many as an extent takes, placed. Errors: kOutOfMemory, kIo,
// and those of Backend::encode; nothing is kept then.
Result<std::shared_ptr<Extent>> encode_extent(const CacheOptions& options, Backend& backend,
                                              Placement& placement,
                                              const EncodeExtentRequest& request);

// Tokens that its blocks hold.
size_t token_count(const Extent& extent);

}  // namespace vkv
