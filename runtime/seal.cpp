// seal.cpp: classes, gathering, encoding.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/seal.h"

#include <algorithm>

#include "runtime/base/codec.h"

namespace vkv {
namespace {

constexpr int kSaliencyQueries = 64;  // the newest of the prompt: more say nothing new

// Squared distances of keys from their mean: [rows, kv_heads].
std::vector<float> squared_distances(const KvShape& shape, const OpenTokens& open,
                                     std::span<const uint32_t> rows, const float* mean) {
  const size_t kv_heads = static_cast<size_t>(shape.kv_heads);
  const size_t head_dim = static_cast<size_t>(shape.head_dim);
  std::vector<float> distances(rows.size() * kv_heads);
  for (size_t i = 0; i < distances.size(); ++i) {
    const size_t head = i % kv_heads;
    const uint16_t* key = open.k + (rows[i / kv_heads] * kv_heads + head) * head_dim;
    float sum = 0;
    for (size_t c = 0; c < head_dim; ++c) {
      const float difference = float_from_16_bit(open.codec, key[c]) - mean[head * head_dim + c];
      sum += difference * difference;
    }
    distances[i] = sum;
  }
  return distances;
}

}  // namespace

size_t record_bytes_max(const KvShape& shape, const PrecisionPolicy& policy) {
  const int tokens = tokens_per_block(shape.head_dim);
  const auto bytes = [&](const CodecPair& codecs) {
    return block_layout(shape.kv_heads, shape.head_dim, codecs.k, codecs.v, tokens,
                        /*shared_headers=*/false, codecs.v_per_token)
        .record_bytes();
  };
  return std::max(bytes(policy.high), bytes(policy.low));
}

Result<uint64_t> Sealer::seal(SequenceState& sequence, const SealRequest& request) {
  LayerState& state = sequence.layers[static_cast<size_t>(request.layer)];
  VKV_TRY(classify_new(sequence, state, request));

  uint64_t sealed = 0;
  const size_t block_tokens = static_cast<size_t>(tokens_per_block(options_.shape.head_dim));
  for (TokenClass token_class : {TokenClass::kHigh, TokenClass::kLow}) {
    std::vector<uint32_t> rows;
    for (uint32_t i = 0; i < state.open.classes().size(); ++i)
      if (state.open.classes()[i] == token_class) rows.push_back(i);
    if (!request.ends_window) rows.resize(rows.size() / block_tokens * block_tokens);
    if (rows.empty()) continue;

    SharedHeaders headers;
    if (token_class == TokenClass::kLow && options_.precision.segment_headers) {
      VKV_TRY_ASSIGN(made, segment_headers(state, codecs_of(token_class), rows));
      headers = std::move(made);
    }
    std::vector<uint8_t> gone(static_cast<size_t>(state.open.token_count()), 0);
    Status status;
    for (size_t done = 0; done < rows.size() && status.ok();) {
      const auto rest = std::span<const uint32_t>(rows).subspan(done);
      Result<size_t> taken =
          seal_extent(sequence, state, request.layer, token_class, rest, headers);
      status = taken.status();
      if (!taken.ok()) break;
      for (size_t i = 0; i < taken.value(); ++i) gone[rest[i]] = 1;
      done += taken.value();
      sealed += taken.value();
    }
    state.open.remove(gone);
    VKV_TRY(status);
  }
  if (sealed > 0) state.open.shrink(placement_);
  return sealed;
}

Status Sealer::classify_new(const SequenceState& sequence, LayerState& state,
                            const SealRequest& request) {
  const PrecisionPolicy& policy = options_.precision;
  const uint32_t recent = static_cast<uint32_t>(options_.recent_tokens);
  if (state.token_count <= recent) return {};
  const uint32_t recent_begin = state.token_count - recent;

  // 1. The tokens that have become old.
  std::vector<uint32_t> rows;
  std::vector<Role> roles;
  std::vector<uint8_t> is_sink;
  bool any_visual = false;
  for (uint32_t i = 0; i < state.open.classes().size(); ++i) {
    const uint32_t position = state.open.positions()[i];
    if (state.open.classes()[i] != TokenClass::kUndecided || position >= recent_begin) continue;
    rows.push_back(i);
    roles.push_back(sequence.roles[position]);
    is_sink.push_back(position < static_cast<uint32_t>(policy.sink_tokens) ? 1 : 0);
    any_visual |= roles.back() == Role::kVisual;
  }
  if (rows.empty()) return {};

  // 2. Sinks stand out by their keys, salient tokens by the attention that they just got. Its lse
  // belongs to the mean of that moment: none yet at the first seal.
  const float* mean_of_attend = state.mean_values();
  const OpenTokens open = state.open.tokens();
  const bool encodes = !is_16_bit(policy.low.k) || !is_16_bit(policy.high.k);
  if (encodes && !state.mean) VKV_TRY(fix_mean(state, rows));
  if (encodes)
    mark_far_keys(squared_distances(options_.shape, open, rows, state.mean_values()),
                  options_.shape.kv_heads, policy.sink_sigmas, is_sink);
  std::vector<float> saliency;
  if (uses_saliency(policy) && any_visual) {
    const int queries = std::min(request.q_len, kSaliencyQueries);
    const size_t skipped = static_cast<size_t>(request.q_len - queries);
    const size_t q_heads = static_cast<size_t>(options_.shape.q_heads);
    std::vector<float> scores(static_cast<size_t>(open.token_count));
    VKV_TRY(backend_.saliency(
        {.shape = options_.shape,
         .scale = scale_,
         .q_len = queries,
         .q = request.q + skipped * q_heads * static_cast<size_t>(options_.shape.head_dim),
         .lse = request.lse + skipped * q_heads,
         .k_mean = mean_of_attend,
         .open = open,
         .score = scores.data()}));
    for (uint32_t row : rows) saliency.push_back(scores[row]);
  } else if (uses_saliency(policy)) {
    saliency.resize(rows.size(), 0.0f);
  }

  // 3. Decide.
  const std::vector<TokenClass> classes = classify(
      policy,
      {.token_count = state.token_count, .roles = roles, .is_sink = is_sink, .saliency = saliency},
      state.counts);
  for (size_t i = 0; i < rows.size(); ++i) state.open.classes()[rows[i]] = classes[i];
  return {};
}

Status Sealer::fix_mean(LayerState& state, std::span<const uint32_t> rows) {
  const size_t values = static_cast<size_t>(options_.shape.kv_heads * options_.shape.head_dim);
  VKV_TRY_ASSIGN(mean, ChargedBytes::make(pool_, values * sizeof(float), "mean keys"));
  VKV_TRY(backend_.mean_key(options_.shape, state.open.tokens(), rows,
                            reinterpret_cast<float*>(mean->data())));
  state.mean = std::move(mean);
  return {};
}

Result<SharedHeaders> Sealer::segment_headers(const LayerState& state, const CodecPair& codecs,
                                              std::span<const uint32_t> rows) {
  const KvShape& shape = options_.shape;
  const BlockLayout layout = block_layout(shape.kv_heads, shape.head_dim, codecs.k, codecs.v, 1);
  VKV_TRY_ASSIGN(bytes, ChargedBytes::make(pool_, layout.headers_bytes(), "headers of a segment"));
  VKV_TRY(backend_.encode_headers({.shape = shape,
                                   .k_codec = codecs.k,
                                   .v_codec = codecs.v,
                                   .k_rotated = codecs.k_rotated,
                                   .source = state.open.tokens(),
                                   .rows = rows,
                                   .k_mean = state.mean_values(),
                                   .record = {bytes->data(), bytes->byte_count()}}));
  return SharedHeaders(std::move(bytes));
}

Result<size_t> Sealer::seal_extent(const SequenceState& sequence, LayerState& state, int layer,
                                   TokenClass token_class, std::span<const uint32_t> rows,
                                   const SharedHeaders& headers) {
  const KvShape& shape = options_.shape;
  const CodecPair codecs = codecs_of(token_class);
  const size_t block_tokens = static_cast<size_t>(tokens_per_block(shape.head_dim));

  // 1. As many blocks as an extent takes.
  std::vector<Block> blocks;
  size_t taken = 0, byte_count = 0;
  while (taken < rows.size()) {
    const size_t count = std::min(block_tokens, rows.size() - taken);
    const BlockLayout layout =
        block_layout(shape.kv_heads, shape.head_dim, codecs.k, codecs.v, static_cast<int>(count),
                     headers != nullptr, codecs.v_per_token);
    if (!blocks.empty() && byte_count + layout.record_bytes() > options_.extent_bytes_max) break;
    Block block{.k_codec = codecs.k,
                .v_codec = codecs.v,
                .centred = !is_16_bit(codecs.k),
                .k_rotated = codecs.k_rotated,
                .v_per_token = codecs.v_per_token,
                .high = token_class == TokenClass::kHigh,
                .token_count = static_cast<uint16_t>(count),
                .record_bytes = static_cast<uint32_t>(layout.record_bytes()),
                .record_offset = byte_count};
    for (uint32_t row : rows.subspan(taken, count))
      ++block.role_token_count[static_cast<size_t>(sequence.roles[state.open.positions()[row]])];
    blocks.push_back(block);
    taken += count;
    byte_count += layout.record_bytes();
  }

  // 2. Encode them side by side.
  VKV_TRY_ASSIGN(buffer, placement_.allocate(byte_count, "encoded blocks"));
  std::fill(buffer.data() + byte_count, buffer.data() + buffer.bytes().size(), std::byte{0});
  std::vector<EncodeItem> items;
  size_t first = 0;
  for (const Block& block : blocks) {
    items.push_back({.shape = shape,
                     .k_codec = block.k_codec,
                     .v_codec = block.v_codec,
                     .k_rotated = block.k_rotated,
                     .v_per_token = block.v_per_token,
                     .source = state.open.tokens(),
                     .rows = rows.subspan(first, block.token_count),
                     .k_mean = state.mean_values(),
                     .shared_headers = headers ? headers->data() : nullptr,
                     .record = buffer.bytes().subspan(block.record_offset, block.record_bytes)});
    first += block.token_count;
  }
  VKV_TRY(backend_.encode(items));

  // 3. The extent now holds the tokens.
  VKV_TRY_ASSIGN(extent, placement_.admit(layer, std::move(blocks), std::move(buffer), headers));
  state.extents.push_back(std::move(extent));
  return taken;
}

}  // namespace vkv
