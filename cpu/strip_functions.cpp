// strip_functions.cpp: the encoder's table of one instruction set; compiled once for each.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/strip_functions.h"

#include "cpu/strips.h"

namespace vkv::VKV_ISA {

const StripFunctions& strip_functions() {
  static constexpr StripFunctions kFunctions = {
      .gather_channels = &VKV_ISA::gather_channels,
      .gather_tokens = &VKV_ISA::gather_tokens,
      .copy_halves = &VKV_ISA::copy_halves,
      .strip_mean = &VKV_ISA::strip_mean,
      .strip_header = &VKV_ISA::strip_header,
      .strip_codes = &VKV_ISA::strip_codes,
      .pack_lane_columns = &VKV_ISA::pack_lane_columns,
      .pack_lane_rows = &VKV_ISA::pack_lane_rows,
  };
  return kFunctions;
}

}  // namespace vkv::VKV_ISA
