// serve_command.cpp: flags, start and graceful stop of the server.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/serve_command.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "tools/vkv/byte_size.h"
#include "tools/vkv/exit_code.h"
#include "tools/vkv/interrupt.h"

namespace vkv {
namespace {

constexpr const char* kExamples = R"(
OpenAI's chat completions with pictures and video, on a model of this machine. Examples:
  vkv serve --model tiny --preset visual2 --dram-budget 1G
  vkv serve --model tiny --media-root /srv/clips \
      --nvme-budget 8G --store /mnt/nvme/vkv.store --keep-store
  curl http://127.0.0.1:8080/v1/chat/completions -H "Content-Type: application/json" \
      -d '{"model": "tiny", "messages": [{"role": "user", "content": "What is gravity?"}]}'

With --keep-store the KV of media that were asked about are there after a restart, or a crash.
tools/server/README.md has endpoints, limits and metrics.

Exit status: 0 stopped by a signal, 2 wrong flags, model, budgets or address.)";

constexpr auto kLookInterval = std::chrono::milliseconds(50);  // for a signal

void add_http_flags(CLI::App& command, ServeArguments& a) {
  const std::string group = "Server";
  const auto count = [&](const char* flag, int& value, int least, int most, const char* what) {
    command.add_option(flag, value, what)
        ->check(CLI::Range(least, most))
        ->capture_default_str()
        ->group(group);
  };
  const auto text = [&](const char* flag, std::string& value, const char* what, const char* type) {
    command.add_option(flag, value, what)->type_name(type)->capture_default_str()->group(group);
  };
  text("--host", a.http.host, "Address to listen on; only this machine reaches 127.0.0.1", "ADDR");
  count("--port", a.http.port, 0, 65535, "Port; 0: any that is free, which is printed");
  text("--name", a.name, "The model's name for clients (default: its folder's or file's)", "TEXT");
  count("--running", a.engine.running_max, 1, static_cast<int>(kBatchTokensMax),
        "Requests answered at once, as far as the budgets allow");
  count("--queue", a.engine.queue_max, 0, 4096, "Requests that may wait for room; then 429");
  count("--window-tokens", a.window_tokens, 16, 1 << 20,
        "Most tokens of a prompt between two tokens of the other answers");
  command
      .add_option("--request-seconds", a.engine.request_seconds_max,
                  "Longest time of a request, with its wait")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--grace-seconds", a.grace_seconds,
                  "After SIGTERM, time for the requests that there are")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str()
      ->group(group);
  count("--max-tokens", a.limits.max_tokens, 1, 1 << 20, "Longest answer that may be asked for");
  text("--media-root", a.media_root, "Folder whose files file:// URLs may name (default: none)",
       "DIR");
  text("--body-limit", a.body_bytes, "Longest body of a request", "SIZE");
  text("--media-limit", a.media_bytes, "Largest picture or video, encoded", "SIZE");
  text("--pixel-limit", a.pixel_bytes,
       "Decoded pixels, 4 bytes a value, of requests whose media wait; then 429", "SIZE");
  count("--media-count", a.limits.media_count_max, 1, 4096, "Most pictures and videos a request");
  count("--frames", a.limits.frames_default, 1, 4096, "Frames taken of a video, evenly spaced");
  count("--frames-max", a.limits.frames_max, 1, 4096, "Most that a request may ask for");
}

std::string model_name(const ServeArguments& a) {
  if (!a.name.empty()) return a.name;
  std::error_code error;
  std::filesystem::path path = std::filesystem::weakly_canonical(a.host.model, error);
  if (error) path = a.host.model;
  return path.extension() == ".gguf" ? path.stem() : path.filename();
}

struct Server {
  std::unique_ptr<Engine> engine;
  std::unique_ptr<ChatService> service;
  std::unique_ptr<HttpServer> http;
};

Result<Server> open_server(const ServeArguments& a) {
  VKV_TRY(check_host_arguments(a.host));
  VKV_TRY_ASSIGN(session, session_options(a.host));
  session.generator.window_tokens_max = a.window_tokens;
  HttpOptions http = a.http;
  VKV_TRY(read_byte_size("--body-limit", a.body_bytes, http.body_bytes_max));
  ChatServiceOptions options{
      .model_name = model_name(a), .limits = a.limits, .media = {.root = a.media_root}};
  options.limits.max_tokens_default = std::min(a.limits.max_tokens_default, a.limits.max_tokens);
  options.limits.frames_default = std::min(a.limits.frames_default, a.limits.frames_max);
  VKV_TRY(read_byte_size("--media-limit", a.media_bytes, options.media.bytes_max));
  EngineOptions limits = a.engine;
  VKV_TRY(read_byte_size("--pixel-limit", a.pixel_bytes, limits.pixel_bytes_max));
  // Those that are answered or wait, and some for /health, /metrics and refusals.
  http.connections_max = a.engine.running_max + a.engine.queue_max + 16;

  Server server;
  VKV_TRY_ASSIGN(engine, Engine::open(session, limits));
  server.engine = std::move(engine);
  VKV_TRY_ASSIGN(service, ChatService::make(server.engine.get(), options));
  server.service = std::move(service);
  VKV_TRY_ASSIGN(listening, HttpServer::open(server.service.get(), http));
  server.http = std::move(listening);
  return server;
}

}  // namespace

void add_serve_flags(CLI::App& command, ServeArguments& a) {
  add_host_flags(command, a.host);
  add_http_flags(command, a);
  command.add_flag("-v,--verbose", a.host.verbose, "Say more on standard error");
  command.footer(kExamples);
}

int serve_command(const ServeArguments& arguments) {
  const std::atomic<bool>& stop = catch_interrupts();
  Result<Server> server = open_server(arguments);
  if (!server.ok()) {
    spdlog::error("{}", server.status().message());
    return kExitUsage;
  }
  fmt::print("listening on http://{}:{}\n", arguments.http.host, server.value().http->port());
  std::fflush(stdout);
  while (!stop.load()) std::this_thread::sleep_for(kLookInterval);

  server.value().http->drain();
  server.value().engine->stop(arguments.grace_seconds);
  server.value().http.reset();
  return kExitDone;
}

}  // namespace vkv
