// python_script.cpp: a child process and a pipe.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/python_script.h"

#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

extern char** environ;

namespace vkv {

Result<std::string> run_python(const std::string& python, const std::string& script,
                               std::span<const std::string> given) {
  std::vector<std::string> words = {python, "-c", script};
  words.insert(words.end(), given.begin(), given.end());
  const std::string& program = python;
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

}  // namespace vkv
