// quality_command.h: `vkv quality`: what each way to store KV costs in answers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace vkv {

struct QualityArguments {
  std::string model;
  std::string jobs;  // one of the two
  std::string text;
  std::string configurations = "exact,i8,i4,visual2,visual1,extreme,onebit,blank";
  int limit = 0;               // 0: all
  int calibration_items = 16;  // at most, where a configuration needs them

  std::string view = "auto";
  std::string prompt_style = "auto";
  int recent_tokens = 128;
  int new_tokens_max = 32;
  int passage_tokens = 1024;
  int passage_tail = 256;
  std::string passage_role = "visual";

  std::string report;  // HTML file
  std::string json;    // file
  int threads = 0;
  bool quiet = false;
  bool progress = false;
};

// Adds the flags with their help to the subcommand; parsing fills `arguments`, which must stay.
void add_quality_flags(CLI::App& command, QualityArguments& arguments);

// Returns the exit status (exit_code.h): kExitSomeFailed also where a gate is failed.
int quality_command(const QualityArguments& arguments);

}  // namespace vkv
