// server_parts_test.cpp: what the server makes of a body: a request, or one line of words; media
// come from data: URLs and one folder; stop texts, metrics and shared media are kept right.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/llava_golden.h"
#include "tests/temporary_directory.h"
#include "tests/write_frames.h"
#include "tools/server/chat_request.h"
#include "tools/server/chat_response.h"
#include "tools/server/media_loader.h"
#include "tools/server/metrics.h"
#include "tools/server/prefix_table.h"
#include "tools/server/stop_text.h"

namespace vkv {
namespace {

std::string with_messages(const std::string& messages, const std::string& more = "") {
  return R"({"model": "m", "messages": )" + messages + more + "}";
}

void expect_refused(const std::string& body, const std::string& words) {
  const Result<ChatRequest> request = parse_chat_request(body, {});
  ASSERT_FALSE(request.ok()) << body.substr(0, 200);
  EXPECT_NE(request.status().message().find(words), std::string::npos)
      << request.status().message();
  EXPECT_EQ(request.status().message().find('\n'), std::string::npos);
  EXPECT_LT(request.status().message().size(), 700u);
}

TEST(chat_request, a_conversation_is_read_with_all_that_it_says) {
  const Result<ChatRequest> read = parse_chat_request(
      R"({"model": "m", "stream": true, "stream_options": {"include_usage": true},
          "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": -1, "n": 1,
          "stop": "END", "tools": [], "logprobs": null, "user": "a", "messages": [
          {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."},
          {"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:a", "detail": "low"}},
            {"type": "text", "text": "What "}, {"type": "text", "text": "is it?"},
            {"type": "video_url", "video_url": {"url": "file:///b", "frames": 4}}]},
          {"role": "assistant", "content": "A cat."},
          {"role": "user", "content": "And"}, {"role": "user", "content": "now?"}]})",
      {});
  ASSERT_TRUE(read.ok()) << read.status().message();
  const ChatRequest& request = read.value();
  EXPECT_EQ(request.system, "Be brief.\nBe kind.");
  ASSERT_EQ(request.media.size(), 2u);
  EXPECT_FALSE(request.media[0].is_video);
  EXPECT_TRUE(request.media[1].is_video);
  EXPECT_EQ(request.media[1].sampling.frame_count, 4);
  ASSERT_EQ(request.earlier.size(), 1u);
  EXPECT_EQ(request.earlier[0].question, "What is it?");
  EXPECT_EQ(request.earlier[0].answer, "A cat.");
  EXPECT_EQ(request.question, "And\nnow?");
  EXPECT_EQ(request.sampling.max_new_tokens, 7);
  EXPECT_EQ(request.sampling.seed, UINT64_MAX);
  EXPECT_EQ(request.stop, std::vector<std::string>{"END"});
  EXPECT_TRUE(request.stream && request.include_usage);

  const auto three = parse_chat_request(
      with_messages(R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"},
                        {"role": "user", "content": "e"}])"),
      {});
  ASSERT_TRUE(three.ok());
  ASSERT_EQ(three.value().earlier.size(), 2u);
  EXPECT_EQ(three.value().earlier[1].question + three.value().earlier[1].answer, "cd");
  EXPECT_EQ(three.value().question, "e");
}

TEST(chat_request, what_cannot_be_answered_is_refused_in_one_line) {
  const std::string user = R"([{"role": "user", "content": "a"}])";
  expect_refused("", "not valid JSON");
  expect_refused("{\"model\": \"m\", ", "not valid JSON");
  expect_refused("\xff\xfe", "not valid JSON");
  expect_refused("[]", "not a JSON object");
  expect_refused(R"({"messages": []})", "\"model\" is missing");
  expect_refused(R"({"model": "m"})", "\"messages\" must be");
  expect_refused(with_messages("[]"), "\"messages\" must be");
  expect_refused(with_messages("[1]"), "must be a list of objects");
  expect_refused(with_messages(R"([{"role": "tool", "content": "a"}])"), "role\" is \"tool\"");
  expect_refused(with_messages(R"([{"role": "user"}])"), "message 0: \"content\" is missing");
  expect_refused(with_messages(R"([{"role": "user", "content": 5}])"), "a text or a list");
  expect_refused(with_messages(R"([{"role": "user", "content": [{"type": "input_audio"}]}])"),
                 "is \"input_audio\"; there are text");
  expect_refused(with_messages(R"([{"role": "user", "content": [{"type": "image_url"}]}])"),
                 "\"image_url\" is missing");
  expect_refused(with_messages(R"([{"role": "assistant", "content": "a"}])"), "behind a user");
  expect_refused(with_messages(R"([{"role": "user", "content": "a"},
                                   {"role": "assistant", "content": "a"}])"),
                 "must end with one of the user");
  expect_refused(with_messages(R"([{"role": "user", "content": "a"},
                                   {"role": "system", "content": "a"}])"),
                 "before the first user message");
  expect_refused(with_messages(R"([{"role": "user", "content": "a"},
      {"role": "assistant", "content": "b"}, {"role": "user", "content": [
      {"type": "image_url", "image_url": {"url": "data:a"}}]}])"),
                 "first user message alone");
  expect_refused(with_messages(user, R"(, "max_tokens": 0)"), "from 1 to 4096");
  expect_refused(with_messages(user, R"(, "max_tokens": 1e9)"), "from 1 to 4096");
  expect_refused(with_messages(user, R"(, "temperature": "hot")"), "must be a number");
  expect_refused(with_messages(user, R"(, "temperature": -1)"), "temperature is -1");
  expect_refused(with_messages(user, R"(, "top_p": 0)"), "top_p is 0");
  expect_refused(with_messages(user, R"(, "stop": [""])"), "\"stop\" must be");
  expect_refused(with_messages(user, R"(, "stop": ["a","b","c","d","e"])"), "up to 4");
  expect_refused(with_messages(user, R"(, "n": 2)"), "\"n\" is not supported");
  expect_refused(with_messages(user, R"(, "tools": [{}])"), "\"tools\" is not supported");
  expect_refused(with_messages(user, R"(, "response_format": {"type": "json_object"})"),
                 "response_format");
  expect_refused(with_messages(user, R"(, "max_token": 5)"), "no field \"max_token\"");
  expect_refused(with_messages(user, ", \"" + std::string(100000, 'x') + "\": 5"), "no field");
  expect_refused(with_messages(user, R"(, "stream_options": {})"), "\"stream\": true");
  expect_refused(with_messages(R"([{"role": "user", "content": [
      {"type": "video_url", "video_url": {"url": "data:a", "frames": 100000}}]}])"),
                 "from 1 to 256");
  expect_refused(std::string(1 << 20, '['), "inside each other");
  std::string wide = "[0";
  for (int i = 0; i < 200000; ++i) wide += ",0";
  expect_refused(wide + "]", "more than 100000 values");
}

class MediaLoaderTest : public testing::Test {
 protected:
  MediaLoaderTest() : processor_(std::move(MediaProcessor::load(kRandomCheckpoint).value())) {
    write_frames(folder_ / "v.npy", 3);
    std::filesystem::create_directory(folder_ / "inside");
    write_frames(folder_ / "inside/w.npy", 2);
    std::filesystem::create_symlink(folder_ / "v.npy", folder_ / "inside/link.npy");
  }

  Result<std::vector<VisualInput>> load(const std::string& url, bool is_video = true,
                                        const std::string& root = "",
                                        uint64_t bytes_max = 1 << 20) {
    const auto source = MediaLoader::make({.root = root, .bytes_max = bytes_max});
    return source.value().load({{.is_video = is_video, .url = url, .sampling = {.frame_count = 2}}},
                               processor_);
  }
  void expect_refused(const std::string& url, Code code, const std::string& words,
                      const std::string& root = "", uint64_t bytes_max = 1 << 20) {
    const auto inputs = load(url, false, root, bytes_max);
    ASSERT_FALSE(inputs.ok()) << url.substr(0, 80);
    EXPECT_EQ(inputs.status().code(), code) << inputs.status().message();
    EXPECT_EQ(inputs.status().message().find("picture 1: "), 0u) << inputs.status().message();
    EXPECT_NE(inputs.status().message().find(words), std::string::npos)
        << inputs.status().message();
    EXPECT_EQ(inputs.status().message().find("/proc"), std::string::npos)
        << inputs.status().message();
  }

  TemporaryDirectory folder_;
  MediaProcessor processor_;
};

// Of a stack of one frame of 1 x 1 pixel, by numpy.
constexpr char kPixel[] =
    "data:application/x-npy;base64,k05VTVBZAQB2AHsnZGVzY3InOiAnfHUxJywgJ2ZvcnRyYW5fb3JkZXInOiBG"
    "YWxzZSwgJ3NoYXBlJzogKDEsIDEsIDEsIDMpLCB9ICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC"
    "AgICAgICAgICAgICAgIAoKFB4=";

TEST_F(MediaLoaderTest, data_urls_are_told_by_content) {
  const auto pixel = load(kPixel, false);
  ASSERT_TRUE(pixel.ok()) << pixel.status().message();
  EXPECT_EQ(pixel.value().size(), 1u);
  const Code code = Code::kInvalidArgument;
  for (const char* bytes : {"iVBORw0KGgo=", "", "YWJj"}) {  // which code depends on the decoder
    const auto bad = load(std::string("data:image/png;base64,") + bytes, false);
    EXPECT_EQ(bad.status().message().find("picture 1: it: "), 0u) << bad.status().message();
  }
  expect_refused("data:image/png;base64,a*b=", code, "not base64");
  expect_refused("data:image/png;base64,abcde", code, "its end is missing");
  expect_refused("data:image/png,abc", code, "must be data:TYPE;base64");
  expect_refused("data:", code, "must be data:TYPE;base64");
  expect_refused("https://example.com/a.png", code, "must be a data: URL");
  expect_refused(kPixel, Code::kOutOfMemory, "may have 64", "", 64);
}

TEST_F(MediaLoaderTest, files_come_from_the_allowed_folder_alone) {
  const std::string inside = folder_ / "inside";
  const auto frames = load("file://" + inside + "/w.npy", true, inside);
  ASSERT_TRUE(frames.ok()) << frames.status().message();
  EXPECT_EQ(frames.value().size(), 2u);
  EXPECT_TRUE(load("file://" + inside + "/%77.npy", true, inside).ok());
  const Code code = Code::kInvalidArgument;
  expect_refused("file://" + inside + "/w.npy", code, "are not allowed");
  for (const std::string name :
       {"/link.npy", "/../v.npy", "/none.npy", "", "/%00", "/%2e%2e/v.npy"})
    expect_refused("file://" + inside + name, code, "no such file in the folder", inside);
  expect_refused("file://host/w.npy", code, "no such file", inside);
  expect_refused("file://" + inside + "/%7", code, "two digits", inside);
  expect_refused("file:///etc/passwd", code, "no such file", inside);
  expect_refused("file://" + inside + "/w.npy", Code::kOutOfMemory, "may have 100", inside, 100);
  EXPECT_EQ(MediaLoader::make({.root = inside + "/w.npy"}).status().code(), Code::kNotFound);
}

TEST(base64, all_lengths_are_those_of_the_standard) {
  // RFC 4648, section 10.
  EXPECT_EQ(decode_base64("").value(), "");
  EXPECT_EQ(decode_base64("Zg==").value(), "f");
  EXPECT_EQ(decode_base64("Zm8=").value(), "fo");
  EXPECT_EQ(decode_base64("Zm9v\r\nYmE").value(), "fooba");
  EXPECT_EQ(decode_base64("Zm9vYmFy").value(), "foobar");
  for (const char* bad : {"Z", "Zg=", "Zg===", "Z=g=", "Zm9v=", "Zm 9"})
    EXPECT_FALSE(decode_base64(bad).ok()) << bad;
}

TEST(stop_text, an_answer_ends_before_the_first_stop) {
  StopText stop({"END", "\n\n"});
  EXPECT_EQ(stop.push("a\nb E"), "a\nb ");
  EXPECT_EQ(stop.push("N"), "");
  EXPECT_EQ(stop.push("T"), "ENT");
  EXPECT_EQ(stop.push(" \n"), " ");
  EXPECT_EQ(stop.push("\nrest END"), "");
  EXPECT_TRUE(stop.stopped());
  EXPECT_EQ(stop.push("more"), "");
  EXPECT_EQ(stop.finish(), "");

  StopText open({"END"});
  EXPECT_EQ(open.push("so it EN"), "so it ");
  EXPECT_EQ(open.finish(), "EN");
  EXPECT_FALSE(open.stopped());
  StopText none({});
  EXPECT_EQ(none.push("all"), "all");
}

TEST(prefix_table, what_nobody_uses_goes_oldest_first) {
  const auto key = [](uint8_t byte) { return SequenceKey{{byte}}; };
  PrefixTable table;
  table.add(key(1), {.token_count = 1}, {10, 100});
  table.add(key(2), {.token_count = 2}, {20, 200});
  EXPECT_FALSE(table.drop_oldest().has_value());
  EXPECT_EQ(table.use(key(3)), nullptr);
  ASSERT_NE(table.use(key(1)), nullptr);
  for (const uint8_t byte : {1, 2, 1}) table.give_back(key(byte));
  EXPECT_EQ(table.idle_need().record_bytes, 300u);
  ASSERT_NE(table.use(key(1)), nullptr);
  EXPECT_EQ(table.idle_need().open_bytes, 20u);
  table.give_back(key(1));
  EXPECT_EQ(table.drop_oldest()->prefix.token_count, 2);
  EXPECT_EQ(table.drop_oldest()->need.record_bytes, 100u);
  EXPECT_EQ(table.idle_need().record_bytes, 0u);
  EXPECT_EQ(table.count(), 0u);
}

TEST(metrics, a_page_is_what_prometheus_reads) {
  CacheStats stats;
  stats.tier[static_cast<size_t>(Tier::kDram)] = {.bytes_used = 5, .bytes_max = 10};
  EXPECT_EQ(cache_metrics(stats).find("vkv_nvme"), std::string::npos);
  stats.tier[static_cast<size_t>(Tier::kNvme)] = {.bytes_used = 7, .bytes_max = 20};
  stats.nvme_payload_bytes = 4;
  stats.nvme_written_bytes = 6;
  stats.nvme_read_count = 9;
  const std::string cache = cache_metrics(stats);
  for (const char* line :
       {"# TYPE vkv_tier_bytes gauge\n", "\nvkv_tier_bytes{tier=\"dram\"} 5\n",
        "\nvkv_tier_bytes{tier=\"nvme\"} 7\n", "\nvkv_nvme_write_amplification 1.5\n",
        "\nvkv_nvme_reads_total 9\n", "\nvkv_nvme_wait_seconds_total 0\n"})
    EXPECT_NE(cache.find(line), std::string::npos) << line << cache;

  ServerMetrics metrics;
  metrics.count_request(200);
  metrics.count_request(429);
  metrics.add_first_token_seconds(0.03);
  metrics.add_first_token_seconds(1000);
  const std::string text = metrics.text({.queued = 3});
  for (const char* line : {"\nvkv_requests_total{code=\"429\"} 1\n", "\nvkv_requests_queued 3\n",
                           "\nvkv_time_to_first_token_seconds_bucket{le=\"0.025\"} 0\n",
                           "\nvkv_time_to_first_token_seconds_bucket{le=\"0.05\"} 1\n",
                           "\nvkv_time_to_first_token_seconds_bucket{le=\"+Inf\"} 2\n",
                           "\nvkv_time_to_first_token_seconds_count 2\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
}

}  // namespace
}  // namespace vkv
