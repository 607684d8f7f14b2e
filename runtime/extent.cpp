// extent.cpp: construction, and views for an engine.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/extent.h"

#include <utility>

#include "runtime/placement.h"

namespace vkv {

Extent::Extent(int layer, uint64_t serial, std::vector<Block> blocks, DramBuffer bytes,
               SharedHeaders headers)
    : layer_(layer),
      serial_(serial),
      byte_count_(bytes.bytes().size()),
      blocks_(std::move(blocks)),
      headers_(std::move(headers)),
      bytes_(std::move(bytes)) {}

Extent::~Extent() {
  if (placement_ != nullptr) placement_->forget(*this);
}

void Extent::append_views(const KvShape& shape, const std::byte* base,
                          std::vector<BlockView>& views) const {
  for (const Block& block : blocks_) {
    const BlockLayout layout =
        block_layout(shape.kv_heads, shape.head_dim, block.k_codec, block.v_codec,
                     block.token_count, headers_ != nullptr, block.v_per_token);
    const std::byte* record = base + block.record_offset;
    BlockView view{.k_codec = block.k_codec,
                   .v_codec = block.v_codec,
                   .centred = block.centred,
                   .k_rotated = block.k_rotated,
                   .v_per_token = block.v_per_token,
                   .token_count = block.token_count,
                   .payload = record + layout.payload_offset()};
    if (layout.head_header > 0) view.headers = headers_ ? headers_->data() : record;
    views.push_back(view);
  }
}

}  // namespace vkv
