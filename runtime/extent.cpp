// extent.cpp: construction, and views for an engine.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/extent.h"

#include <utility>

#include "runtime/placement.h"

namespace vkv {

BlockView view_of(const KvShape& shape, const Block& block, const std::byte* record,
                  const std::byte* shared_headers) {
  const BlockLayout layout =
      block_layout(shape, block.codecs, block.token_count, shared_headers != nullptr);
  BlockView view{.k_codec = block.codecs.k,
                 .v_codec = block.codecs.v,
                 .centred = block.centred,
                 .k_rotated = block.codecs.k_rotated,
                 .v_per_token = block.codecs.v_per_token,
                 .token_count = block.token_count,
                 .payload = record + layout.payload_offset()};
  if (layout.head_header > 0) view.headers = shared_headers ? shared_headers : record;
  return view;
}

Extent::Extent(int layer, uint64_t serial, ExtentContent content, MemoryBuffer bytes)
    : layer_(layer),
      serial_(serial),
      byte_count_(bytes.bytes().size()),
      content_(std::move(content)),
      bytes_(std::move(bytes)) {}

Extent::Extent(int layer, uint64_t serial, ExtentContent content, const StoreExtent& stored)
    : layer_(layer),
      serial_(serial),
      byte_count_(stored.byte_count),
      content_(std::move(content)),
      stored_(stored) {}

Extent::~Extent() {
  if (placement_ != nullptr) placement_->forget(*this);
}

uint64_t Extent::payload_bytes() const {
  if (blocks().empty()) return byte_count_;
  const Block& last = blocks().back();
  return last.record_offset + last.record_bytes;
}

void Extent::append_views(const KvShape& shape, const std::byte* base, const uint32_t* live,
                          std::vector<BlockView>& views) const {
  const std::byte* const shared = headers() ? headers()->data() : nullptr;
  const Block* before = nullptr;
  for (const Block& block : blocks()) {
    const std::byte* const record = base + block.record_offset;
    if (before != nullptr && before->token_count == block.token_count &&
        before->centred == block.centred && before->codecs == block.codecs) {
      // Most are as the one before: a step of many sequences asks for thousands in each layer.
      const std::byte* const earlier = base + before->record_offset;
      BlockView view = views.back();
      view.payload = record + (view.payload - earlier);
      if (view.headers == earlier) view.headers = record;
      views.push_back(view);
    } else {
      views.push_back(view_of(shape, block, record, shared));
    }
    before = &block;
    if (live == nullptr) continue;
    views.back().live = live;  // that of the one before is replaced
    live += live_words(block);
  }
}

OpenTokens Extent::originals(const KvShape& shape, const std::byte* base) const {
  const size_t values = size_t{original_count()} * static_cast<size_t>(shape.kv_heads) *
                        static_cast<size_t>(shape.head_dim);
  const uint16_t* const k = reinterpret_cast<const uint16_t*>(base);
  return {.codec = content_.original_codec,
          .token_count = static_cast<int>(original_count()),
          .k = k,
          .v = k + values};
}

}  // namespace vkv
