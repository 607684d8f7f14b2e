// quality_command.h: `vkv quality`: what each way to store KV costs in answers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tools/vkv/measured_data.h"

namespace vkv {

struct QualityArguments {
  MeasuredDataArguments data;
  std::string configurations = "exact,i8,i4,visual2,visual1,extreme,onebit,blank";
  std::string report;  // HTML file
  std::string json;    // file
};

// Adds the flags with their help to the subcommand; parsing fills `arguments`, which must stay.
void add_quality_flags(CLI::App& command, QualityArguments& arguments);

// Returns the exit status (exit_code.h): kExitSomeFailed also where a gate is failed.
int quality_command(const QualityArguments& arguments);

}  // namespace vkv
