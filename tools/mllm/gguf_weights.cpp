// gguf_weights.cpp: tensors of a GGUF file under their names in transformers.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "tools/mllm/gguf_checkpoint.h"

namespace vkv {
namespace {

struct NamePair {
  std::string_view transformers;
  std::string_view gguf;
};

constexpr NamePair kWholeNames[] = {
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
};

// Behind "model.layers.N." and "blk.N."; ".weight" or ".bias" follows.
constexpr NamePair kLayerNames[] = {
    {"input_layernorm", "attn_norm"}, {"post_attention_layernorm", "ffn_norm"},
    {"self_attn.q_proj", "attn_q"},   {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},   {"self_attn.o_proj", "attn_output"},
    {"mlp.gate_proj", "ffn_gate"},    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};

constexpr std::string_view kLayers = "model.layers.";

// Nothing for a name that decoders do not have.
std::optional<std::string> gguf_name(std::string_view name) {
  for (const NamePair& pair : kWholeNames)
    if (name == pair.transformers) return std::string(pair.gguf);
  if (!name.starts_with(kLayers)) return std::nullopt;
  name.remove_prefix(kLayers.size());
  const size_t dot = name.find('.'), last_dot = name.rfind('.');
  if (dot == last_dot) return std::nullopt;
  const std::string_view index = name.substr(0, dot), suffix = name.substr(last_dot);
  const std::string_view part = name.substr(dot + 1, last_dot - dot - 1);
  for (const NamePair& pair : kLayerNames)
    if (part == pair.transformers)
      return "blk." + std::string(index) + "." + std::string(pair.gguf) + std::string(suffix);
  return std::nullopt;
}

// llama.cpp turns channels 2i and 2i + 1 of a head together, transformers i and i + head_dim / 2.
// Its converter orders the rows of Q and K of a llama to match (not of a qwen2); this puts them
// back: row 2i + j of a head goes to row j * head_dim / 2 + i.
std::vector<float> undo_pairing(const std::vector<float>& source, size_t head_dim, size_t columns) {
  std::vector<float> target(source.size());
  const size_t rows = source.size() / columns;
  for (size_t row = 0; row < rows; ++row) {
    const size_t head = row / head_dim, channel = row % head_dim;
    const size_t target_row = head * head_dim + channel % 2 * (head_dim / 2) + channel / 2;
    std::copy_n(source.begin() + static_cast<int64_t>(row * columns), columns,
                target.begin() + static_cast<int64_t>(target_row * columns));
  }
  return target;
}

class GgufWeights : public Weights {
 public:
  GgufWeights(GgufFile file, size_t head_dim)
      : file_(std::move(file)),
        head_dim_(head_dim),
        is_paired_(*file_.get<std::string_view>("general.architecture") == "llama") {}

  const std::string& path() const override { return file_.path(); }

  bool contains(std::string_view name) const override { return find(name) != nullptr; }

  Result<std::vector<float>> floats(std::string_view name,
                                    std::span<const int64_t> shape) const override {
    const GgufTensor* const tensor = find(name);
    if (tensor == nullptr) return no_tensor(*this, gguf_name(name).value_or(std::string(name)));
    if (!std::equal(tensor->shape.begin(), tensor->shape.end(), shape.begin(), shape.end()))
      return other_shape(*this, *gguf_name(name), tensor->shape, shape);
    size_t value_count = 1;
    for (const int64_t extent : shape) value_count *= static_cast<size_t>(extent);
    std::vector<float> values(value_count);
    decode_gguf_blocks(tensor->block, tensor->data, values);
    const bool turns = name.find(".q_proj.") != name.npos || name.find(".k_proj.") != name.npos;
    if (!is_paired_ || !turns || values.empty()) return values;
    if (static_cast<size_t>(shape[0]) % head_dim_ != 0)
      return Status(Code::kInvalidArgument,
                    fmt::format("{}: tensor {} has {} rows, not whole heads of {} channels", path(),
                                *gguf_name(name), shape[0], head_dim_));
    return undo_pairing(values, head_dim_, value_count / static_cast<size_t>(shape[0]));
  }

 private:
  const GgufTensor* find(std::string_view name) const {
    const auto own_name = gguf_name(name);
    if (!own_name) return nullptr;
    const auto found = file_.tensors().find(*own_name);
    return found == file_.tensors().end() ? nullptr : &found->second;
  }

  GgufFile file_;
  size_t head_dim_;
  bool is_paired_;
};

}  // namespace

std::unique_ptr<Weights> gguf_weights(GgufFile file, const ModelConfig& config) {
  return std::make_unique<GgufWeights>(std::move(file), static_cast<size_t>(config.text.head_dim));
}

}  // namespace vkv
