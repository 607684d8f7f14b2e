// saved_state.cpp: state to bytes, and from bytes that may be anything.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/saved_state.h"

#include <algorithm>
#include <bit>
#include <string>
#include <string_view>
#include <utility>

#include "runtime/base/byte_stream.h"
#include "transfer/crc32c.h"

namespace vkv {
namespace {

constexpr std::string_view kMagic = "VKVSTATE";
constexpr uint32_t kVersion = 1;

size_t row_values(const KvShape& shape) {
  return static_cast<size_t>(shape.kv_heads) * static_cast<size_t>(shape.head_dim);
}

void put_pair(ByteWriter& writer, const CodecPair& pair) {
  writer.put(pair.k);
  writer.put(pair.v);
  writer.put(pair.k_rotated);
  writer.put(pair.v_per_token);
  writer.put(pair.k_spread);
  writer.put(pair.v_spread);
}

CodecPair get_pair(ByteReader& reader) {
  CodecPair pair;
  pair.k = reader.get_up_to(Codec::kI1);
  pair.v = reader.get_up_to(Codec::kI1);
  pair.k_rotated = reader.get_bool();
  pair.v_per_token = reader.get_bool();
  pair.k_spread = reader.get<float>();
  pair.v_spread = reader.get<float>();
  return pair;
}

std::vector<std::byte> model_section(const CacheOptions& options) {
  std::vector<std::byte> bytes;
  ByteWriter writer(bytes);
  const KvShape& shape = options.shape;
  for (const int number :
       {shape.layers, shape.q_heads, shape.kv_heads, shape.head_dim, options.recent_tokens})
    writer.put(static_cast<int32_t>(number));
  writer.put(options.open_codec);
  writer.put(options.keep_original);
  const PrecisionPolicy& policy = options.precision;
  put_pair(writer, policy.high);
  put_pair(writer, policy.low);
  writer.put(policy.high_fraction);
  writer.put(policy.visual_high_fraction_max);
  writer.put(static_cast<int32_t>(policy.sink_tokens));
  writer.put(policy.sink_sigmas);
  writer.put(policy.segment_headers);
  writer.put(static_cast<uint32_t>(policy.layers.size()));
  for (const LayerPrecision& own : policy.layers) {
    writer.put(static_cast<int32_t>(own.layer));
    put_pair(writer, own.high);
    put_pair(writer, own.low);
  }
  return bytes;
}

void put_extent(ByteWriter& writer, const SavedExtent& extent) {
  writer.put(extent.index);
  writer.put(extent.headers);
  writer.put(extent.kind);
  writer.put(extent.original_count);
  writer.put(extent.original_codec);
  writer.put(static_cast<uint32_t>(extent.blocks.size()));
  for (const Block& block : extent.blocks) {
    put_pair(writer, block.codecs);
    writer.put(block.centred);
    writer.put(block.high);
    writer.put(block.token_count);
    writer.put(block.record_bytes);
    writer.put(block.record_offset);
    writer.put_all(std::span<const uint16_t>(block.role_token_count));
  }
  writer.put(!extent.live.empty());
  writer.put_all(std::span<const uint32_t>(extent.live));
}

void put_layer(ByteWriter& writer, const SavedLayer& layer) {
  writer.put(!layer.mean.empty());
  writer.put_all(std::span<const float>(layer.mean));
  writer.put(layer.counts.other);
  writer.put(layer.counts.visual);
  writer.put(layer.counts.visual_high);
  writer.put(static_cast<uint32_t>(layer.positions.size()));
  writer.put_all(std::span<const uint32_t>(layer.positions));
  writer.put_all(std::span<const TokenClass>(layer.classes));
  writer.put_all(std::span<const uint16_t>(layer.k));
  writer.put_all(std::span<const uint16_t>(layer.v));
  writer.put(static_cast<uint32_t>(layer.headers.size()));
  for (const std::vector<std::byte>& headers : layer.headers) {
    writer.put(static_cast<uint32_t>(headers.size()));
    writer.put_all(std::span<const std::byte>(headers));
  }
  for (const auto* list : {&layer.extents, &layer.promoted, &layer.originals}) {
    writer.put(static_cast<uint32_t>(list->size()));
    for (const SavedExtent& extent : *list) put_extent(writer, extent);
  }
  writer.put(!layer.original_v_sum.empty());
  writer.put_all(std::span<const double>(layer.original_v_sum));
}

// Reads one layer; what does not fit makes the reader fail.
class LayerReader {
 public:
  LayerReader(ByteReader& reader, const KvShape& shape, size_t token_count,
              std::span<const uint64_t> extent_bytes)
      : reader_(reader), shape_(shape), token_count_(token_count), extent_bytes_(extent_bytes) {}

  SavedLayer run() {
    if (reader_.get_bool()) layer_.mean = values<float>(row_values(shape_));
    layer_.counts.other = reader_.get<uint64_t>();
    layer_.counts.visual = reader_.get<uint64_t>();
    layer_.counts.visual_high = reader_.get<uint64_t>();
    open_tokens();
    const auto header_count = reader_.get<uint32_t>();
    if (!reader_.has(header_count, sizeof(uint32_t))) return {};
    for (uint32_t i = 0; i < header_count && reader_.ok(); ++i)
      layer_.headers.push_back(values<std::byte>(reader_.get<uint32_t>()));
    layer_.extents = list(false);
    layer_.promoted = list(false);
    layer_.originals = list(true);
    if (reader_.get_bool()) layer_.original_v_sum = values<double>(row_values(shape_));
    check_counts();
    return std::move(layer_);
  }

 private:
  template <class T>
  std::vector<T> values(uint64_t count) {
    if (!reader_.has(count, sizeof(T))) return {};
    std::vector<T> all(count);
    reader_.get_all(std::span<T>(all));
    return all;
  }

  void check(bool is_right) {
    if (!is_right) reader_.fail();
  }

  void open_tokens() {
    const auto count = reader_.get<uint32_t>();
    check(count <= token_count_);
    if (!reader_.ok()) return;
    layer_.positions = values<uint32_t>(count);
    for (size_t i = 0; i < layer_.positions.size(); ++i) {
      check(layer_.positions[i] < token_count_);
      check(i == 0 || layer_.positions[i - 1] < layer_.positions[i]);
    }
    for (uint32_t i = 0; i < count && reader_.ok(); ++i)
      layer_.classes.push_back(reader_.get_up_to(TokenClass::kLow));
    layer_.k = values<uint16_t>(count * row_values(shape_));
    layer_.v = values<uint16_t>(count * row_values(shape_));
  }

  std::vector<SavedExtent> list(bool of_originals) {
    const auto count = reader_.get<uint32_t>();
    std::vector<SavedExtent> all;
    for (uint32_t i = 0; i < count && reader_.ok(); ++i) {
      all.push_back(extent());
      const SavedExtent& read = all.back();
      check((read.kind == ExtentKind::kOriginal) == of_originals);
      check(of_originals ? read.blocks.empty() && read.original_count > 0
                         : !read.blocks.empty() && read.original_count == 0);
    }
    return all;
  }

  SavedExtent extent() {
    SavedExtent extent;
    extent.index = reader_.get<uint32_t>();
    extent.headers = reader_.get<uint32_t>();
    extent.kind = reader_.get_up_to(ExtentKind::kHigh);
    extent.original_count = reader_.get<uint32_t>();
    extent.original_codec = reader_.get_up_to(Codec::kBf16);
    const bool has_own = extent.headers == SavedExtent::kOwnHeaders;
    check(extent.index < extent_bytes_.size());
    check(has_own || extent.headers < layer_.headers.size());
    const auto block_count = reader_.get<uint32_t>();
    if (!reader_.ok()) return {};
    const uint64_t bytes = extent_bytes_[extent.index];
    check(extent.original_count <= bytes / (2 * sizeof(uint16_t) * row_values(shape_)));
    uint64_t live_word_count = 0;
    for (uint32_t i = 0; i < block_count && reader_.ok(); ++i) {
      extent.blocks.push_back(block(has_own ? nullptr : &layer_.headers[extent.headers], bytes));
      if (reader_.ok()) live_word_count += live_words(extent.blocks.back());
    }
    if (reader_.get_bool()) {
      check(live_word_count > 0);
      extent.live = values<uint32_t>(live_word_count);
      check_mask(extent);
    }
    return extent;
  }

  Block block(const std::vector<std::byte>* headers, uint64_t extent_bytes) {
    Block block;
    block.codecs = get_pair(reader_);
    block.centred = reader_.get_bool();
    block.high = reader_.get_bool();
    block.token_count = reader_.get<uint16_t>();
    block.record_bytes = reader_.get<uint32_t>();
    block.record_offset = reader_.get<uint64_t>();
    reader_.get_all(std::span<uint16_t>(block.role_token_count));
    const CodecPair& codecs = block.codecs;
    check(block.token_count >= 1 && block.token_count <= tokens_per_block(shape_.head_dim));
    check(!codecs.v_per_token || (!is_16_bit(codecs.v) && headers == nullptr));
    check(!codecs.k_rotated || (block.centred && bits_of(codecs.k) <= 2 &&
                                std::has_single_bit(static_cast<unsigned>(shape_.head_dim))));
    check(!block.centred || !layer_.mean.empty());
    if (!reader_.ok()) return {};

    const BlockLayout layout = block_layout(shape_, codecs, block.token_count, headers != nullptr);
    check(block.record_bytes == layout.record_bytes());
    check(block.record_offset % kRecordAlignment == 0 && block.record_offset <= extent_bytes);
    check(headers == nullptr || headers->size() == layout.headers_bytes());
    uint32_t role_tokens = 0;
    for (const uint16_t count : block.role_token_count) role_tokens += count;
    check(role_tokens == block.token_count);
    if (reader_.ok()) check(block.record_bytes <= extent_bytes - block.record_offset);
    return block;
  }

  // No token behind a block's last counts.
  void check_mask(const SavedExtent& extent) {
    if (!reader_.ok()) return;
    const uint32_t* word = extent.live.data();
    for (const Block& block : extent.blocks) {
      const int in_last = block.token_count % 32;
      const uint32_t behind = in_last == 0 ? 0 : ~uint32_t{0} << in_last;
      word += live_words(block);
      check((word[-1] & behind) == 0);
    }
  }

  void check_counts() {
    size_t sealed = 0, low = 0, kept = 0;
    for (const SavedExtent& extent : layer_.extents) {
      for (const Block& block : extent.blocks) {
        sealed += block.token_count;
        if (extent.kind == ExtentKind::kLow) low += block.token_count;
      }
    }
    for (const SavedExtent& extent : layer_.originals) kept += extent.original_count;
    check(layer_.positions.size() + sealed == token_count_);
    check(kept == 0 ? layer_.promoted.empty()
                    : kept == low && layer_.original_v_sum.size() == row_values(shape_));
  }

  ByteReader& reader_;
  const KvShape& shape_;
  const size_t token_count_;
  const std::span<const uint64_t> extent_bytes_;
  SavedLayer layer_;
};

}  // namespace

uint32_t generation_of(const CacheOptions& options) { return crc32c(model_section(options)); }

std::vector<std::byte> encode_state(const CacheOptions& options, const SavedState& state) {
  std::vector<std::byte> bytes;
  ByteWriter writer(bytes);
  writer.put_text(kMagic);
  writer.put(kVersion);
  const std::vector<std::byte> model = model_section(options);
  writer.put(static_cast<uint32_t>(model.size()));
  writer.put_all(std::span<const std::byte>(model));
  writer.put(static_cast<uint32_t>(state.roles.size()));
  writer.put_all(std::span<const Role>(state.roles));
  for (const SavedLayer& layer : state.layers) put_layer(writer, layer);
  return bytes;
}

Result<SavedState> decode_state(const CacheOptions& options, std::span<const std::byte> bytes,
                                std::span<const uint64_t> extent_bytes) {
  const auto damaged = [](const char* what) {
    return Status(Code::kDataLoss, std::string("the state of a saved sequence ") + what);
  };
  ByteReader reader(bytes);
  reader.expect_text(kMagic);
  const auto version = reader.get<uint32_t>();
  if (!reader.ok()) return damaged("does not begin as one");
  if (version != kVersion)
    return Status(Code::kUnsupported, "the saved sequence has state version " +
                                          std::to_string(version) + "; this program reads " +
                                          std::to_string(kVersion));
  const std::vector<std::byte> own = model_section(options);
  const std::span<const std::byte> model = reader.take(reader.get<uint32_t>());
  if (!reader.ok()) return damaged("ends too early");
  if (!std::equal(model.begin(), model.end(), own.begin(), own.end()))
    return Status(Code::kInvalidArgument,
                  "the sequence was saved by a cache with another model shape, precision policy, "
                  "open codec, number of recent tokens, or keep_original");

  SavedState state;
  const auto token_count = reader.get<uint32_t>();
  if (!reader.has(token_count, sizeof(Role))) return damaged("ends too early");
  for (uint32_t i = 0; i < token_count; ++i) state.roles.push_back(reader.get_up_to(Role::kSink));
  for (int i = 0; i < options.shape.layers && reader.ok(); ++i)
    state.layers.push_back(
        LayerReader(reader, options.shape, state.roles.size(), extent_bytes).run());
  for (const std::byte byte : reader.take(reader.bytes_left()))
    if (byte != std::byte{0}) reader.fail();
  if (!reader.ok()) return damaged("is none that a cache writes");
  return Result<SavedState>(std::move(state));
}

}  // namespace vkv
