// server_test.cpp: answers over HTTP, streamed or not, one or many at once, are those of a
// generator alone; budgets are kept by refusing; whoever goes away leaves nothing behind.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "tests/http_client.h"
#include "tests/llava_golden.h"
#include "tests/temporary_directory.h"
#include "tests/write_frames.h"
#include "tools/server/http_server.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

constexpr char kChat[] = "/v1/chat/completions";
constexpr int kWindow = 64;

std::string to_base64(const std::string& bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t at = 0; at < bytes.size(); at += 3) {
    uint32_t bits = 0;
    for (size_t i = 0; i < 3; ++i)
      bits = bits << 8 | (at + i < bytes.size() ? static_cast<unsigned char>(bytes[at + i]) : 0u);
    for (size_t i = 0; i < 4; ++i)
      text += at + i <= bytes.size() ? kDigits[bits >> (18 - 6 * i) & 63] : '=';
  }
  return text;
}

class ServerTest : public testing::Test {
 protected:
  ServerTest() {
    session_.model = kRandomCheckpoint;
    session_.cache.precision = precision_preset("visual2").value();
    session_.cache.recent_tokens = 16;
    session_.cache.dram_bytes_max = uint64_t{64} << 20;
    session_.cache.threads = 2;
    session_.generator.window_tokens_max = kWindow;
  }

  // Answers of this model go on to max_tokens: it ends with a token that no answer has.
  void never_end() {
    for (const auto& entry : std::filesystem::directory_iterator(kRandomCheckpoint))
      if (entry.is_regular_file())
        std::filesystem::copy(entry.path(), model_ / entry.path().filename().string());
    Json config = Json::parse(std::ifstream(model_ / "config.json"));
    const Json picture = config["image_token_index"];
    config["eos_token_id"] = picture;
    config["text_config"]["eos_token_id"] = picture;
    std::ofstream(model_ / "config.json") << config.dump();
    std::ofstream(model_ / "generation_config.json") << Json{{"eos_token_id", picture}}.dump();
    session_.model = model_.path();
  }

  void open() {
    Result<std::unique_ptr<Engine>> engine = Engine::open(session_, options_);
    ASSERT_TRUE(engine.ok()) << engine.status().message();
    engine_ = std::move(engine.value());
    Result<std::unique_ptr<ChatService>> service =
        ChatService::make(engine_.get(), {.model_name = "tiny"});
    ASSERT_TRUE(service.ok()) << service.status().message();
    service_ = std::move(service.value());
    Result<std::unique_ptr<HttpServer>> http =
        HttpServer::open(service_.get(), {.port = 0, .body_bytes_max = 1 << 20});
    if (http.status().code() == Code::kUnsupported) GTEST_SKIP() << http.status().message();
    ASSERT_TRUE(http.ok()) << http.status().message();
    http_ = std::move(http.value());
  }

  // A video of so many frames, as a part of a message.
  Json video(int frames) {
    std::ifstream file(write_frames(folder_ / "v.npy", frames), std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    return {{"type", "video_url"},
            {"video_url", {{"url", "data:video/x-npy;base64," + to_base64(bytes)}}}};
  }
  static Json chat(const Json& content, int max_tokens, const Json& more = Json::object()) {
    Json body = {{"model", "tiny"},
                 {"max_tokens", max_tokens},
                 {"messages", Json::array({{{"role", "user"}, {"content", content}}})}};
    body.update(more);
    return body;
  }
  Json about_video(int frames, const std::string& text) {
    return Json::array({video(frames), {{"type", "text"}, {"text", text}}});
  }
  HttpResponse ask(const Json& body) {
    return http_ask(http_->port(), http_post(kChat, body.dump()));
  }
  static std::string text_of(const HttpResponse& response) {
    return response.status == 200
               ? response.json()["choices"][0]["message"]["content"].get<std::string>()
               : "status " + std::to_string(response.status) + " " + response.body;
  }

  // What a generator of its own says, the media read before the question.
  std::string alone(int frames, const std::string& text, const Sampling& sampling) {
    if (!alone_.generator) alone_ = std::move(open_host(session_).value());
    Question question = {.text = text, .sampling = sampling};
    if (frames == 0) return alone_.generator->answer(question, Media()).value().text;
    const Video video =
        load_video(write_frames(folder_ / "v.npy", frames), {.frame_count = 16}).value();
    const auto inputs = alone_.processor->video(video).value();
    const Media media = alone_.generator->encode_media(inputs, {}).value();
    const MediaPrefix prefix = alone_.generator->ingest(media, {}).value();
    const Result<Answer> answer = alone_.generator->answer(question, prefix);
    EXPECT_TRUE(alone_.generator->release(prefix).ok());
    return answer.ok() ? answer.value().text : answer.status().message();
  }

  double metric(const std::string& name) {
    const std::string page = "\n" + http_ask(http_->port(), http_get("/metrics")).body;
    const size_t at = page.find("\n" + name + " ");
    return at == page.npos ? -1 : std::stod(page.substr(at + name.size() + 2));
  }
  // Waits for what happens on other threads.
  template <class Condition>
  static bool soon(Condition condition) {
    for (int i = 0; i < 1000 && !condition(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return condition();
  }
  bool nothing_is_left() {
    return soon([&] {
      const ServerGauges gauges = engine_->gauges();
      return gauges.queued + gauges.waiting + gauges.running == 0 &&
             engine_->cache_stats().sequence_count == gauges.prefixes;
    });
  }

  TemporaryDirectory folder_, model_;
  SessionOptions session_;
  EngineOptions options_;
  Host alone_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ChatService> service_;
  std::unique_ptr<HttpServer> http_;
};

TEST_F(ServerTest, answers_are_those_of_a_generator_alone) {
  open();
  if (!http_) return;
  for (const int frames : {0, 1, 3}) {
    for (const double temperature : {0.0, 1.0}) {
      const std::string question = "What is in frame 0" + std::to_string(frames) + "?";
      const std::string expected =
          alone(frames, question, {.temperature = temperature, .seed = 5, .max_new_tokens = 12});
      const Json content = frames == 0 ? Json(question) : about_video(frames, question);
      const Json sampling = {{"temperature", temperature}, {"seed", 5}};
      const HttpResponse plain = ask(chat(content, 12, sampling));
      EXPECT_EQ(text_of(plain), expected);
      const Json usage = plain.json()["usage"];
      EXPECT_EQ(usage["total_tokens"],
                usage["prompt_tokens"].get<int>() + usage["completion_tokens"].get<int>());
      // The second time the media are there.
      EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"] > 0, frames > 0 && temperature > 0);
      Json streaming = chat(content, 12, sampling);
      streaming["stream"] = true;
      streaming["stream_options"] = {{"include_usage", true}};
      const HttpResponse stream = ask(streaming);
      EXPECT_NE(stream.head.find("text/event-stream"), std::string::npos) << stream.head;
      EXPECT_EQ(streamed_text(stream.body), expected);
      EXPECT_NE(stream.body.find("\"completion_tokens\":"), std::string::npos);
      EXPECT_TRUE(stream.body.ends_with("data: [DONE]\n\n")) << stream.body;
    }
  }
  EXPECT_TRUE(nothing_is_left());
}

TEST_F(ServerTest, many_at_once_get_the_answers_of_single_runs) {
  options_.running_max = 6;
  open();
  if (!http_) return;
  struct Asked {
    Json body;
    std::string expected;
  };
  std::vector<Asked> asked;
  for (int i = 0; i < 12; ++i) {
    const std::string question = "How many are in frame " + std::to_string(i) + "?";
    const int frames = i % 3, tokens = 4 + i;
    asked.push_back({chat(frames == 0 ? Json(question) : about_video(frames, question), tokens),
                     alone(frames, question, {.max_new_tokens = tokens})});
  }
  std::vector<std::thread> clients;
  std::vector<std::string> texts(asked.size());
  for (size_t i = 0; i < asked.size(); ++i)
    clients.emplace_back([&, i] { texts[i] = text_of(ask(asked[i].body)); });
  for (std::thread& client : clients) client.join();
  for (size_t i = 0; i < asked.size(); ++i) EXPECT_EQ(texts[i], asked[i].expected) << i;
  EXPECT_TRUE(nothing_is_left());
  EXPECT_GT(metric("vkv_decode_step_requests_total"), metric("vkv_decode_steps_total"));
  EXPECT_EQ(metric("vkv_media_prefixes"), 2);
}

TEST_F(ServerTest, stop_texts_and_earlier_messages_count) {
  open();
  if (!http_) return;
  const std::string whole = alone(0, "What is it?", {.max_new_tokens = 12});
  const std::string stop = whole.substr(whole.size() / 2, 2);
  const HttpResponse stopped = ask(chat("What is it?", 12, {{"stop", stop}}));
  EXPECT_EQ(text_of(stopped), whole.substr(0, whole.find(stop)));
  EXPECT_EQ(stopped.json()["choices"][0]["finish_reason"], "stop");
  const Json earlier = {{"messages", Json::array({{{"role", "user"}, {"content", "a?"}},
                                                  {{"role", "assistant"}, {"content", " b"}},
                                                  {{"role", "user"}, {"content", "c?"}}})}};
  const HttpResponse second = ask(chat("", 4, earlier));
  EXPECT_EQ(second.status, 200) << second.body;
  EXPECT_GT(second.json()["usage"]["prompt_tokens"], 10);
}

TEST_F(ServerTest, who_goes_away_leaves_nothing_behind) {
  never_end();
  open();
  if (!http_) return;
  for (const bool stream : {false, true}) {
    // While it decodes, and while its media are prefilled.
    for (const int frames : {0, 12}) {
      HttpClient client(http_->port());
      Json body = chat(frames == 0 ? Json("What?") : about_video(frames, "What?"), 900,
                       {{"stream", stream}});
      ASSERT_TRUE(client.send(http_post(kChat, body.dump())));
      if (stream && frames == 0) client.read_until("delta");
      ASSERT_TRUE(soon([&] { return engine_->gauges().running > 0; }));
      client.leave();
      EXPECT_TRUE(nothing_is_left()) << stream << frames;
    }
  }
  EXPECT_EQ(metric("vkv_requests_cancelled_total"), 4);
  // Only what nobody uses now is set aside.
  EXPECT_EQ(engine_->gauges().reserved_bytes > 0, engine_->gauges().prefixes > 0);
}

TEST_F(ServerTest, a_full_server_says_when_to_come_again) {
  never_end();
  options_ = {.running_max = 1, .queue_max = 1};
  open();
  if (!http_) return;
  const std::string slow = http_post(kChat, chat("What?", 4000).dump());
  HttpClient runs(http_->port()), waits(http_->port());
  ASSERT_TRUE(runs.send(slow));
  ASSERT_TRUE(soon([&] { return engine_->gauges().running == 1; }));
  ASSERT_TRUE(waits.send(slow));
  ASSERT_TRUE(soon([&] { return engine_->gauges().queued == 1; }));
  const HttpResponse refused = ask(chat("What?", 4));
  EXPECT_EQ(refused.status, 429) << refused.body;
  EXPECT_NE(refused.head.find("Retry-After: "), std::string::npos) << refused.head;
  EXPECT_EQ(refused.json()["error"]["type"], "rate_limit_error");
  runs.leave();
  ASSERT_TRUE(soon([&] { return engine_->gauges().queued == 0; }));
  waits.leave();
  EXPECT_TRUE(nothing_is_left());
  EXPECT_EQ(metric("vkv_requests_total{code=\"429\"}"), 1);
}

TEST_F(ServerTest, few_pixels_wait) {
  never_end();
  options_ = {.running_max = 1, .queue_max = 8, .pixel_bytes_max = 1};
  open();
  if (!http_) return;
  HttpClient runs(http_->port()), waits(http_->port());
  ASSERT_TRUE(runs.send(http_post(kChat, chat("What?", 4000).dump())));
  ASSERT_TRUE(soon([&] { return engine_->gauges().running == 1; }));
  ASSERT_TRUE(waits.send(http_post(kChat, chat(about_video(2, "What?"), 4).dump())));
  ASSERT_TRUE(soon([&] { return engine_->gauges().queued == 1; }));
  EXPECT_EQ(ask(chat(about_video(1, "What?"), 4)).status, 429);
  runs.leave();
  EXPECT_EQ(waits.read().status, 200);
  EXPECT_EQ(ask(chat(about_video(1, "What?"), 4)).status, 200);
  EXPECT_TRUE(nothing_is_left());
}

// Twelve media in a budget that holds a few: the oldest go, and nothing fails.
TEST_F(ServerTest, budgets_hold_whatever_is_asked) {
  session_.cache.dram_bytes_max = uint64_t{5} << 20;
  session_.cache.extent_bytes_max = 64 << 10;
  open();
  if (!http_) return;
  const HttpResponse large = ask(chat(std::string(30000, 'a'), 4096));
  EXPECT_EQ(large.status, 413) << large.body;
  EXPECT_NE(large.body.find("the server has"), std::string::npos) << large.body;
  std::vector<std::thread> clients;
  std::vector<int> statuses(12);
  for (int i = 0; i < 12; ++i)
    clients.emplace_back([&, i, body = chat(about_video(1 + i, "What?"), 8)] {
      statuses[static_cast<size_t>(i)] = ask(body).status;
    });
  for (std::thread& client : clients) client.join();
  for (const int status : statuses) EXPECT_EQ(status, 200);
  EXPECT_TRUE(nothing_is_left());
  EXPECT_LT(engine_->gauges().prefixes, 12u);
  const CacheStats stats = engine_->cache_stats();
  const TierStats& dram = stats.tier[static_cast<size_t>(Tier::kDram)];
  EXPECT_LE(dram.bytes_peak, dram.bytes_max);
}

TEST_F(ServerTest, what_is_wrong_is_said_in_one_line) {
  open();
  if (!http_) return;
  const auto expect_error = [&](const std::string& request, int status, const std::string& words) {
    const HttpResponse response = http_ask(http_->port(), request);
    EXPECT_EQ(response.status, status) << response.body;
    const Json json = response.json();
    ASSERT_TRUE(json.is_object() && json.contains("error")) << response.body;
    const auto message = json["error"]["message"].get<std::string>();
    EXPECT_NE(message.find(words), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  };
  expect_error(http_post(kChat, "{"), 400, "not valid JSON");
  expect_error(http_post(kChat, chat("", 4).dump()), 400, "the question is empty");
  expect_error(http_post(kChat, chat("a", 4, {{"model", "gpt"}}).dump()), 404, "\"tiny\"");
  expect_error(http_post(kChat, chat("a", 4).dump(), "text/plain"), 415, "application/json");
  expect_error(http_post(kChat, std::string(3 << 20, ' ')), 413, "longer than 1048576 bytes");
  expect_error(http_post("/v1/completions", "{}"), 404, "there is no POST /v1/completions");
  expect_error(http_get("/"), 404, "GET /metrics");
  Json bad = about_video(1, "What?");
  bad[0]["video_url"]["url"] = "data:video/mp4;base64,AAAA";
  expect_error(http_post(kChat, chat(bad, 4).dump()), 400, "video 1: ");
  expect_error(http_post(kChat, chat(about_video(16, std::string(40000, 'a')), 4).dump()), 400,
               "the model's positions are");
  std::string chunked = "POST " + std::string(kChat) +
                        " HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: "
                        "application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 24; ++i) chunked += "10000\r\n" + std::string(0x10000, ' ') + "\r\n";
  expect_error(chunked + "0\r\n\r\n", 413, "longer than 1048576 bytes");
  EXPECT_EQ(http_ask(http_->port(), http_get("/health")).status, 200);
  EXPECT_EQ(http_ask(http_->port(), http_get("/v1/models")).json()["data"][0]["id"], "tiny");
  EXPECT_TRUE(nothing_is_left());
}

TEST_F(ServerTest, a_request_has_its_time_and_a_stop_its_grace) {
  never_end();
  options_.request_seconds_max = 0.1;
  open();
  if (!http_) return;
  const HttpResponse late = ask(chat("What?", 4000));
  EXPECT_EQ(late.status, 503) << late.body;
  EXPECT_NE(late.body.find("longer than 0.1 s"), std::string::npos) << late.body;

  http_.reset();
  options_.request_seconds_max = 60;
  open();
  HttpClient slow(http_->port()), quick(http_->port());  // an answer waits for none
  ASSERT_TRUE(slow.send(http_post(kChat, chat("What?", 4000, {{"stream", true}}).dump())));
  slow.read_until("delta");
  ASSERT_TRUE(quick.send(http_post(kChat, chat("What?", 4).dump())));
  EXPECT_EQ(quick.read().status, 200);
  http_->drain();
  EXPECT_EQ(http_ask(http_->port(), http_get("/health")).status, 503);
  engine_->stop(0.1);
  EXPECT_EQ(ask(chat("What?", 4)).status, 503);
  http_.reset();
  EXPECT_NE(slow.read().body.find("the server is stopping"), std::string::npos);
}

}  // namespace
}  // namespace vkv
