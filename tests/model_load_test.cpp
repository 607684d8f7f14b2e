// model_load_test.cpp: a checkpoint that is incomplete, contradicts itself or is of another kind is
// one clear error.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/plain_cache.h"
#include "tests/temporary_directory.h"
#include "tools/mllm/model.h"

namespace vkv {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

const fs::path kRandom = VKV_SOURCE_DIR "/tools/tinyvlm/golden/random";

// A copy of the random checkpoint whose config.json can be changed.
class model_load : public testing::Test {
 protected:
  model_load() {
    for (const char* file : {"config.json", "generation_config.json", "model.safetensors"})
      fs::copy_file(kRandom / file, scratch_ / file);
    config_ = Json::parse(std::ifstream(kRandom / "config.json"));
  }

  void write(const char* name, const std::string& text) const {
    std::ofstream(scratch_ / name, std::ios::binary) << text;
  }

  Status load_status() const { return Model::load(scratch_.path(), {}).status(); }

  // Loads with one field changed ("/text_config/head_dim") and expects an error.
  void expect_refused(const char* field, const Json& value, Code code, const std::string& words) {
    Json changed = config_;
    changed[Json::json_pointer(field)] = value;
    write("config.json", changed.dump());
    expect_error(code, words);
    write("config.json", config_.dump());
  }

  void expect_error(Code code, const std::string& words) const {
    const Status status = load_status();
    EXPECT_EQ(status.code(), code) << words << ": " << status.message();
    EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
    EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
  }

  TemporaryDirectory scratch_;
  Json config_;
};

TEST_F(model_load, the_random_checkpoint_is_read_as_it_is) {
  const auto model = Model::load(scratch_.path(), {.threads = 1});
  ASSERT_TRUE(model.ok()) << model.status().message();
  const ModelConfig& config = model.value()->config();
  EXPECT_EQ(config.tokens_per_image(), 64);
  EXPECT_EQ(config.vision_layers_used, 2);
  EXPECT_EQ(config.eos_tokens, std::vector<int32_t>{2});
  EXPECT_TRUE(config.text.tied_embeddings);
  EXPECT_EQ(config.text.rope_theta, 1e6);
  const KvShape expected = {.layers = 2, .q_heads = 2, .kv_heads = 1, .head_dim = 64};
  EXPECT_EQ(model.value()->kv_shape(), expected);
}

// Logits of the last of a few tokens.
Result<std::vector<float>> some_logits(Model& model) {
  const std::vector<int32_t> tokens = {5, 77, 300, 41};
  const std::vector<Role> roles(tokens.size(), Role::kText);
  PlainCache cache(model.kv_shape(), PlainCache::Values::kAsGiven);
  const SequenceId sequence = cache.create_sequence().value();
  return model.forward(cache, {.sequence = sequence, .tokens = tokens, .roles = roles}, {});
}

TEST_F(model_load, a_decoder_alone_computes_what_it_does_inside_a_llava) {
  const auto whole = Model::load(scratch_.path(), {.threads = 1});
  ASSERT_TRUE(whole.ok()) << whole.status().message();
  // As Qwen2ForCausalLM has it: the decoder's fields on top, tensors without "language_model.".
  Json config = config_["text_config"];
  config["architectures"] = {"Qwen2ForCausalLM"};
  config["tie_word_embeddings"] = true;
  write("config.json", config.dump());
  std::string file;
  {
    std::ifstream stream(kRandom / "model.safetensors", std::ios::binary);
    file.assign(std::istreambuf_iterator<char>(stream), {});
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), 8);
  std::string header = file.substr(8, header_bytes);
  const std::string_view prefix = "language_model.model.";
  for (size_t at = header.find(prefix); at != header.npos; at = header.find(prefix, at))
    header.replace(at, prefix.size(), "model.");
  header.resize(header_bytes, ' ');
  write("model.safetensors", file.replace(8, header_bytes, header));

  const auto alone = Model::load(scratch_.path(), {.threads = 1});
  ASSERT_TRUE(alone.ok()) << alone.status().message();
  EXPECT_FALSE(alone.value()->config().has_vision());
  EXPECT_EQ(alone.value()->kv_shape(), whole.value()->kv_shape());
  EXPECT_LT(alone.value()->weight_bytes(), whole.value()->weight_bytes());
  const auto expected = some_logits(*whole.value()), actual = some_logits(*alone.value());
  ASSERT_TRUE(expected.ok() && actual.ok());
  EXPECT_EQ(actual.value(), expected.value());

  config["architectures"] = {"LlamaForCausalLM"};
  write("config.json", config.dump());
  expect_error(Code::kUnsupported, "Qwen2ForCausalLM");
}

TEST_F(model_load, a_gpu_that_is_not_there_is_one_clear_error) {
  const Status status =
      Model::load(scratch_.path(), {.device = Device::kCuda, .device_index = 99}).status();
  EXPECT_EQ(status.code(), Code::kUnsupported) << status.message();
  const auto& words = status.message();
  EXPECT_TRUE(words == "built without CUDA (VKV_CUDA=OFF)" || words.starts_with("no GPU: ") ||
              words.starts_with("there is no GPU 99; CUDA sees "))
      << words;
  EXPECT_EQ(words.find('\n'), std::string::npos);
  EXPECT_TRUE(load_status().ok());  // the CPU still works
}

TEST_F(model_load, missing_files_are_named) {
  fs::remove(scratch_ / "model.safetensors");
  expect_error(Code::kNotFound, "neither model.safetensors nor");
  fs::remove(scratch_ / "config.json");
  expect_error(Code::kNotFound, "no config.json; give the folder of a Hugging Face");
}

TEST_F(model_load, a_truncated_file_of_weights_is_refused) {
  const auto path = scratch_ / "model.safetensors";
  for (const double part : {0.9, 0.01, 0.001, 0.0}) {
    const auto byte_count = static_cast<double>(fs::file_size(kRandom / "model.safetensors"));
    fs::resize_file(path, static_cast<uintmax_t>(part * byte_count));
    EXPECT_EQ(load_status().code(), Code::kDataLoss) << part;
  }
}

TEST_F(model_load, another_architecture_is_refused_with_what_there_is) {
  const Code code = Code::kUnsupported;
  expect_refused("/model_type", "gemma3", code, "there are \"llava\" (LlavaFor");
  expect_refused("/architectures", {"MistralForCausalLM"}, code, "LlavaForConditionalGeneration");
  expect_refused("/quantization_config", {{"bits", 4}}, code, "quantized weights");
  expect_refused("/text_config/partial_rotary_factor", 0.25, code,
                 "partial_rotary_factor is not 1");
  expect_refused("/text_config/rope_scaling", {{"rope_type", "llama3"}}, code,
                 "rope_type is \"llama3\"; there is \"default\"");
  expect_refused("/text_config/model_type", "gemma", code, "there are qwen2 and llama");
  expect_refused("/vision_config/model_type", "vit", code, "siglip_vision_model");
  expect_refused("/vision_config/hidden_act", "relu", code, "there are gelu, gelu_pytorch_tanh");
  expect_refused("/text_config/hidden_act", "gelu", code, "not silu");
  expect_refused("/text_config/rope_parameters/rope_type", "yarn", code, "rope_type is \"yarn\"");
  expect_refused("/text_config/rope_scaling", {{"type", "linear"}}, code, "\"default\"");
  expect_refused("/text_config/use_sliding_window", true, code, "use_sliding_window");
  expect_refused("/text_config/layer_types/1", "sliding_attention", code, "full_attention");
  expect_refused("/text_config/attention_bias", true, code, "attention_bias");
  expect_refused("/vision_feature_layer", {-1, -2}, code, "vision_feature_layer is a list");
  expect_refused("/vision_feature_select_strategy", "cls", code, "default and full");
  expect_refused("/text_config/head_dim", 260, code, "head_dim is 260");
}

TEST_F(model_load, values_out_of_range_are_refused) {
  const Code code = Code::kInvalidArgument;
  expect_refused("/text_config/num_key_value_heads", 3, code, "not a multiple");
  expect_refused("/text_config/num_hidden_layers", 0, code, "num_hidden_layers is 0");
  expect_refused("/text_config/hidden_size", -5, code, "hidden_size is -5");
  expect_refused("/text_config/hidden_size", "big", code, "hidden_size is not an integer");
  expect_refused("/text_config/rms_norm_eps", 0, code, "rms_norm_eps is not a positive number");
  expect_refused("/vision_config/num_attention_heads", 3, code, "not a multiple");
  expect_refused("/vision_config/patch_size", 256, code, "larger than image_size");
  expect_refused("/vision_config/num_channels", 1, Code::kUnsupported, "RGB");
  expect_refused("/vision_feature_layer", 3, code, "vision_feature_layer is 3; it may be -3 to 2");
  expect_refused("/image_seq_length", 65, code, "the vision tower gives 64");
  expect_refused("/image_token_index", 512, code, "image_token_index is 512");
  expect_refused("/eos_token_id", "end", code, "eos_token_id");
  expect_refused("/vision_config", 5, code, "no vision_config");
}

TEST_F(model_load, tensors_of_another_shape_are_named) {
  const Code code = Code::kInvalidArgument;
  expect_refused("/text_config/vocab_size", 600, code, "embed_tokens.weight has shape [512, 128]");
  expect_refused("/text_config/intermediate_size", 100, code, "mlp.gate_proj.weight");
  expect_refused("/vision_config/hidden_size", 32, code, "patch_embedding.weight");
  expect_refused("/vision_config/image_size", 256, code, "image_seq_length");
  expect_refused("/text_config/num_hidden_layers", 3, Code::kNotFound, "layers.2.");
  expect_refused("/text_config/model_type", "llama", code, "q_proj has a bias");
}

TEST_F(model_load, a_model_without_output_matrix_is_refused) {
  Json changed = config_;
  changed["tie_word_embeddings"] = false;
  changed["text_config"]["tie_word_embeddings"] = false;
  write("config.json", changed.dump());
  expect_error(Code::kNotFound, "no lm_head.weight");
}

TEST_F(model_load, broken_json_is_named_with_its_file) {
  write("generation_config.json", "{");
  expect_error(Code::kDataLoss, "generation_config.json: not valid JSON");
  write("config.json", "[]");
  expect_error(Code::kDataLoss, "config.json: not a JSON object");
  write("config.json", "");
  expect_error(Code::kDataLoss, "config.json: not valid JSON");
}

}  // namespace
}  // namespace vkv
