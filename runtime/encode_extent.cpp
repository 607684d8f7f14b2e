// encode_extent.cpp: cuts rows into blocks and encodes them side by side.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/encode_extent.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace vkv {
namespace {

Status add_sample(const EncodeExtentRequest& request, const KvShape& shape, Placement& placement,
                  const Block& block, const EncodeItem& item) {
  const size_t row_values = static_cast<size_t>(shape.kv_heads * shape.head_dim);
  const size_t values = item.rows.size() * row_values;
  Result<MemoryBuffer> buffer =
      placement.allocate(2 * values * sizeof(uint16_t), "a sample of quality");
  if (!buffer.ok()) return {};  // measuring must not fail what is measured
  uint16_t* const k = reinterpret_cast<uint16_t*>(buffer.value().data());
  for (size_t i = 0; i < item.rows.size(); ++i) {
    std::copy_n(item.source.k + item.rows[i] * row_values, row_values, k + i * row_values);
    std::copy_n(item.source.v + item.rows[i] * row_values, row_values, k + values + i * row_values);
  }
  const OpenTokens exact = {.codec = item.source.codec,
                            .token_count = static_cast<int>(item.rows.size()),
                            .k = k,
                            .v = k + values};
  return request.sample->add(view_of(shape, block, item.record.data(), item.shared_headers), exact,
                             request.k_mean);
}

}  // namespace

Result<std::shared_ptr<Extent>> encode_extent(const CacheOptions& options, Backend& backend,
                                              Placement& placement,
                                              const EncodeExtentRequest& request) {
  const KvShape& shape = options.shape;
  const size_t block_tokens = static_cast<size_t>(tokens_per_block(shape.head_dim));

  // 1. As many blocks as an extent takes.
  std::vector<Block> blocks;
  size_t taken = 0, byte_count = 0;
  while (taken < request.rows.size()) {
    const size_t count = std::min(block_tokens, request.rows.size() - taken);
    const BlockLayout layout =
        block_layout(shape, request.codecs, static_cast<int>(count), request.headers != nullptr);
    if (!blocks.empty() && byte_count + layout.record_bytes() > options.extent_bytes_max) break;
    Block block{.codecs = request.codecs,
                .centred = !is_16_bit(request.codecs.k),
                .token_count = static_cast<uint16_t>(count),
                .record_bytes = static_cast<uint32_t>(layout.record_bytes()),
                .record_offset = byte_count};
    for (const Role role : request.roles.subspan(taken, count))
      ++block.role_token_count[static_cast<size_t>(role)];
    blocks.push_back(block);
    taken += count;
    byte_count += layout.record_bytes();
  }

  // 2. Encode them side by side.
  VKV_TRY_ASSIGN(buffer, placement.allocate(byte_count, "encoded blocks"));
  VKV_TRY(backend.zero(buffer.bytes().subspan(byte_count)));
  std::vector<EncodeItem> items;
  size_t first = 0;
  for (const Block& block : blocks) {
    items.push_back({.shape = shape,
                     .k_codec = block.codecs.k,
                     .v_codec = block.codecs.v,
                     .k_rotated = block.codecs.k_rotated,
                     .v_per_token = block.codecs.v_per_token,
                     .k_spread = block.codecs.k_spread,
                     .v_spread = block.codecs.v_spread,
                     .source = request.source,
                     .rows = request.rows.subspan(first, block.token_count),
                     .k_mean = request.k_mean,
                     .shared_headers = request.headers ? request.headers->data() : nullptr,
                     .record = buffer.bytes().subspan(block.record_offset, block.record_bytes)});
    first += block.token_count;
  }
  VKV_TRY(backend.encode(items));
  if (request.sample != nullptr) {
    for (size_t i = 0; i < blocks.size(); ++i)
      VKV_TRY(add_sample(request, shape, placement, blocks[i], items[i]));
  }

  // 3. The extent now holds the tokens.
  return placement.admit(
      request.layer,
      {.kind = request.kind, .blocks = std::move(blocks), .headers = request.headers},
      std::move(buffer));
}

size_t token_count(const Extent& extent) {
  size_t tokens = 0;
  for (const Block& block : extent.blocks()) tokens += block.token_count;
  return tokens;
}

}  // namespace vkv
