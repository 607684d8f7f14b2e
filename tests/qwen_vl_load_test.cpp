// qwen_vl_load_test.cpp: a Qwen-VL checkpoint that is incomplete, contradicts itself or is of
// another kind is one clear error; old and new layouts of its files are read.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/temporary_directory.h"
#include "tools/mllm/model.h"
#include "tools/mllm/tokenizer.h"
#include "tools/vkv/job_media.h"

namespace vkv {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

const fs::path kGolden = VKV_SOURCE_DIR "/tests/golden/qwen_vl";
constexpr char kShard[] = "model-00002-of-00003.safetensors";

class qwen_vl_load : public testing::Test {
 protected:
  void copy(const char* family) {
    for (const auto& entry : fs::directory_iterator(kGolden / family))
      if (entry.path().filename() != "golden.safetensors")
        fs::copy_file(entry.path(), scratch_ / entry.path().filename().string(),
                      fs::copy_options::overwrite_existing);
  }

  Json read(const char* name) const { return Json::parse(std::ifstream(scratch_ / name)); }
  void write(const char* name, const std::string& text) const {
    std::ofstream(scratch_ / name, std::ios::binary) << text;
  }

  // With one field of a file changed.
  void expect_refused(const char* field, const Json& value, Code code, const std::string& words) {
    const Json config = read("config.json");
    Json changed = config;
    changed[Json::json_pointer(field)] = value;
    write("config.json", changed.dump());
    expect_error(Model::load(scratch_.path(), {}).status(), code, words);
    write("config.json", config.dump());
  }

  static void expect_error(const Status& status, Code code, const std::string& words) {
    EXPECT_EQ(status.code(), code) << words << ": " << status.message();
    EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
    EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
  }

  TemporaryDirectory scratch_;
};

TEST_F(qwen_vl_load, a_missing_or_cut_shard_is_named) {
  copy("qwen2_5_vl");
  fs::resize_file(scratch_ / kShard, 5000);
  expect_error(Model::load(scratch_.path(), {}).status(), Code::kDataLoss, kShard);
  fs::remove(scratch_ / kShard);
  expect_error(Model::load(scratch_.path(), {}).status(), Code::kNotFound,
               std::string("the shard ") + kShard + " that model.safetensors.index.json names");
  // A tensor that the index promises, in a shard that has it not.
  fs::copy_file(scratch_ / "model-00001-of-00003.safetensors", scratch_ / kShard);
  expect_error(Model::load(scratch_.path(), {}).status(), Code::kDataLoss, "stands in two shards");
}

TEST_F(qwen_vl_load, what_there_is_no_code_for_is_refused) {
  copy("qwen2_5_vl");
  const Code code = Code::kUnsupported;
  expect_refused("/model_type", "qwen3_vl", code, "\"qwen2_5_vl\" (Qwen2_5_VLFor");
  expect_refused("/architectures", {"Qwen2_5OmniModel"}, code, "\"qwen2_vl\" (Qwen2VLFor");
  expect_refused("/quantization_config", {{"quant_method", "awq"}}, code,
                 "quantization_config of \"awq\": quantized weights are not read");
  expect_refused("/text_config/quantization_config", {{"bits", 4}}, code,
                 "text_config: quantization_config: quantized");
  expect_refused("/text_config/rope_parameters/mrope_interleaved", true, code, "in a row");
  expect_refused("/text_config/rope_parameters/partial_rotary_factor", 0.5, code,
                 "partial_rotary_factor is not 1");
  expect_refused("/vision_config/rope_parameters/rope_type", "dynamic", code,
                 "vision_config: rope_parameters have rope_type \"dynamic\"");
  expect_refused("/vision_config/rope_parameters/rope_theta", 500.0, code, "rope_theta 500");
  expect_refused("/text_config/rope_parameters/rope_type", "yarn", code, "rope_type is \"yarn\"");
  expect_refused("/text_config/use_sliding_window", true, code, "use_sliding_window");
  expect_refused("/vision_config/hidden_act", "relu", code, "there are gelu");
  expect_refused("/vision_config/in_chans", 1, code, "RGB");
}

TEST_F(qwen_vl_load, values_that_contradict_each_other_are_refused) {
  copy("qwen2_5_vl");
  const Code code = Code::kInvalidArgument;
  const char* section = "/text_config/rope_parameters/mrope_section";
  expect_refused(section, {4, 6, 7}, code, "add up to 16");
  expect_refused(section, {4, 12}, code, "not three counts");
  expect_refused(section, "4", code, "not a list of integers");
  expect_refused(section, nullptr, code, "no mrope_section");
  expect_refused("/vision_config/fullatt_block_indexes", {1, 7}, code, "there are 3 layers");
  expect_refused("/vision_config/out_hidden_size", 32, code, "the decoder has 64");
  expect_refused("/vision_config/num_heads", 3, code, "are not 3 heads");
  expect_refused("/vision_config/window_size", 4, code, "window_size is 4; it may be 8 to");
  expect_refused("/image_token_id", 320, code, "image_token_id is 320");
  expect_refused("/vision_config", nullptr, code, "no vision_config");
}

TEST_F(qwen_vl_load, tensors_of_another_shape_are_named) {
  copy("qwen2_5_vl");
  const Code code = Code::kInvalidArgument;
  expect_refused("/vision_config/patch_size", 2, code,
                 "patch_embed.proj.weight has shape [32, 3, 2, 4, 4]");
  expect_refused("/vision_config/intermediate_size", 41, code, "blocks.0.mlp.gate_proj.weight");
  expect_refused("/text_config/intermediate_size", 41, code, "mlp.gate_proj.weight");
  expect_refused("/vision_config/depth", 4, Code::kNotFound, "blocks.3.");
  copy("qwen2_vl");
  expect_refused("/vision_config/mlp_ratio", 3, code, "blocks.0.mlp.fc1.weight");
}

TEST_F(qwen_vl_load, a_tokenizer_without_merges_is_refused) {
  copy("qwen2_5_vl");
  const Json tokenizer = read("tokenizer.json");
  for (const Json& merges : {Json(), Json::array()}) {
    Json changed = tokenizer;
    changed["model"]["merges"] = merges;
    write("tokenizer.json", changed.dump());
    expect_error(Tokenizer::load(scratch_.path()).status(), Code::kDataLoss,
                 "tokenizer.json: the model has no merges");
  }
}

TEST_F(qwen_vl_load, a_processor_of_other_patches_is_refused) {
  copy("qwen2_vl");
  const auto model = Model::load(scratch_.path(), {});
  ASSERT_TRUE(model.ok()) << model.status().message();
  const ModelConfig& config = model.value()->config();
  EXPECT_TRUE(load_media_processor(scratch_.path(), config).ok());
  const auto expect_processor_refused = [&](const char* field, const Json& value, Code code,
                                            const std::string& words) {
    const Json settings = read("preprocessor_config.json");
    Json changed = settings;
    changed[field] = value;
    write("preprocessor_config.json", changed.dump());
    expect_error(load_media_processor(scratch_.path(), config).status(), code, words);
    write("preprocessor_config.json", settings.dump());
  };
  const Code code = Code::kInvalidArgument;
  expect_processor_refused("patch_size", 14, code, "of different checkpoints");
  expect_processor_refused("merge_size", 1.5, code, "\"merge_size\" must be a whole number");
  expect_processor_refused("min_pixels", 1e9, code, "\"min_pixels\" is more than max_pixels");
  expect_processor_refused("max_pixels", -1, code, "\"max_pixels\" must be a number above 0");
  expect_processor_refused("image_processor_type", "SiglipImageProcessor", code,
                           "of different families");
  expect_processor_refused("image_processor_type", "ViTImageProcessor", Code::kUnsupported,
                           "there are CLIPImageProcessor");
}

// transformers 5 writes text_config, earlier releases and the published files have it on top.
TEST_F(qwen_vl_load, the_nested_and_the_flat_layout_give_the_same_model) {
  copy("qwen2_vl");
  const Json flat = read("config.json");
  const auto before = Model::load(scratch_.path(), {});
  ASSERT_TRUE(before.ok()) << before.status().message();
  Json text, nested = {{"model_type", "qwen2_vl"}, {"vision_config", flat["vision_config"]}};
  for (const auto& [key, value] : flat.items())
    if (key.ends_with("_token_id") && key != "eos_token_id")
      nested[key] = value;
    else if (key != "model_type" && key != "vision_config" && key != "architectures")
      text[key] = value;
  text.erase("rope_scaling");
  text.erase("rope_theta");
  text["rope_parameters"] = {
      {"rope_type", "default"}, {"rope_theta", 1e6}, {"mrope_section", {4, 6, 6}}};
  nested["text_config"] = text;
  write("config.json", nested.dump());
  const auto after = Model::load(scratch_.path(), {});
  ASSERT_TRUE(after.ok()) << after.status().message();
  const ModelConfig &a = before.value()->config(), &b = after.value()->config();
  EXPECT_EQ(a.text.rope_section, b.text.rope_section);
  EXPECT_EQ(a.text.rope_theta, b.text.rope_theta);
  EXPECT_EQ(a.image_token, b.image_token);
  EXPECT_EQ(a.eos_tokens, b.eos_tokens);
  EXPECT_EQ(before.value()->kv_shape(), after.value()->kv_shape());
}

// By transformers 5.17.
TEST(smart_resize, gives_the_sizes_of_transformers) {
  const struct {
    PixelSize size;
    int factor;
    int64_t pixels_min, pixels_max;
    PixelSize expected;
  } kCases[] = {
      {{1080, 1920}, 28, 3136, 12845056, {1092, 1932}},
      {{1080, 1920}, 28, 3136, 100352, {224, 420}},
      {{10, 10}, 28, 3136, 12845056, {56, 56}},
      {{42, 70}, 28, 3136, 1003520, {56, 56}},
      {{14, 14}, 28, 784, 1003520, {28, 28}},
      {{98, 126}, 28, 784, 1003520, {112, 112}},
      {{3, 600}, 28, 3136, 1003520, {28, 812}},
      {{4000, 30}, 28, 3136, 602112, {4004, 28}},
      {{480, 640}, 28, 100352, 602112, {476, 644}},
      {{37, 13}, 8, 256, 1280, {40, 16}},
      {{7000, 9000}, 28, 3136, 12845056, {3136, 4060}},
  };
  for (const auto& of : kCases) {
    const auto size = smart_resize(of.size, of.factor, of.pixels_min, of.pixels_max);
    ASSERT_TRUE(size.ok()) << size.status().message();
    EXPECT_EQ(size.value(), of.expected) << of.size.height << " " << of.size.width;
  }
  EXPECT_EQ(smart_resize({2, 500}, 28, 784, 100000).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace vkv
