// check.h: refuses calls that break the documented requirements, before anything is computed.
// SPDX-License-Identifier: Apache-2.0
//
// What the call of any engine must hold; an engine may ask for more. For callers: check_attend(),
// check_encode(), check_encode_headers(), check_mean_key(), check_saliency().
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "runtime/base/backend.h"
#include "runtime/base/hadamard.h"
#include "vkv/status.h"

namespace vkv {

inline Status invalid_call(std::string message) {
  return {Code::kInvalidArgument, std::move(message)};
}

inline Status check_shape(const KvShape& shape) {
  if (shape.head_dim < 8 || shape.head_dim > kHeadDimMax || shape.head_dim % 8 != 0)
    return {Code::kUnsupported, "head_dim is " + std::to_string(shape.head_dim) +
                                    "; it must be a multiple of 8 from 8 to " +
                                    std::to_string(kHeadDimMax)};
  if (shape.kv_heads < 1 || shape.q_heads < 1 || shape.q_heads % shape.kv_heads != 0)
    return invalid_call("q_heads is " + std::to_string(shape.q_heads) + " and kv_heads " +
                        std::to_string(shape.kv_heads) +
                        "; q_heads must be a positive multiple of kv_heads");
  return {};
}

inline Status check_codec(const char* what, Codec codec) {
  if (codec >= Codec::kF16 && codec <= Codec::kI1) return {};
  return {Code::kUnsupported, std::string(what) + " codec is number " +
                                  std::to_string(static_cast<int>(codec)) +
                                  "; there are 0 (F16) to 5 (I1)"};
}

inline Status check_open(const OpenTokens& open) {
  if (open.codec != Codec::kF16 && open.codec != Codec::kBf16)
    return invalid_call("open tokens have codec number " +
                        std::to_string(static_cast<int>(open.codec)) +
                        "; they must be F16 or BF16");
  if (open.token_count < 0)
    return invalid_call("open.token_count is " + std::to_string(open.token_count));
  if (open.token_count > 0 && (open.k == nullptr || open.v == nullptr))
    return invalid_call("open tokens without K or V");
  return {};
}

inline Status check_variants(const KvShape& shape, Codec k_codec, bool k_rotated, Codec v_codec,
                             bool v_per_token) {
  if (k_rotated && bits_of(k_codec) > 2)
    return invalid_call("rotated K of " + std::to_string(bits_of(k_codec)) +
                        " bits; only K of 2 bits or 1 is rotated");
  if (k_rotated && !is_power_of_two(shape.head_dim))
    return invalid_call("rotated K of head_dim " + std::to_string(shape.head_dim) +
                        "; it must be a power of two");
  if (v_per_token && is_16_bit(v_codec))
    return invalid_call("V per token at 16 bit, which has no scales");
  return {};
}

inline Status check_block(const KvShape& shape, const BlockView& block) {
  VKV_TRY(check_codec("K", block.k_codec));
  VKV_TRY(check_codec("V", block.v_codec));
  if (block.token_count < 1 || block.token_count > tokens_per_block(shape.head_dim))
    return invalid_call("a block has " + std::to_string(block.token_count) +
                        " tokens; it may have 1 to " +
                        std::to_string(tokens_per_block(shape.head_dim)));
  if (block.k_rotated && !block.centred)
    return invalid_call("a block of rotated K that is not centred");
  VKV_TRY(check_variants(shape, block.k_codec, block.k_rotated, block.v_codec, block.v_per_token));
  const bool has_codes = !is_16_bit(block.k_codec) || !is_16_bit(block.v_codec);
  if (block.payload == nullptr || (has_codes && block.headers == nullptr))
    return invalid_call("a block without payload or headers");
  return {};
}

inline Status check_rows(const KvShape& shape, const OpenTokens& source,
                         std::span<const uint32_t> rows) {
  VKV_TRY(check_shape(shape));
  VKV_TRY(check_open(source));
  if (rows.empty()) return invalid_call("no rows to encode");
  for (const uint32_t row : rows)
    if (row >= static_cast<uint32_t>(source.token_count))
      return invalid_call("row " + std::to_string(row) + " of a source of " +
                          std::to_string(source.token_count) + " tokens");
  return {};
}

inline bool may_spread(Codec codec, float spread) {
  return spread == 1.0f || (bits_of(codec) <= 4 && spread >= 0.5f && spread <= 4.0f);
}

inline Status check_source(const EncodeItem& item) {
  VKV_TRY(check_codec("K", item.k_codec));
  VKV_TRY(check_codec("V", item.v_codec));
  VKV_TRY(check_rows(item.shape, item.source, item.rows));
  if (item.k_rotated && item.k_mean == nullptr)
    return invalid_call("rotated K without a mean: an offset would spread over all channels");
  if (!may_spread(item.k_codec, item.k_spread) || !may_spread(item.v_codec, item.v_spread))
    return invalid_call("a spread of " + std::to_string(item.k_spread) + " for K and " +
                        std::to_string(item.v_spread) +
                        " for V; 0.5..4 at 4 bits and fewer, else 1");
  return check_variants(item.shape, item.k_codec, item.k_rotated, item.v_codec, item.v_per_token);
}

// Errors of all: kInvalidArgument, or kUnsupported for a shape or codec that no engine here has;
// the message names the field, its value and what it may be.
inline Status check_attend(const AttendItem& item) {
  VKV_TRY(check_shape(item.shape));
  VKV_TRY(check_open(item.open));
  if (item.q_len < 0) return invalid_call("q_len is " + std::to_string(item.q_len));
  if (item.q_len > 0 && (item.q == nullptr || item.out == nullptr || item.lse == nullptr))
    return invalid_call("attend without q, out or lse");
  if (item.causal && item.open.token_count < item.q_len)
    return invalid_call("causal attend of " + std::to_string(item.q_len) + " queries over " +
                        std::to_string(item.open.token_count) +
                        " open tokens; the queries' own tokens must be open");
  for (const BlockView& block : item.blocks) VKV_TRY(check_block(item.shape, block));
  return {};
}

inline Status check_encode(const EncodeItem& item) {
  VKV_TRY(check_source(item));
  const int tokens_max = tokens_per_block(item.shape.head_dim);
  if (item.rows.size() > static_cast<size_t>(tokens_max))
    return invalid_call("a block of " + std::to_string(item.rows.size()) + " tokens; it holds " +
                        std::to_string(tokens_max) + " at most");
  if (item.v_per_token && item.shared_headers != nullptr)
    return invalid_call("V per token with shared headers; each token has its own scale");
  const BlockLayout layout = block_layout(item);
  if (item.record.size() != layout.record_bytes())
    return invalid_call("a record of " + std::to_string(item.record.size()) +
                        " bytes; these tokens need " + std::to_string(layout.record_bytes()));
  if (reinterpret_cast<uintptr_t>(item.record.data()) % kRecordAlignment != 0)
    return invalid_call("a record that is not 64-byte aligned");
  return {};
}

inline Status check_encode_headers(const EncodeItem& item) {
  VKV_TRY(check_source(item));
  if (item.v_per_token) return invalid_call("headers of a segment for V per token");
  const BlockLayout layout = block_layout(item);
  if (item.record.size() != layout.headers_bytes())
    return invalid_call("room for " + std::to_string(item.record.size()) +
                        " bytes of headers; they are " + std::to_string(layout.headers_bytes()));
  return {};
}

inline Status check_mean_key(const KvShape& shape, const OpenTokens& source,
                             std::span<const uint32_t> rows, const float* mean) {
  VKV_TRY(check_rows(shape, source, rows));
  if (mean == nullptr) return invalid_call("mean_key without room for the mean");
  return {};
}

inline Status check_saliency(const SaliencyItem& item) {
  VKV_TRY(check_shape(item.shape));
  VKV_TRY(check_open(item.open));
  if (item.q_len < 1 || item.open.token_count < 1 ||
      (item.causal && item.q_len > item.open.token_count))
    return invalid_call("saliency by " + std::to_string(item.q_len) + " queries over " +
                        std::to_string(item.open.token_count) +
                        " open tokens; their own tokens must be open, and at least one is needed");
  if (item.q == nullptr || item.lse == nullptr || item.score == nullptr)
    return invalid_call("saliency without q, lse or score");
  return {};
}

}  // namespace vkv
