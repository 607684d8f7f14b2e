// llava_onevision_test.cpp: LLaVA-OneVision gives what transformers gives: tiles, tokens of the
// prompt, visual tokens, logits.
// SPDX-License-Identifier: Apache-2.0
//
// tests/golden/llava_onevision/make_golden.py describes the files.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/llava_golden.h"
#include "tests/plain_cache.h"
#include "tests/temporary_directory.h"
#include "tools/mllm/generate.h"
#include "tools/mllm/tile_packing.h"

namespace vkv {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const std::string kFolder = VKV_SOURCE_DIR "/tests/golden/llava_onevision";
constexpr float kTolerance = 1e-4f;  // 1e-3 is what is promised
constexpr size_t kAnswerTokens = 4;  // behind the prompt
constexpr int kLogitRows = 6;        // of the last positions

struct Case {
  std::string name, question;
  MediaFiles files;
};

std::vector<Case> load_cases() {
  std::vector<Case> cases;
  const Json json = Json::parse(std::ifstream(kFolder + "/cases.json"));
  for (const Json& entry : json["cases"]) {
    Case& of = cases.emplace_back(Case{entry["name"], entry["question"], {}});
    for (const std::string name : entry["media"]) {
      const std::string path = kFolder + "/" + name + ".npy";
      if (of.name == "video")
        of.files.video = path;
      else
        of.files.pictures.push_back(path);
    }
  }
  return cases;
}

class llava_onevision : public testing::Test {
 protected:
  void SetUp() override {
    auto model = Model::load(kFolder, {});
    ASSERT_TRUE(model.ok()) << model.status().message();
    model_ = std::move(model.value());
    auto processor = MediaProcessor::load(kFolder);
    ASSERT_TRUE(processor.ok()) << processor.status().message();
    processor_.emplace(std::move(processor.value()));
    golden_.emplace(std::move(SafetensorsFile::open(kFolder + "/golden.safetensors").value()));
  }

  std::vector<float> floats(const Case& of, const char* what) const {
    return golden_floats(*golden_, (of.name + "." + what).c_str());
  }
  std::vector<int32_t> tokens(const Case& of) const {
    return golden_tokens(*golden_, (of.name + ".input_ids").c_str());
  }

  std::unique_ptr<FileMedia> open(const Case& of, int64_t piece_steps) const {
    auto media = FileMedia::open(of.files, &*processor_,
                                 [=](const VisualShape&) { return piece_steps; }, {});
    EXPECT_TRUE(media.ok()) << media.status().message();
    return std::move(media.value());
  }
  std::vector<VisualInput> inputs(const Case& of, int64_t piece_steps = 100) const {
    const auto media = open(of, piece_steps);
    std::vector<VisualInput> all;
    while (true) {
      const auto piece = media->next({});
      EXPECT_TRUE(piece.ok()) << piece.status().message();
      if (!piece.ok() || piece.value().empty()) return all;
      all.insert(all.end(), piece.value().begin(), piece.value().end());
    }
  }

  std::unique_ptr<Model> model_;
  std::optional<MediaProcessor> processor_;
  std::optional<SafetensorsFile> golden_;
};

TEST_F(llava_onevision, pictures_and_videos_become_the_tiles_of_transformers) {
  for (const Case& of : load_cases()) {
    std::vector<float> values;
    for (const VisualInput& input : inputs(of))
      values.insert(values.end(), input.values.begin(), input.values.end());
    EXPECT_LE(golden_difference(values, floats(of, "pixels")), 1e-6f) << of.name;
  }
}

TEST_F(llava_onevision, prompts_have_the_tokens_of_transformers) {
  const auto tokenizer = Tokenizer::load(kFolder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  const auto prompt = Prompt::make(&tokenizer.value(), PromptStyle::kAuto, model_->config());
  ASSERT_TRUE(prompt.ok()) << prompt.status().message();
  for (const Case& of : load_cases()) {
    std::vector<int32_t> all = prompt.value().media(open(of, 1)->shapes()).value().tokens;
    const auto question = prompt.value().question(of.question, true).value().tokens;
    all.insert(all.end(), question.begin(), question.end());
    std::vector<int32_t> expected = tokens(of);
    expected.resize(expected.size() - kAnswerTokens);
    EXPECT_EQ(all, expected) << of.name;
  }
}

TEST_F(llava_onevision, visual_tokens_and_logits_equal_those_of_transformers) {
  PlainCache cache(model_->kv_shape(), PlainCache::Values::kAsGiven);
  for (const Case& of : load_cases()) {
    const auto features = model_->encode_images(inputs(of), {});
    ASSERT_TRUE(features.ok()) << features.status().message();
    const float difference = golden_difference(features.value(), floats(of, "features"));
    EXPECT_LE(difference, kTolerance) << of.name;

    const std::vector<int32_t> all = tokens(of);
    const std::vector<Role> roles(all.size(), Role::kText);
    const SequenceId sequence = cache.create_sequence().value();
    const auto logits = model_->forward(cache,
                                        {.sequence = sequence,
                                         .tokens = all,
                                         .roles = roles,
                                         .visual = features.value(),
                                         .logit_count = kLogitRows},
                                        {});
    ASSERT_TRUE(logits.ok()) << logits.status().message();
    const float of_logits = golden_difference(logits.value(), floats(of, "logits"));
    EXPECT_LE(of_logits, kTolerance) << of.name;
    std::printf("%s: visual tokens %.1e, logits %.1e\n", of.name.c_str(),
                static_cast<double>(difference), static_cast<double>(of_logits));
  }
}

TEST_F(llava_onevision, a_video_in_pieces_has_the_answer_of_the_whole) {
  const auto tokenizer = Tokenizer::load(kFolder);
  const auto cache = Cache::open(
      {.shape = model_->kv_shape(), .recent_tokens = 16, .dram_bytes_max = uint64_t{64} << 20});
  auto generator = Generator::make(model_.get(), &tokenizer.value(), cache.value().get(),
                                   {.window_tokens_max = 40});
  ASSERT_TRUE(generator.ok()) << generator.status().message();
  for (const Case& of : load_cases()) {
    const Question question = {.text = of.question, .sampling = {.max_new_tokens = 6}};
    const auto media = generator.value().encode_media(inputs(of), {});
    ASSERT_TRUE(media.ok()) << media.status().message();
    const auto whole = generator.value().answer(question, media.value());
    ASSERT_TRUE(whole.ok()) << whole.status().message();
    const auto source = open(of, 2);
    const auto pieces = generator.value().answer(question, *source);
    ASSERT_TRUE(pieces.ok()) << pieces.status().message();
    EXPECT_EQ(pieces.value().tokens, whole.value().tokens) << of.name;
    EXPECT_EQ(pieces.value().prompt_tokens, whole.value().prompt_tokens) << of.name;
  }
}

TEST_F(llava_onevision, what_contradicts_itself_is_refused) {
  const TemporaryDirectory scratch;
  for (const auto& entry : fs::directory_iterator(kFolder))
    if (entry.is_regular_file() && entry.path().filename() != "golden.safetensors")
      fs::copy_file(entry.path(), scratch / entry.path().filename().string());
  const auto expect_refused = [&](const char* file, const char* field, const Json& value, Code code,
                                  const std::string& words) {
    const std::string path = scratch / file;
    const Json good = Json::parse(std::ifstream(path));
    Json changed = good;
    changed[Json::json_pointer(field)] = value;
    std::ofstream(path) << changed.dump();
    const Status status = std::string_view(file) == "config.json"
                              ? Model::load(scratch.path(), {}).status()
                              : MediaProcessor::load(scratch.path()).status();
    EXPECT_EQ(status.code(), code) << words << ": " << status.message();
    EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
    std::ofstream(path) << good.dump();
  };
  const Code unsupported = Code::kUnsupported, invalid = Code::kInvalidArgument;
  const char* const config = "config.json";
  expect_refused(config, "/vision_aspect_ratio", "pad", unsupported, "there is anyres_max_N");
  expect_refused(config, "/vision_aspect_ratio", "anyres_max_0", unsupported, "N from 1 to 1024");
  expect_refused(config, "/vision_feature_select_strategy", "default", unsupported, "no square");
  expect_refused(config, "/video_token_index", 320, invalid, "video_token_index is 320");
  const char* const settings = "preprocessor_config.json";
  expect_refused(settings, "/size", {{"height", 28}, {"width", 30}}, invalid, "must be a square");
  expect_refused(settings, "/image_grid_pinpoints", {{28, 30}}, invalid, "multiples of 28");
  expect_refused(settings, "/do_resize", false, invalid, "\"do_resize\" must be true");

  std::vector<VisualInput> picture = inputs(load_cases()[0]);
  picture[0].values.pop_back();
  const Status fewer = model_->encode_images(picture, {}).status();
  EXPECT_EQ(fewer.code(), invalid);
  EXPECT_NE(fewer.message().find("takes 3 x 3 x 28 x 28"), std::string::npos) << fewer.message();
  picture[0].shape.tile_columns = -1;
  EXPECT_EQ(model_->encode_images(picture, {}).status().code(), invalid);
}

// By transformers 5.17, of its own list of sizes.
TEST(best_resolution, is_that_of_transformers) {
  std::vector<PixelSize> sizes;
  for (int64_t rows = 1; rows <= 6; ++rows)
    for (int64_t columns = 1; columns <= 6; ++columns) sizes.push_back({384 * rows, 384 * columns});
  const struct {
    PixelSize picture, expected;
  } kCases[] = {{{480, 640}, {768, 768}},     {{1080, 1920}, {1152, 1920}},
                {{384, 384}, {384, 384}},     {{100, 100}, {384, 384}},
                {{3000, 500}, {2304, 384}},   {{500, 3000}, {384, 2304}},
                {{2304, 2304}, {2304, 2304}}, {{4000, 3000}, {2304, 1920}},
                {{385, 384}, {768, 384}},     {{10, 900}, {384, 1152}}};
  for (const auto& of : kCases)
    EXPECT_EQ(best_resolution(of.picture, sizes), of.expected)
        << of.picture.height << " x " << of.picture.width;
}

}  // namespace
}  // namespace vkv
