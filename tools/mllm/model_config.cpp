// model_config.cpp: what config.json says of a model.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/model_config.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "tools/mllm/json_file.h"
#include "tools/mllm/mapped_file.h"

namespace vkv {
namespace {

constexpr size_t kConfigBytesMax = size_t{1} << 20;

// Reads typed values of one JSON object; the first mistake is kept and everything after it is a
// default, so that a reader is a list of fields and one check at its end.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  const Json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  int integer(const char* key, int fallback, int least, int most) {
    const Json* const value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_number_integer() ||
        (value->is_number_unsigned() && value->get<uint64_t>() > INT32_MAX)) {
      fail(Code::kInvalidArgument, fmt::format("{} is not an integer", key));
      return fallback;
    }
    const auto number = value->get<int64_t>();
    if (number < least || number > most) {
      fail(Code::kInvalidArgument,
           fmt::format("{} is {}; it may be {} to {}", key, number, least, most));
      return fallback;
    }
    return static_cast<int>(number);
  }

  int extent(const char* key, int fallback) { return integer(key, fallback, 1, kExtentMax); }

  double positive(const char* key, double fallback) {
    const Json* const value = find(key);
    if (value == nullptr) return fallback;
    const double number = value->is_number() ? value->get<double>() : NAN;
    if (std::isfinite(number) && number > 0) return number;
    fail(Code::kInvalidArgument, fmt::format("{} is not a positive number", key));
    return fallback;
  }

  bool flag(const char* key, bool fallback) {
    const Json* const value = find(key);
    if (value == nullptr) return fallback;
    if (value->is_boolean()) return value->get<bool>();
    fail(Code::kInvalidArgument, fmt::format("{} is not true or false", key));
    return fallback;
  }

  std::string text(const char* key, const char* fallback) {
    const Json* const value = find(key);
    if (value == nullptr) return fallback;
    if (value->is_string()) return value->get<std::string>();
    fail(Code::kInvalidArgument, fmt::format("{} is not a string", key));
    return fallback;
  }

  Activation activation(const char* key, const char* fallback) {
    const std::string name = text(key, fallback);
    if (name == "gelu") return Activation::kGeluErf;
    if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Activation::kGeluTanh;
    if (name == "quick_gelu") return Activation::kQuickGelu;
    if (name == "silu" || name == "swish") return Activation::kSilu;
    fail(Code::kUnsupported, fmt::format("{} is \"{}\"; there are gelu, gelu_pytorch_tanh, "
                                         "quick_gelu and silu",
                                         key, name));
    return Activation::kNone;
  }

  void fail(Code code, const std::string& what) {
    if (status_.ok()) status_ = {code, where_ + ": " + what};
  }
  const Status& status() const { return status_; }

 private:
  const Json& object_;
  std::string where_;
  Status status_;
};

// Errors: kUnsupported for a model or architecture that there is no code for.
Status check_architecture(Fields& fields, const std::string& type, const std::string& path) {
  constexpr struct {
    const char* type;
    const char* architecture;
  } kKnown[] = {{"llava", "LlavaForConditionalGeneration"},
                {"llama", "LlamaForCausalLM"},
                {"qwen2", "Qwen2ForCausalLM"}};
  const Json* const architectures = fields.find("architectures");
  for (const auto& known : kKnown)
    if (type == known.type &&
        (architectures == nullptr || *architectures == Json{known.architecture}))
      return {};
  return {Code::kUnsupported,
          fmt::format("{}: model_type \"{}\", architectures {}; there is \"llava\", "
                      "LlavaForConditionalGeneration, and of text alone \"llama\", "
                      "LlamaForCausalLM, and \"qwen2\", Qwen2ForCausalLM",
                      path, type, architectures == nullptr ? "" : architectures->dump())};
}

Result<const Json*> find_object(const Json& parent, const char* key, const std::string& where) {
  const auto found = parent.find(key);
  if (found == parent.end() || !found->is_object())
    return Status(Code::kInvalidArgument, fmt::format("{}: no {}", where, key));
  return &*found;
}

Result<VisionConfig> read_vision(const Json& object, const std::string& where) {
  Fields fields(object, where + ": vision_config");
  VisionConfig vision;
  const std::string type = fields.text("model_type", "clip_vision_model");
  const bool is_clip = type == "clip_vision_model";
  if (!is_clip && type != "siglip_vision_model")
    fields.fail(Code::kUnsupported, fmt::format("model_type is \"{}\"; there are "
                                                "clip_vision_model and siglip_vision_model",
                                                type));
  // Defaults are those of transformers: published checkpoints leave fields out.
  vision.kind = is_clip ? VisionKind::kClip : VisionKind::kSiglip;
  vision.hidden = fields.extent("hidden_size", 768);
  vision.layers = fields.extent("num_hidden_layers", 12);
  vision.heads = fields.extent("num_attention_heads", 12);
  vision.intermediate = fields.extent("intermediate_size", 3072);
  vision.image_edge = fields.integer("image_size", 224, 1, 8192);
  vision.patch_edge = fields.integer("patch_size", is_clip ? 32 : 16, 1, 8192);
  vision.norm_epsilon =
      static_cast<float>(fields.positive("layer_norm_eps", is_clip ? 1e-5 : 1e-6));
  vision.activation = fields.activation("hidden_act", is_clip ? "quick_gelu" : "gelu_pytorch_tanh");
  if (fields.integer("num_channels", 3, 1, kExtentMax) != 3)
    fields.fail(Code::kUnsupported, "num_channels is not 3; pictures are RGB");
  if (vision.hidden % vision.heads != 0)
    fields.fail(Code::kInvalidArgument, "hidden_size is not a multiple of num_attention_heads");
  if (vision.grid() < 1)
    fields.fail(Code::kInvalidArgument, "patch_size is larger than image_size");
  if (!fields.status().ok()) return fields.status();
  return vision;
}

// RoPE: rope_parameters (transformers 5) or rope_theta and rope_scaling (before).
double read_rope_theta(Fields& fields) {
  double theta = fields.positive("rope_theta", 10000.0);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const Json* const rope = fields.find(key);
    if (rope == nullptr) continue;
    if (!rope->is_object()) {
      fields.fail(Code::kInvalidArgument, fmt::format("{} is not an object", key));
      return theta;
    }
    Fields rope_fields(*rope, key);
    const std::string type =
        rope_fields.text("rope_type", rope_fields.text("type", "default").c_str());
    if (type != "default")
      rope_fields.fail(Code::kUnsupported,
                       fmt::format("rope_type is \"{}\"; there is \"default\"", type));
    theta = rope_fields.positive("rope_theta", theta);
    if (!rope_fields.status().ok())
      fields.fail(rope_fields.status().code(), rope_fields.status().message());
  }
  return theta;
}

void refuse_windows(Fields& fields) {
  if (fields.flag("use_sliding_window", false))
    fields.fail(Code::kUnsupported, "use_sliding_window is true; only full attention is there");
  const Json* const types = fields.find("layer_types");
  if (types == nullptr) return;
  for (const Json& type : *types)
    if (type != "full_attention")
      fields.fail(Code::kUnsupported,
                  fmt::format("layer_types has {}; only full_attention is there", type.dump()));
}

Result<TextConfig> read_text(const Json& object, const std::string& where) {
  Fields fields(object, where);
  TextConfig text;
  const std::string type = fields.text("model_type", "llama");
  const bool is_qwen2 = type == "qwen2";
  if (!is_qwen2 && type != "llama")
    fields.fail(Code::kUnsupported,
                fmt::format("model_type is \"{}\"; there are qwen2 and llama", type));
  text.vocabulary = fields.extent("vocab_size", is_qwen2 ? 151936 : 32000);
  text.hidden = fields.extent("hidden_size", 4096);
  text.layers = fields.integer("num_hidden_layers", 32, 1, kLayersMax);
  text.q_heads = fields.extent("num_attention_heads", 32);
  text.kv_heads = fields.extent("num_key_value_heads", is_qwen2 ? 32 : text.q_heads);
  text.head_dim = fields.extent("head_dim", text.hidden / text.q_heads);
  text.intermediate = fields.extent("intermediate_size", is_qwen2 ? 22016 : 11008);
  text.positions_max = fields.extent("max_position_embeddings", is_qwen2 ? 32768 : 2048);
  text.norm_epsilon = static_cast<float>(fields.positive("rms_norm_eps", 1e-6));
  text.rope_theta = read_rope_theta(fields);
  text.qkv_bias = is_qwen2;
  text.tied_embeddings = fields.flag("tie_word_embeddings", false);

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

Status read_features(Fields& fields, ModelConfig& config) {
  const Json* const layer = fields.find("vision_feature_layer");
  if (layer != nullptr && layer->is_array())
    fields.fail(Code::kUnsupported, "vision_feature_layer is a list; one layer is supported");
  const int layers = config.vision.layers;
  const int index = layer != nullptr && layer->is_array()
                        ? -1
                        : fields.integer("vision_feature_layer", -2, -layers - 1, layers);
  config.vision_layers_used = index < 0 ? layers + 1 + index : index;

  const std::string select = fields.text("vision_feature_select_strategy", "default");
  if (select == "default")
    config.feature_select = FeatureSelect::kDropFirst;
  else if (select == "full")
    config.feature_select = FeatureSelect::kFull;
  else
    fields.fail(Code::kUnsupported, fmt::format("vision_feature_select_strategy is \"{}\"; there "
                                                "are default and full",
                                                select));
  if (config.tokens_per_image() < 1)
    fields.fail(Code::kInvalidArgument, "an image would have no tokens");
  const int stated = fields.extent("image_seq_length", config.tokens_per_image());
  // Old checkpoints carry transformers' default, 576, whatever their tower gives.
  if (stated != config.tokens_per_image() && stated != 576)
    fields.fail(Code::kInvalidArgument, fmt::format("image_seq_length is {}, the vision tower "
                                                    "gives {}",
                                                    stated, config.tokens_per_image()));
  return fields.status();
}

// "eos_token_id": 2 or [2, 3]; null leaves `tokens` as it is.
void read_eos(Fields& fields, std::vector<int32_t>& tokens) {
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

Status read_generation_config(const std::string& folder, std::vector<int32_t>& eos_tokens) {
  const std::string path = folder + "/generation_config.json";
  auto text = read_text_file(path, kConfigBytesMax);
  if (!text.ok()) return text.status().code() == Code::kNotFound ? Status() : text.status();
  VKV_TRY_ASSIGN(json, parse_json(text.value(), path));
  if (!json.is_object()) return {Code::kDataLoss, path + ": not a JSON object"};
  Fields fields(json, path);
  read_eos(fields, eos_tokens);
  return fields.status();
}

}  // namespace

Result<ModelConfig> load_model_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  auto file_text = read_text_file(path, kConfigBytesMax);
  if (!file_text.ok() && file_text.status().code() == Code::kNotFound)
    return Status(Code::kNotFound,
                  fmt::format("{}: no config.json; give the folder of a Hugging Face "
                              "checkpoint, or a GGUF file",
                              folder));
  if (!file_text.ok()) return file_text.status();
  VKV_TRY_ASSIGN(json, parse_json(file_text.value(), path));
  if (!json.is_object()) return Status(Code::kDataLoss, path + ": not a JSON object");

  Fields fields(json, path);
  const std::string type = fields.text("model_type", "");
  VKV_TRY(check_architecture(fields, type, path));
  if (fields.find("quantization_config") != nullptr)
    return Status(Code::kUnsupported,
                  path + ": quantized weights are not read; give an F32, F16 or BF16 checkpoint");

  ModelConfig config;
  if (type != "llava") {
    VKV_TRY_ASSIGN(text, read_text(json, path));
    config.text = text;
    read_eos(fields, config.eos_tokens);
    VKV_TRY(fields.status());
    VKV_TRY(read_generation_config(folder, config.eos_tokens));
    return config;
  }
  VKV_TRY_ASSIGN(vision_object, find_object(json, "vision_config", path));
  VKV_TRY_ASSIGN(text_object, find_object(json, "text_config", path));
  VKV_TRY_ASSIGN(vision, read_vision(*vision_object, path));
  VKV_TRY_ASSIGN(text, read_text(*text_object, path + ": text_config"));
  config.vision = vision;
  config.text = text;
  config.text.tied_embeddings |= fields.flag("tie_word_embeddings", false);
  VKV_TRY(read_features(fields, config));
  config.projector_activation = fields.activation("projector_hidden_act", "gelu");
  config.projector_bias = fields.flag("multimodal_projector_bias", true);
  const char* const image_key =
      fields.find("image_token_id") != nullptr ? "image_token_id" : "image_token_index";
  config.image_token = fields.integer(image_key, 32000, 0, config.text.vocabulary - 1);

  Fields text_fields(*text_object, path + ": text_config");
  read_eos(text_fields, config.eos_tokens);
  read_eos(fields, config.eos_tokens);
  VKV_TRY(text_fields.status());
  VKV_TRY(fields.status());
  VKV_TRY(read_generation_config(folder, config.eos_tokens));
  return config;
}

}  // namespace vkv
