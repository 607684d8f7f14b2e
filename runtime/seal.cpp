// seal.cpp: classes, gathering, encoding.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/seal.h"

#include <algorithm>
#include <optional>

#include "runtime/base/codec.h"

namespace vkv {
namespace {

// Of the segment before. What is shorter than a block keeps to its levels: of its own they would
// take more than its codes.
SharedHeaders newest_headers(const LayerState& state) {
  for (size_t i = state.extents.size(); i-- > 0;)
    if (const SharedHeaders& headers = state.extents[i].extent->headers()) return headers;
  return nullptr;
}

}  // namespace

size_t record_bytes_max(const KvShape& shape, const PrecisionPolicy& policy) {
  const int tokens = tokens_per_block(shape.head_dim);
  size_t most = 0;
  for (int layer = 0; layer < shape.layers; ++layer) {
    const LayerPrecision own = precision_of_layer(policy, layer);
    for (const CodecPair& codecs : {own.high, own.low})
      most = std::max(most, block_layout(shape, codecs, tokens).record_bytes());
  }
  return most;
}

Result<uint64_t> Sealer::seal(SequenceState& sequence, const SealRequest& request) {
  LayerState& state = sequence.layers[static_cast<size_t>(request.layer)];
  const KvShape& shape = options_.shape;
  const float* const k_mean = state.mean_values();
  const auto newest = [&](int count, const float* values, int row_values) {
    return values + static_cast<size_t>(request.q_len - count) * static_cast<size_t>(row_values);
  };
  VKV_TRY(classify_new(sequence, state, request));

  std::optional<SealSample> sample;
  if (request.meter != nullptr)
    sample.emplace(shape, scale_, backend_,
                   SealSample::Query{.q = newest(1, request.q, shape.q_heads * shape.head_dim),
                                     .lse = newest(1, request.lse, shape.q_heads),
                                     .out = newest(1, request.out, shape.q_heads * shape.head_dim),
                                     .k_mean = k_mean});
  uint64_t sealed = 0;
  for (const TokenClass token_class : {TokenClass::kHigh, TokenClass::kLow}) {
    VKV_TRY_ASSIGN(count,
                   seal_class(sequence, state, request, token_class, sample ? &*sample : nullptr));
    sealed += count;
  }
  if (sealed > 0 && sample) (void)request.meter->add(sample->difference(), sample->exact());
  if (sealed > 0) state.open.shrink(placement_);

  if (request.ends_window && promoter_.keeps(request.layer)) {
    const int queries = std::min(request.q_len, kSaliencyQueries);
    VKV_TRY(
        promoter_.promote(state, {.layer = request.layer,
                                  .q_len = queries,
                                  .q = newest(queries, request.q, shape.q_heads * shape.head_dim),
                                  .lse = newest(queries, request.lse, shape.q_heads),
                                  .k_mean = k_mean}));
  }
  if (sealed > 0) VKV_TRY(promoter_.settle());
  return sealed;
}

Result<uint64_t> Sealer::seal_class(const SequenceState& sequence, LayerState& state,
                                    const SealRequest& request, TokenClass token_class,
                                    SealSample* sample) {
  const size_t block_tokens = static_cast<size_t>(tokens_per_block(options_.shape.head_dim));
  const std::span<const TokenClass> classes = state.open.classes();
  size_t count = static_cast<size_t>(std::count(classes.begin(), classes.end(), token_class));
  if (!request.ends_window) count = count / block_tokens * block_tokens;
  if (count == 0) return uint64_t{0};
  std::vector<uint32_t> rows;
  for (uint32_t i = 0; rows.size() < count; ++i)
    if (classes[i] == token_class) rows.push_back(i);

  const bool low = token_class == TokenClass::kLow;
  const CodecPair codecs = codecs_of(request.layer, token_class);
  SharedHeaders headers;
  if (low && options_.precision.segment_headers) {
    if (rows.size() < block_tokens) headers = newest_headers(state);
    if (!headers) {
      VKV_TRY_ASSIGN(made, segment_headers(state, codecs, rows));
      headers = std::move(made);
    }
  }
  std::vector<Role> roles;
  for (const uint32_t row : rows) roles.push_back(sequence.roles[state.open.positions()[row]]);

  std::vector<uint8_t> gone(static_cast<size_t>(state.open.token_count()), 0);
  Status status;
  size_t done = 0;
  while (done < rows.size()) {
    const Result<size_t> taken =
        seal_extent(state, {.layer = request.layer,
                            .kind = low ? ExtentKind::kLow : ExtentKind::kHigh,
                            .codecs = codecs,
                            .source = state.open.tokens(),
                            .rows = std::span<const uint32_t>(rows).subspan(done),
                            .roles = std::span<const Role>(roles).subspan(done),
                            .k_mean = state.mean_values(),
                            .headers = headers,
                            .sample = sample});
    status = taken.status();
    if (!taken.ok()) break;
    for (size_t i = 0; i < taken.value(); ++i) gone[rows[done + i]] = 1;
    done += taken.value();
  }
  const Status removed = state.open.remove(backend_, gone);
  if (!status.ok()) return status;
  VKV_TRY(removed);
  return uint64_t{done};
}

Status Sealer::classify_new(const SequenceState& sequence, LayerState& state,
                            const SealRequest& request) {
  const PrecisionPolicy& policy = options_.precision;
  const uint32_t recent = static_cast<uint32_t>(options_.recent_tokens);
  if (state.token_count <= recent) return {};
  const uint32_t recent_begin = state.token_count - recent;

  // 1. The tokens that have become old. What is not decided stands behind what is.
  std::vector<uint32_t> rows;
  std::vector<Role> roles;
  std::vector<uint8_t> is_sink;
  const std::span<const TokenClass> known = state.open.classes();
  const std::span<const uint32_t> positions = state.open.positions();
  const auto old_end = std::lower_bound(positions.begin(), positions.end(), recent_begin);
  uint32_t first = static_cast<uint32_t>(old_end - positions.begin());
  const uint32_t end = first;
  while (first > 0 && known[first - 1] == TokenClass::kUndecided) --first;
  for (uint32_t i = first; i < end; ++i) {
    const uint32_t position = positions[i];
    rows.push_back(i);
    roles.push_back(sequence.roles[position]);
    is_sink.push_back(position < static_cast<uint32_t>(policy.sink_tokens) ? 1 : 0);
  }
  if (rows.empty()) return {};

  // 2. Sinks stand out by their keys, salient tokens by the attention that they just got. Its lse
  // belongs to the mean of that moment: none yet at the first seal.
  const float* mean_of_attend = state.mean_values();
  const OpenTokens open = state.open.tokens();
  const LayerPrecision own = precision_of_layer(policy, request.layer);
  const bool encodes = !is_16_bit(own.low.k) || !is_16_bit(own.high.k);
  if (encodes && !state.mean) VKV_TRY(fix_mean(state, rows));
  if (encodes && tells_far_keys(policy, rows.size())) {
    std::vector<float> distances(rows.size() * static_cast<size_t>(options_.shape.kv_heads));
    VKV_TRY(backend_.squared_distances(options_.shape, open, rows, state.mean_values(), distances));
    mark_far_keys(distances, options_.shape.kv_heads, policy.sink_sigmas, is_sink);
  }
  ClassifyRequest deciding{.layer = request.layer,
                           .token_count = state.token_count,
                           .roles = roles,
                           .is_sink = is_sink,
                           .all_visual_low = promoter_.keeps(request.layer)};
  std::vector<float> saliency(rows.size(), 0.0f);
  if (needs_saliency(policy, deciding, state.counts)) {
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
    for (size_t i = 0; i < rows.size(); ++i) saliency[i] = scores[rows[i]];
  }
  deciding.saliency = saliency;

  // 3. Decide.
  const std::vector<TokenClass> classes = classify(policy, deciding, state.counts);
  for (size_t i = 0; i < rows.size(); ++i) state.open.classes()[rows[i]] = classes[i];
  return {};
}

Status Sealer::fix_mean(LayerState& state, std::span<const uint32_t> rows) {
  const size_t values = static_cast<size_t>(options_.shape.kv_heads * options_.shape.head_dim);
  VKV_TRY_ASSIGN(mean, placement_.allocate_shared(values * sizeof(float), "mean keys"));
  VKV_TRY(backend_.mean_key(options_.shape, state.open.tokens(), rows,
                            reinterpret_cast<float*>(mean->data())));
  state.mean = std::move(mean);
  return {};
}

Result<SharedHeaders> Sealer::segment_headers(const LayerState& state, const CodecPair& codecs,
                                              std::span<const uint32_t> rows) {
  const KvShape& shape = options_.shape;
  const BlockLayout layout = block_layout(shape, codecs, 1);
  VKV_TRY_ASSIGN(bytes, placement_.allocate_shared(layout.headers_bytes(), "headers of a segment"));
  VKV_TRY(backend_.encode_headers({.shape = shape,
                                   .k_codec = codecs.k,
                                   .v_codec = codecs.v,
                                   .k_rotated = codecs.k_rotated,
                                   .k_spread = codecs.k_spread,
                                   .v_spread = codecs.v_spread,
                                   .source = state.open.tokens(),
                                   .rows = rows,
                                   .k_mean = state.mean_values(),
                                   .record = {bytes->data(), bytes->byte_count()}}));
  return SharedHeaders(std::move(bytes));
}

Result<size_t> Sealer::seal_extent(LayerState& state, const EncodeExtentRequest& request) {
  VKV_TRY_ASSIGN(extent, encode_extent(options_, backend_, placement_, request));
  const size_t taken = token_count(*extent);
  if (request.kind == ExtentKind::kLow && promoter_.keeps(request.layer)) {
    const auto rows = request.rows.first(taken);
    VKV_TRY_ASSIGN(originals, promoter_.keep(request.source, request.layer, rows));
    add_originals(state, std::move(originals), request.source, rows);
  }
  state.extents.push_back({.extent = std::move(extent)});
  return taken;
}

void Sealer::add_originals(LayerState& state, std::vector<ExtentUse> originals,
                           const OpenTokens& source, std::span<const uint32_t> rows) const {
  for (ExtentUse& use : originals) state.originals.push_back(std::move(use));
  const size_t values = static_cast<size_t>(options_.shape.kv_heads * options_.shape.head_dim);
  state.original_v_sum.resize(values);
  for (const uint32_t row : rows)
    for (size_t i = 0; i < values; ++i)
      state.original_v_sum[i] += float_from_16_bit(source.codec, source.v[row * values + i]);
}

}  // namespace vkv
