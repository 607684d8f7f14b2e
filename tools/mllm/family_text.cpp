// family_text.cpp: decoders of text alone, and what other families' decoders share with them.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "tools/mllm/family.h"

namespace vkv {
namespace {

// What a decoder has where its configuration is silent (transformers 5.17): published checkpoints
// leave fields out. kv_heads 0: as many as q_heads.
struct Defaults {
  int vocabulary, hidden, layers, q_heads, kv_heads, intermediate, positions_max;
  double norm_epsilon, rope_theta;
};
constexpr Defaults kLlamaDefaults = {32000, 4096, 32, 32, 0, 11008, 2048, 1e-6, 1e4};
constexpr Defaults kQwen2Defaults = {151936, 4096, 32, 32, 32, 22016, 32768, 1e-6, 1e4};
constexpr Defaults kQwen2VlDefaults = {152064, 8192, 80, 64, 8, 29568, 32768, 1e-5, 1e6};

// mrope_section: how many pairs of channels turn by time, row and column.
void read_rope_section(ConfigFields& fields, TextConfig& text) {
  const std::vector<int> section = fields.integers("mrope_section", {}, kExtentMax);
  if (section.empty()) return;
  if (section.size() != 3 || section[0] + section[1] + section[2] != text.head_dim / 2)
    return fields.fail(
        Code::kInvalidArgument,
        fmt::format("mrope_section [{}] is not three counts that add up to {}, half of head_dim",
                    fmt::join(section, ", "), text.head_dim / 2));
  for (size_t i = 0; i < 3; ++i) text.rope_section[i] = section[i];
}

// RoPE: rope_parameters (transformers 5) or rope_theta and rope_scaling (before).
void read_rope(ConfigFields& fields, TextConfig& text) {
  text.rope_theta = fields.positive("rope_theta", text.rope_theta);
  if (fields.positive("partial_rotary_factor", 1.0) != 1.0)
    fields.fail(Code::kUnsupported, "partial_rotary_factor is not 1: all channels turn");
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const Json* const rope = fields.find(key);
    if (rope == nullptr) continue;
    if (!rope->is_object())
      return fields.fail(Code::kInvalidArgument, fmt::format("{} is not an object", key));
    ConfigFields rope_fields(*rope, key);
    const std::string type =
        rope_fields.text("rope_type", rope_fields.text("type", "default").c_str());
    // "mrope" is what transformers before 4.46 wrote for default with an mrope_section.
    if (type != "default" && !(type == "mrope" && rope->contains("mrope_section")))
      rope_fields.fail(Code::kUnsupported,
                       fmt::format("rope_type is \"{}\"; there is \"default\", and \"mrope\" with "
                                   "its mrope_section",
                                   type));
    text.rope_theta = rope_fields.positive("rope_theta", text.rope_theta);
    if (rope_fields.positive("partial_rotary_factor", 1.0) != 1.0)
      rope_fields.fail(Code::kUnsupported, "partial_rotary_factor is not 1: all channels turn");
    if (rope_fields.flag("mrope_interleaved", false))
      rope_fields.fail(Code::kUnsupported, "mrope_interleaved is true; sections stand in a row");
    read_rope_section(rope_fields, text);
    if (!rope_fields.status().ok())
      fields.fail(rope_fields.status().code(), rope_fields.status().message());
  }
}

void refuse_windows(ConfigFields& fields) {
  if (fields.flag("use_sliding_window", false))
    fields.fail(Code::kUnsupported, "use_sliding_window is true; only full attention is there");
  const Json* const types = fields.find("layer_types");
  if (types == nullptr) return;
  for (const Json& type : *types)
    if (type != "full_attention")
      fields.fail(Code::kUnsupported,
                  fmt::format("layer_types has {}; only full_attention is there", type.dump()));
}

template <DecoderKind kKind>
Result<ModelConfig> read_text_model(const Json& root, const std::string& path) {
  ModelConfig config;
  VKV_TRY_ASSIGN(text, read_text_config(root, kKind, path));
  config.text = text;
  ConfigFields fields(root, path);
  read_eos(fields, config.eos_tokens);
  VKV_TRY(fields.status());
  return config;
}

constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", read_text_model<DecoderKind::kLlama>},
    {"qwen2", "Qwen2ForCausalLM", read_text_model<DecoderKind::kQwen2>},
};

}  // namespace

const std::span<const Family> kTextFamilies = kFamilies;

Result<TextConfig> read_text_config(const Json& object, DecoderKind kind,
                                    const std::string& where) {
  ConfigFields fields(object, where);
  TextConfig text;
  const Defaults& defaults = kind == DecoderKind::kLlama   ? kLlamaDefaults
                             : kind == DecoderKind::kQwen2 ? kQwen2Defaults
                                                           : kQwen2VlDefaults;
  text.vocabulary = fields.extent("vocab_size", defaults.vocabulary);
  text.hidden = fields.extent("hidden_size", defaults.hidden);
  text.layers = fields.integer("num_hidden_layers", defaults.layers, 1, kLayersMax);
  text.q_heads = fields.extent("num_attention_heads", defaults.q_heads);
  text.kv_heads = fields.extent("num_key_value_heads",
                                defaults.kv_heads == 0 ? text.q_heads : defaults.kv_heads);
  text.head_dim = fields.extent("head_dim", text.hidden / text.q_heads);
  text.intermediate = fields.extent("intermediate_size", defaults.intermediate);
  text.positions_max = fields.extent("max_position_embeddings", defaults.positions_max);
  text.norm_epsilon = static_cast<float>(fields.positive("rms_norm_eps", defaults.norm_epsilon));
  text.rope_theta = defaults.rope_theta;
  text.qkv_bias = kind != DecoderKind::kLlama;
  text.tied_embeddings = fields.flag("tie_word_embeddings", false);
  read_rope(fields, text);

  if (fields.activation("hidden_act", "silu") != Activation::kSilu)
    fields.fail(Code::kUnsupported, "hidden_act of the decoder is not silu");
  if (fields.flag("attention_bias", false) || fields.flag("mlp_bias", false))
    fields.fail(Code::kUnsupported, "attention_bias and mlp_bias of llama are not there");
  refuse_windows(fields);
  if (text.q_heads % text.kv_heads != 0)
    fields.fail(Code::kInvalidArgument,
                fmt::format("num_attention_heads {} is not a multiple of num_key_value_heads {}",
                            text.q_heads, text.kv_heads));
  if (text.head_dim % 8 != 0 || text.head_dim < 8 || text.head_dim > 256)
    fields.fail(Code::kUnsupported,
                fmt::format("head_dim is {}; it may be a multiple of 8 up to 256", text.head_dim));
  if (!fields.status().ok()) return fields.status();
  return text;
}

Result<const Json*> find_object(const Json& parent, const char* key, const std::string& where) {
  const auto found = parent.find(key);
  if (found == parent.end() || !found->is_object())
    return Status(Code::kInvalidArgument, fmt::format("{}: no {}", where, key));
  return &*found;
}

void read_eos(ConfigFields& fields, std::vector<int32_t>& tokens) {
  const Json* const value = fields.find("eos_token_id");
  if (value == nullptr) return;
  tokens.clear();
  for (const Json& id : value->is_array() ? *value : Json::array({*value})) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > kExtentMax)
      return fields.fail(Code::kInvalidArgument,
                         "eos_token_id is not a token id or a list of them");
    tokens.push_back(id.get<int32_t>());
  }
}

}  // namespace vkv
