// chat_request_fuzz.cpp: whatever a body holds, reading it ends in a request within the limits, or
// in one line of words. VKV_SEED repeats a run, VKV_STEPS makes it longer, VKV_SECONDS bounds it.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <random>
#include <string>

#include "runtime/base/stopwatch.h"
#include "tests/environment_number.h"
#include "tests/mutated_text.h"
#include "tools/server/chat_request.h"
#include "tools/server/chat_response.h"
#include "tools/server/media_loader.h"

namespace vkv {
namespace {

const std::string kWhole =
    R"({"model": "m", "stream": true, "stream_options": {"include_usage": true}, "n": 1,
 "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 1, "stop": ["END", "\n"],
 "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [
 {"type": "image_url", "image_url": {"url": "data:image/png;base64,Zm9v", "detail": "low"}},
 {"type": "text", "text": "What is it?"},
 {"type": "video_url", "video_url": {"url": "file:///b%41.mp4", "frames": 4}}]},
 {"role": "assistant", "content": "A cat."}, {"role": "user", "content": "And now?"}]})";

const std::string kPieces[] = {
    "{",        "}",         "[",          "]",          "\"",
    "-1",       "1e999",     "null",       "true",       ",",
    "\\ud800",  ":",         "0",          "\\n",        "\xff",
    "\"role\"", "\"user\"",  "assistant",  "system",     "\"content\": ",
    "\"text\"", "\"n\": 2,", "\\u0000",    "[[[[[[[[[[", "18446744073709551615",
    "data:",    ";base64,",  "\"stop\": ", "file://",    "\"frames\": "};

void check(const ChatRequest& request, const ChatLimits& limits, const std::string& text) {
  ASSERT_TRUE(validate(request.sampling).ok()) << text;
  ASSERT_LE(request.sampling.max_new_tokens, limits.max_tokens) << text;
  ASSERT_LE(request.media.size(), static_cast<size_t>(limits.media_count_max)) << text;
  ASSERT_LE(request.stop.size(), 4u) << text;
  for (const MediaPart& part : request.media) {
    ASSERT_FALSE(part.url.empty()) << text;
    ASSERT_LE(part.sampling.frame_count, limits.frames_max) << text;
    ASSERT_EQ(part.is_video, part.sampling.frame_count > 0) << text;
    (void)decode_base64(part.url);
  }
  const ChatLabel label = {.id = request.model, .model = request.model};
  ASSERT_EQ(text_event(label, request.question).find('\n'),
            text_event(label, request.question).size() - 2);
}

TEST(chat_request_fuzz, any_body_is_a_request_within_the_limits_or_an_error_in_one_line) {
  const uint64_t seed = number_from_environment("VKV_SEED", 20261123);
  const uint64_t seconds = number_from_environment("VKV_SECONDS", 0);
  const uint64_t steps =
      number_from_environment("VKV_STEPS", seconds > 0 ? UINT64_MAX : uint64_t{10000});
  std::printf("VKV_SEED=%llu\n", static_cast<unsigned long long>(seed));
  const ChatLimits limits;
  const Stopwatch since_start;
  std::mt19937_64 random(seed);
  uint64_t step = 0, read = 0;
  for (; step < steps; ++step) {
    if (seconds > 0 && step % 256 == 0 && since_start.seconds() > static_cast<double>(seconds))
      break;
    const std::string text = mutated(kWhole, kPieces, random);
    const Result<ChatRequest> request = parse_chat_request(text, limits);
    if (request.ok()) {
      ++read;
      ASSERT_NO_FATAL_FAILURE(check(request.value(), limits, text));
      continue;
    }
    const std::string words = request.status().message();
    ASSERT_FALSE(words.empty()) << text;
    ASSERT_EQ(words.find('\n'), words.npos) << words << "\n" << text;
    ASSERT_LT(words.size(), 1000u) << words << "\n" << text;
    ASSERT_EQ(error_json(400, words).find('\n'), std::string::npos) << text;
  }
  std::printf("%llu bodies, %llu of them requests\n", static_cast<unsigned long long>(step),
              static_cast<unsigned long long>(read));
  EXPECT_GT(read, step / 500);
  EXPECT_LT(read, step);
}

}  // namespace
}  // namespace vkv
