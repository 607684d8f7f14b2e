// peer_rows.h: what `vkv bench peers` measured: as text, JSON and an HTML report.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vkv/status.h"

namespace vkv {

// One way to keep K and V, with so many tokens and sequences. Numbers that are 0 were not measured.
struct PeerRow {
  std::string who;  // "transformers", "vkv"
  std::string way;  // "offloaded", "visual2, 1 GiB in HBM"
  int tokens = 0;   // of each sequence
  int batch = 1;
  double step_seconds = 0;      // TPOT
  double prompt_seconds = 0;    // TTFT of a prompt of `tokens`
  double question_seconds = 0;  // TTFT of a question to those
  uint64_t kv_bytes = 0;        // of all sequences
  uint64_t device_bytes = 0;    // of the GPU, in use
  uint64_t host_bytes = 0;      // of the process, at its peak
  std::string refused;          // why there are no numbers

  double tokens_per_second() const { return step_seconds > 0 ? batch / step_seconds : 0; }
};

struct PeerFacts {
  std::string device, model;
  std::string versions;  // of the peers; or why they did not run
  std::string budget;    // of HBM where batches grow
  int text_tokens = 0;
  double hbm_read_rate = 0, link_read_rate = 0;  // bytes a second, plain reading in this run
};

// Rows of transformers from what peers.py printed. `versions` is filled in. Errors: kUnsupported
// for anything else.
Result<std::vector<PeerRow>> parse_peers(const std::string& printed, std::string& versions);

nlohmann::json peers_json(const PeerFacts& facts, std::span<const PeerRow> rows);

void print_peers_heading(const PeerFacts& facts);
void print_peer_line(const PeerRow& row);

// Tables and plots. `script`: chart_script(); where it is empty the plots are missing and the page
// says so.
std::string peers_report(const PeerFacts& facts, std::span<const PeerRow> rows,
                         std::string_view script);

}  // namespace vkv
