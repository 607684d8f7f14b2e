// image_processor_test.cpp: pixel values equal those of transformers' CLIP and SigLIP processors.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/image_processor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/temporary_directory.h"
#include "tools/mllm/media.h"

namespace vkv {
namespace {

const std::string kGolden = VKV_SOURCE_DIR "/tests/golden/media/";

ImageProcessor parsed(const std::string& text) {
  Result<ImageProcessor> processor = ImageProcessor::parse(text, "test");
  VKV_CHECK(processor.ok());
  return processor.value();
}

void expect_error(const std::string& text, Code code, const std::string& words) {
  const Result<ImageProcessor> processor = ImageProcessor::parse(text, "settings.json");
  ASSERT_FALSE(processor.ok()) << text;
  EXPECT_EQ(processor.status().code(), code) << processor.status().message();
  EXPECT_NE(processor.status().message().find(words), std::string::npos)
      << processor.status().message();
}

TEST(image_processor, values_equal_those_of_transformers) {
  const nlohmann::json settings = nlohmann::json::parse(std::ifstream(kGolden + "processors.json"));
  ASSERT_EQ(settings.size(), 6u);
  for (const auto& [name, setting] : settings.items()) {
    const ImageProcessor processor = parsed(setting.dump());
    for (const std::string source : {"small", "wide"}) {
      Result<Image> image = load_image(kGolden + source + ".npy");
      Result<Image> bytes = load_image(kGolden + name + "_" + source + ".npy");
      ASSERT_TRUE(image.ok() && bytes.ok());
      std::vector<float> expected(bytes.value().rgb.size() / sizeof(float));
      std::memcpy(expected.data(), bytes.value().rgb.data(), bytes.value().rgb.size());

      Result<std::vector<float>> values = processor.process(image.value());
      ASSERT_TRUE(values.ok()) << values.status().message();
      ASSERT_EQ(values.value().size(), expected.size());
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(values.value()[i], expected[i], 1e-6) << name << " " << source << " at " << i;
      }
    }
  }
}

TEST(image_processor, the_checkpoint_s_own_settings_are_found) {
  Result<ImageProcessor> processor =
      ImageProcessor::load(VKV_SOURCE_DIR "/tools/tinyvlm/golden/random");
  ASSERT_TRUE(processor.ok()) << processor.status().message();
  EXPECT_EQ(processor.value().height(), 128);
  EXPECT_EQ(processor.value().width(), 128);
}

TEST(image_processor, nested_settings_come_before_the_older_file) {
  const TemporaryDirectory folder;
  const auto write = [&](const char* name, const std::string& text) {
    std::ofstream(folder / name) << text;
  };
  EXPECT_EQ(ImageProcessor::load(folder.path()).status().code(), Code::kNotFound);
  write("preprocessor_config.json",
        R"({"image_processor_type": "SiglipImageProcessor", "size": {"height": 8, "width": 8}})");
  write("processor_config.json", R"({"image_token": "<image>"})");
  EXPECT_EQ(ImageProcessor::load(folder.path()).value().height(), 8);
  write("processor_config.json", R"({"image_processor": {"image_processor_type":
        "SiglipImageProcessorFast", "size": {"height": 9, "width": 8}}})");
  EXPECT_EQ(ImageProcessor::load(folder.path()).value().height(), 9);
  write("processor_config.json", "{");
  EXPECT_EQ(ImageProcessor::load(folder.path()).status().code(), Code::kInvalidArgument);
}

TEST(image_processor, defaults_are_those_of_the_processor_named) {
  const ImageProcessor clip = parsed(R"({"image_processor_type": "CLIPImageProcessor"})");
  EXPECT_EQ(clip.height(), 224);
  const Image black{30, 20, std::vector<uint8_t>(1800, 0)};
  Result<std::vector<float>> values = clip.process(black);
  ASSERT_TRUE(values.ok());
  EXPECT_NEAR(values.value()[0], -0.48145466 / 0.26862954, 1e-6);
  EXPECT_NEAR(values.value()[2 * 224 * 224], -0.40821073 / 0.27577711, 1e-6);

  // Older files: a feature extractor, and numbers instead of objects.
  const ImageProcessor older =
      parsed(R"({"feature_extractor_type": "CLIPFeatureExtractor", "size": 20, "crop_size": 18})");
  EXPECT_EQ(older.height(), 18);
  EXPECT_EQ(older.process(black).value().size(), 3u * 18 * 18);
}

TEST(image_processor, unknown_settings_are_refused_by_name) {
  expect_error("[]", Code::kInvalidArgument, "settings.json: is not a JSON object");
  expect_error("{", Code::kInvalidArgument, "not a JSON object");
  expect_error(R"({"image_processor_type": "Qwen2VLImageProcessor"})", Code::kUnsupported,
               "\"Qwen2VLImageProcessor\"; there are CLIPImageProcessor SiglipImageProcessor");
  expect_error("{}", Code::kUnsupported, "there are CLIPImageProcessor");
  const auto siglip = [](const std::string& more) {
    return R"({"image_processor_type": "SiglipImageProcessor", )" + more + "}";
  };
  expect_error(siglip(R"("resample": 1)"), Code::kInvalidArgument, "\"resample\" is 1");
  expect_error(siglip(R"("size": {"height": 8})"), Code::kInvalidArgument, "\"size\"");
  expect_error(siglip(R"("size": {"height": 0, "width": 4})"), Code::kInvalidArgument, "\"size\"");
  expect_error(siglip(R"("size": {"longest_edge": 4})"), Code::kInvalidArgument, "longest_edge");
  expect_error(siglip(R"("size": {"shortest_edge": 8})"), Code::kUnsupported, "no fixed size");
  expect_error(siglip(R"("do_resize": false)"), Code::kUnsupported, "no fixed size");
  expect_error(siglip(R"("do_resize": "yes")"), Code::kInvalidArgument, "\"do_resize\"");
  expect_error(siglip(R"("image_std": [1, 0, 1])"), Code::kInvalidArgument, "\"image_std\"");
  expect_error(siglip(R"("image_mean": 0.5)"), Code::kInvalidArgument, "\"image_mean\"");
  expect_error(siglip(R"("rescale_factor": 0)"), Code::kInvalidArgument, "\"rescale_factor\"");
}

TEST(image_processor, a_picture_too_long_to_resize_is_an_error) {
  const ImageProcessor clip = parsed(R"({"image_processor_type": "CLIPImageProcessor"})");
  const Image line{2000, 1, std::vector<uint8_t>(6000, 9)};
  EXPECT_EQ(clip.process(line).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(clip.process(Image{}).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace vkv
