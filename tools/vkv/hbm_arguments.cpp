// hbm_arguments.cpp: words to numbers.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/hbm_arguments.h"

#include <charconv>
#include <string_view>

#include "tools/vkv/byte_size.h"

namespace vkv {
namespace {

Result<double> parse_host_share(std::string_view text) {
  if (text == "auto") return -1.0;
  double share = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), share);
  if (error != std::errc() || end != text.data() + text.size() || !(share >= 0 && share <= 1))
    return Status(Code::kInvalidArgument,
                  "--host-share is \"" + std::string(text) + "\"; it is auto or 0 to 1, like 0.5");
  return share;
}

}  // namespace

void add_hbm_flags(CLI::App& command, HbmArguments& arguments, const std::string& group) {
  command
      .add_option("--hbm-budget", arguments.budget,
                  "With --device cuda: GPU memory that the KV cache takes, all of it at once; what "
                  "it has no room for lies in DRAM")
      ->type_name("SIZE")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--hbm-blocks", arguments.blocks,
                  "Of it, what encoded blocks may take; the rest goes to DRAM (default: all)")
      ->type_name("SIZE")
      ->group(group);
  command
      .add_option("--read-ahead", arguments.read_ahead,
                  "Of it, room for blocks on their way from DRAM while the layer before is "
                  "computed; 0: they are read when they are needed (default: 64M, or less of a "
                  "small budget)")
      ->type_name("SIZE")
      ->group(group);
  command
      .add_option("--host-share", arguments.host_share,
                  "With --device cuda: of what a step reads in DRAM, the fraction that the CPU "
                  "attends to beside the GPU: 0 to 1, or auto, by measured times (then the last "
                  "bits of outputs differ from run to run)")
      ->capture_default_str()
      ->group(group);
}

Status apply(const HbmArguments& arguments, CacheOptions& options) {
  VKV_TRY(read_byte_size("--hbm-budget", arguments.budget, options.hbm_bytes_max));
  VKV_TRY(read_byte_size("--hbm-blocks", arguments.blocks, options.hbm_block_bytes_max));
  VKV_TRY(read_byte_size("--read-ahead", arguments.read_ahead, options.hbm_ahead_bytes));
  VKV_TRY_ASSIGN(share, parse_host_share(arguments.host_share));
  options.host_share = share;
  return {};
}

}  // namespace vkv
