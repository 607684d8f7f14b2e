// torch_attention.cpp: a Python that runs a script, and what it printed.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/torch_attention.h"

#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

extern char** environ;

namespace vkv {
namespace {

// Standard output of a program. Errors: kUnsupported.
Result<std::string> output_of(std::vector<std::string> words) {
  const std::string program = words.front();
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);

  std::array<int, 2> pipe_ends{};
  if (pipe(pipe_ends.data()) != 0)
    return Status(Code::kUnsupported, fmt::format("pipe: {}", std::strerror(errno)));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&actions, pipe_ends[0]);
  posix_spawn_file_actions_addclose(&actions, pipe_ends[1]);
  pid_t child = 0;
  const int error =
      posix_spawnp(&child, program.c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(pipe_ends[1]);

  std::string output;
  std::array<char, 4096> some{};
  while (error == 0) {
    const ssize_t count = read(pipe_ends[0], some.data(), some.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    output.append(some.data(), static_cast<size_t>(count));
  }
  close(pipe_ends[0]);
  if (error != 0)
    return Status(Code::kUnsupported,
                  fmt::format("cannot run {}: {}", program, std::strerror(error)));
  int ended = 0;
  while (waitpid(child, &ended, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(ended) || WEXITSTATUS(ended) != 0)
    return Status(Code::kUnsupported,
                  fmt::format("{} failed to run the script (is PyTorch there?)", program));
  return output;
}

}  // namespace

Result<TorchAttention> measure_torch_attention(const TorchAttentionOptions& options) {
  std::vector<std::string> words = {options.python, "-c", torch_attention_script()};
  for (const int number : {options.shape.q_heads, options.shape.kv_heads, options.shape.head_dim,
                           options.token_count, options.batch, options.q_len, options.cpu_threads})
    words.push_back(std::to_string(number));
  VKV_TRY_ASSIGN(output, output_of(std::move(words)));
  const auto json = nlohmann::json::parse(output, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("version") || !json.contains("rows"))
    return Status(Code::kUnsupported, options.python + " printed no result");
  TorchAttention torch{.version = json["version"]};
  for (const auto& row : json["rows"])
    torch.rows.push_back({.way = row["way"],
                          .seconds = row.value("seconds", 0.0),
                          .refused = row.value("refused", std::string())});
  return torch;
}

std::optional<TorchAttentionRow> fastest(const TorchAttention& torch, bool plain) {
  std::optional<TorchAttentionRow> best;
  for (const TorchAttentionRow& row : torch.rows) {
    if (row.seconds <= 0 || row.way.starts_with("plain") != plain) continue;
    if (!best || row.seconds < best->seconds) best = row;
  }
  return best;
}

}  // namespace vkv
