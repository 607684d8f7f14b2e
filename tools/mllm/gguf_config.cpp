// gguf_config.cpp: configuration of the model in a GGUF file.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>

#include "tools/mllm/gguf_checkpoint.h"

namespace vkv {
namespace {

// Reads metadata under "ARCHITECTURE."; the first mistake is kept, as in model_config.cpp.
class Fields {
 public:
  Fields(const GgufFile& file, std::string_view prefix) : file_(file), prefix_(prefix) {}

  // Without `fallback` the value must be there.
  int integer(const std::string& key, int most, std::optional<int> fallback = std::nullopt) {
    const std::string whole = prefix_ + key;
    if (file_.find(whole) == nullptr && fallback) return *fallback;
    const auto* const value = file_.get<int64_t>(whole);
    if (value == nullptr) {
      fail(Code::kInvalidArgument, fmt::format("no integer {}", whole));
    } else if (*value < 1 || *value > most) {
      fail(Code::kInvalidArgument, fmt::format("{} is {}; it may be 1 to {}", whole, *value, most));
    } else {
      return static_cast<int>(*value);
    }
    return 1;
  }

  double positive(const std::string& key, std::optional<double> fallback = std::nullopt) {
    const std::string whole = prefix_ + key;
    if (file_.find(whole) == nullptr && fallback) return *fallback;
    const auto* const value = file_.get<double>(whole);
    if (value != nullptr && std::isfinite(*value) && *value > 0) return *value;
    fail(Code::kInvalidArgument, fmt::format("no positive number {}", whole));
    return 1;
  }

  void fail(Code code, const std::string& what) {
    if (status_.ok()) status_ = {code, fmt::format("{}: {}", file_.path(), what)};
  }
  const Status& status() const { return status_; }

 private:
  const GgufFile& file_;
  std::string prefix_;
  Status status_;
};

// What would change the arithmetic must not be passed over.
void refuse_variants(const GgufFile& file, const std::string& prefix, const TextConfig& text,
                     Fields& fields) {
  const auto* const scaling = file.get<std::string_view>(prefix + "rope.scaling.type");
  if ((scaling != nullptr && *scaling != "none") || file.tensors().contains("rope_freqs.weight"))
    fields.fail(Code::kUnsupported, "the positions (RoPE) are scaled; only plain RoPE is there");
  if (fields.integer("rope.dimension_count", text.head_dim, text.head_dim) != text.head_dim)
    fields.fail(Code::kUnsupported, "RoPE turns a part of each head; only whole heads are there");
  if (const auto* const experts = file.get<int64_t>(prefix + "expert_count");
      experts != nullptr && *experts > 0)
    fields.fail(Code::kUnsupported,
                fmt::format("{} experts; only dense models are there", *experts));
  if (text.q_heads % text.kv_heads != 0)
    fields.fail(Code::kInvalidArgument, fmt::format("{} heads are not a multiple of {} KV heads",
                                                    text.q_heads, text.kv_heads));
  if (text.head_dim % 8 != 0 || text.head_dim > 256)
    fields.fail(
        Code::kUnsupported,
        fmt::format("heads have {} channels; it may be a multiple of 8 up to 256", text.head_dim));
}

std::vector<int32_t> end_tokens(const GgufFile& file, int vocabulary) {
  std::vector<int32_t> tokens;
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const auto* const id = file.get<int64_t>(key);
    if (id != nullptr && *id >= 0 && *id < vocabulary) tokens.push_back(static_cast<int32_t>(*id));
  }
  return tokens;
}

}  // namespace

Result<ModelConfig> gguf_model_config(const GgufFile& file) {
  const auto* const architecture = file.get<std::string_view>("general.architecture");
  const bool is_qwen2 = architecture != nullptr && *architecture == "qwen2";
  if (!is_qwen2 && (architecture == nullptr || *architecture != "llama"))
    return Status(
        Code::kUnsupported,
        fmt::format("{}: {}; there are llama and qwen2", file.path(),
                    architecture == nullptr ? "no general.architecture"
                                            : fmt::format("architecture {:?}", *architecture)));
  const std::string prefix = std::string(*architecture) + ".";
  Fields fields(file, prefix);
  ModelConfig config;
  TextConfig& text = config.text;
  const auto* const tokens = file.get<std::vector<std::string_view>>("tokenizer.ggml.tokens");
  const size_t token_count = tokens == nullptr ? 0 : tokens->size();
  text.hidden = fields.integer("embedding_length", kExtentMax);
  text.layers = fields.integer("block_count", kLayersMax);
  text.q_heads = fields.integer("attention.head_count", kExtentMax);
  text.kv_heads = fields.integer("attention.head_count_kv", kExtentMax, text.q_heads);
  text.head_dim =
      fields.integer("attention.key_length", kExtentMax, std::max(1, text.hidden / text.q_heads));
  if (fields.integer("attention.value_length", kExtentMax, text.head_dim) != text.head_dim)
    fields.fail(Code::kUnsupported, "heads of K and V differ in their number of channels");
  text.intermediate = fields.integer("feed_forward_length", kExtentMax);
  text.positions_max = fields.integer("context_length", kExtentMax);
  text.vocabulary =
      fields.integer("vocab_size", kExtentMax,
                     static_cast<int>(std::clamp<size_t>(token_count, 1, size_t{kExtentMax})));
  text.norm_epsilon = static_cast<float>(fields.positive("attention.layer_norm_rms_epsilon"));
  text.rope_theta = fields.positive("rope.freq_base", 10000.0);
  text.qkv_bias = is_qwen2;
  text.tied_embeddings = !file.tensors().contains("output.weight");
  refuse_variants(file, prefix, text, fields);
  if (!fields.status().ok()) return fields.status();
  config.eos_tokens = end_tokens(file, text.vocabulary);
  return config;
}

}  // namespace vkv
