// qwen_vl_test.cpp: Qwen2-VL and Qwen2.5-VL give what transformers gives: patches of pictures and
// videos, tokens of the prompt, positions, visual tokens, logits.
// SPDX-License-Identifier: Apache-2.0
//
// tests/golden/qwen_vl/make_golden.py describes the files.
#include <gtest/gtest.h>

#include "tests/plain_cache.h"
#include "tests/qwen_vl_golden.h"
#include "tools/mllm/generate.h"
#include "tools/mllm/prompt.h"

namespace vkv {
namespace {

constexpr float kTolerance = 1e-4f;  // 1e-3 is what is promised

// One test a checkpoint.
class qwen_vl : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto model = Model::load(folder(), {});
    ASSERT_TRUE(model.ok()) << model.status().message();
    model_ = std::move(model.value());
    auto golden = SafetensorsFile::open(folder() + "/golden.safetensors");
    ASSERT_TRUE(golden.ok()) << golden.status().message();
    golden_.emplace(std::move(golden.value()));
  }

  static std::string folder() { return kQwenVl + GetParam(); }

  std::vector<float> floats(const QwenCase& of, const char* what) const {
    return golden_floats(*golden_, (of.name + "." + what).c_str());
  }
  std::vector<int32_t> integers(const QwenCase& of, const char* what) const {
    return golden_tokens(*golden_, (of.name + "." + what).c_str());
  }

  static std::vector<VisualInput> inputs(const QwenCase& of) { return qwen_inputs(folder(), of); }

  std::unique_ptr<Model> model_;
  std::optional<SafetensorsFile> golden_;
};

TEST_P(qwen_vl, pictures_and_videos_become_the_patches_of_transformers) {
  for (const QwenCase& of : load_qwen_cases()) {
    std::vector<int32_t> grid;
    std::vector<float> values;
    for (const VisualInput& input : inputs(of)) {
      const VisualShape& shape = input.shape;
      grid.insert(grid.end(), {shape.steps, shape.height, shape.width});
      values.insert(values.end(), input.values.begin(), input.values.end());
      EXPECT_EQ(shape.is_video, of.name == "video");
      EXPECT_EQ(shape.step_seconds, shape.is_video ? 2.0 : 0.0);
    }
    EXPECT_EQ(grid, integers(of, "grid")) << of.name;
    const std::vector<float> expected = floats(of, "patches");
    if (!expected.empty()) {
      EXPECT_LE(golden_difference(values, expected), 1e-6f) << of.name;
    }
  }
}

TEST_P(qwen_vl, prompts_have_the_tokens_and_positions_of_transformers) {
  const auto tokenizer = Tokenizer::load(folder());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  const auto prompt = Prompt::make(&tokenizer.value(), PromptStyle::kAuto, model_->config());
  ASSERT_TRUE(prompt.ok()) << prompt.status().message();
  for (const QwenCase& of : load_qwen_cases()) {
    const auto media = prompt.value().media(shapes_of(inputs(of)));
    ASSERT_TRUE(media.ok()) << media.status().message();
    std::vector<int32_t> tokens = media.value().tokens;
    const auto question = prompt.value().question(of.question, true).value().tokens;
    tokens.insert(tokens.end(), question.begin(), question.end());
    std::vector<int32_t> expected = integers(of, "input_ids");
    expected.resize(expected.size() - kQwenAnswerTokens);
    EXPECT_EQ(tokens, expected) << of.name;

    // positions: [3, tokens]
    const std::vector<int32_t> positions = integers(of, "positions");
    const size_t count = positions.size() / 3;
    for (size_t i = 0; i < count; ++i) {
      const RopePosition at = {positions[i], positions[count + i], positions[2 * count + i]};
      const auto next = static_cast<int32_t>(static_cast<int64_t>(i) + media.value().rope_delta);
      const RopePosition behind = {next, next, next};
      ASSERT_EQ(i < media.value().rope.size() ? media.value().rope[i] : behind, at)
          << of.name << " " << i;
    }
  }
}

TEST_P(qwen_vl, visual_tokens_equal_those_of_transformers) {
  for (const QwenCase& of : load_qwen_cases()) {
    const auto features = model_->encode_images(inputs(of), {});
    ASSERT_TRUE(features.ok()) << features.status().message();
    const float difference = golden_difference(features.value(), floats(of, "features"));
    EXPECT_LE(difference, kTolerance) << of.name;
    std::printf("%s %s: visual tokens %.1e\n", GetParam().c_str(), of.name.c_str(),
                static_cast<double>(difference));
  }
}

// Of a video that goes through the tower in several passes.
TEST_P(qwen_vl, a_video_in_pieces_has_the_bits_of_the_whole) {
  const auto processor = MediaProcessor::load(folder());
  const Image picture = load_image(kQwenVl + "wide.npy").value();
  Video video;
  for (size_t i = 0; i < 151; ++i) {
    Image frame = picture;
    for (size_t at = i; at < frame.rgb.size(); at += 7) frame.rgb[at] ^= 0x55;
    video.frames.push_back(frame);
  }
  const auto whole = processor.value().video(video).value();
  const VisualShape& shape = whole[0].shape;
  const int64_t pass_steps = model_->steps_per_pass(shape);
  ASSERT_EQ(shape.steps, 76);
  ASSERT_GT(shape.steps, 2 * pass_steps);
  const auto expected = model_->encode_images(whole, {});
  ASSERT_TRUE(expected.ok()) << expected.status().message();
  for (const int64_t steps : {pass_steps, 2 * pass_steps}) {
    std::vector<float> rows;
    const auto piece_frames = static_cast<size_t>(steps * processor.value().frames_per_step());
    for (size_t first = 0; first < video.frames.size(); first += piece_frames) {
      const auto frames = std::span<const Image>(video.frames).subspan(first);
      const auto piece =
          processor.value().frames(frames.first(std::min(piece_frames, frames.size())));
      const auto encoded = model_->encode_images(piece.value(), {});
      ASSERT_TRUE(encoded.ok()) << encoded.status().message();
      rows.insert(rows.end(), encoded.value().begin(), encoded.value().end());
    }
    EXPECT_EQ(rows, expected.value()) << steps;
  }
}

// The media are one window, and what is behind them another, or a step each token.
TEST_P(qwen_vl, logits_equal_those_of_transformers) {
  PlainCache cache(model_->kv_shape(), PlainCache::Values::kAsGiven);
  for (const QwenCase& of : load_qwen_cases()) {
    const std::vector<int32_t> tokens = integers(of, "input_ids");
    for (const size_t first : {tokens.size(), tokens.size() - kQwenAnswerTokens}) {
      const float difference = golden_difference(
          qwen_logits(*model_, cache, inputs(of), tokens, first), floats(of, "logits"));
      EXPECT_LE(difference, kTolerance) << of.name << " " << first;
      std::printf("%s %s: logits %.1e\n", GetParam().c_str(), of.name.c_str(),
                  static_cast<double>(difference));
    }
  }
}

TEST_P(qwen_vl, a_shared_prefix_gives_the_answers_of_whole_prompts) {
  const auto tokenizer = Tokenizer::load(folder());
  const auto cache = Cache::open(
      {.shape = model_->kv_shape(), .recent_tokens = 16, .dram_bytes_max = uint64_t{64} << 20});
  ASSERT_TRUE(cache.ok()) << cache.status().message();
  auto generator = Generator::make(model_.get(), &tokenizer.value(), cache.value().get(), {});
  ASSERT_TRUE(generator.ok()) << generator.status().message();
  for (const QwenCase& of : load_qwen_cases()) {
    const auto media = generator.value().encode_media(inputs(of), {});
    ASSERT_TRUE(media.ok()) << media.status().message();
    const auto prefix = generator.value().ingest(media.value(), {});
    ASSERT_TRUE(prefix.ok()) << prefix.status().message();
    const Question question = {.text = of.question, .sampling = {.max_new_tokens = 6}};
    const auto whole = generator.value().answer(question, media.value());
    const auto shared = generator.value().answer(question, prefix.value());
    ASSERT_TRUE(whole.ok() && shared.ok()) << whole.status().message();
    EXPECT_EQ(shared.value().tokens, whole.value().tokens) << of.name;
    EXPECT_EQ(shared.value().prompt_tokens, whole.value().prompt_tokens) << of.name;
    EXPECT_TRUE(generator.value().release(prefix.value()).ok());
  }
}

TEST_P(qwen_vl, pictures_of_other_patches_are_refused) {
  std::vector<VisualInput> media = inputs(load_qwen_cases()[0]);
  media[0].values.pop_back();
  EXPECT_EQ(model_->encode_images(media, {}).status().code(), Code::kInvalidArgument);
  media[0].shape.height = 3;
  const Status status = model_->encode_images(media, {}).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("multiples of 2"), std::string::npos) << status.message();
}

INSTANTIATE_TEST_SUITE_P(families, qwen_vl, testing::Values("qwen2_5_vl", "qwen2_vl"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace vkv
