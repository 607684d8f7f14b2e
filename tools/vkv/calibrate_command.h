// calibrate_command.h: `vkv calibrate`: which layer needs how many bits, as a policy file.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tools/vkv/measured_data.h"

namespace vkv {

struct CalibrateArguments {
  MeasuredDataArguments data;
  std::string base = "visual2";  // preset, pair or file whose low codecs are replaced
  std::string codecs = "i8,i4,i2,i1";
  double bits = 0;  // of a low value, with headers; 0: those of the base
  std::string out;
  int test_items = 32;  // at most, of those that calibration leaves
};

// Adds the flags with their help to the subcommand; parsing fills `arguments`, which must stay.
void add_calibrate_flags(CLI::App& command, CalibrateArguments& arguments);

// Returns the exit status (exit_code.h).
int calibrate_command(const CalibrateArguments& arguments);

}  // namespace vkv
