// program_run.h: runs a program and waits for what it says.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "tests/temporary_directory.h"
#include "vkv/status.h"

namespace vkv {

inline std::string file_content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

struct ProgramResult {
  int exit_status = -1;  // 128 + the signal if one ended it
  std::string out;
  std::string err;
  uint64_t peak_bytes = 0;  // of memory that it used
};

// A started program; its output goes to files, so that it never waits for a reader.
class Program {
 public:
  // `environment`: NAME=value, added to this process's own.
  Program(const std::string& path, const std::vector<std::string>& arguments,
          const std::vector<std::string>& environment = {}) {
    std::vector<std::string> words = {path};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    std::vector<std::string> variables = environment;
    const std::string out = folder_ / "out", err = folder_ / "err";

    pid_ = fork();
    VKV_CHECK(pid_ >= 0);
    if (pid_ > 0) return;
    for (std::string& variable : variables) putenv(variable.data());
    const int null = open("/dev/null", O_RDONLY);
    const int out_file = open(out.c_str(), O_CREAT | O_WRONLY, 0600);
    const int err_file = open(err.c_str(), O_CREAT | O_WRONLY, 0600);
    if (dup2(null, 0) < 0 || dup2(out_file, 1) < 0 || dup2(err_file, 2) < 0) _exit(126);
    execv(argv[0], argv.data());
    _exit(127);
  }
  ~Program() {
    if (pid_ > 0) {
      stop(SIGKILL);
      (void)wait();
    }
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  bool running() {
    siginfo_t info = {};
    return waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == 0;
  }

  // Of its standard output, so far.
  std::string output() const { return file_content(folder_ / "out"); }

  void stop(int signal) { VKV_CHECK(kill(pid_, signal) == 0); }

  ProgramResult wait() {
    int status = 0;
    rusage usage = {};
    VKV_CHECK(wait4(std::exchange(pid_, 0), &status, 0, &usage) > 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            file_content(folder_ / "out"), file_content(folder_ / "err"),
            static_cast<uint64_t>(usage.ru_maxrss) << 10};
  }

 private:
  TemporaryDirectory folder_;
  pid_t pid_ = 0;
};

}  // namespace vkv
