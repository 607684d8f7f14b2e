// plan_command.h: `vkv plan`: what budgets buy, before a machine or a model is at hand.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace vkv {

struct PlanArguments {
  std::string model = "qwen2.5-7b";  // a shape's name, or a checkpoint
  int tokens = 131072;
  int text_tokens = 256;  // of them, not visual
  int recent_tokens = 128;
  std::vector<std::string> presets;  // empty: all
  std::vector<std::string> hbm_blocks = {"0", "1G", "4G", "16G"};
  double hbm_speed = 0;   // GB/s; 0: measured
  double link_speed = 0;  // the same
  double cpu_speed = 0;   // GB/s of its attention; 0: it does not attend
  bool json = false;
};

// Adds the flags with their help to the subcommand; parsing fills `arguments`, which must stay.
void add_plan_flags(CLI::App& command, PlanArguments& arguments);

int plan_command(const PlanArguments& arguments);

}  // namespace vkv
