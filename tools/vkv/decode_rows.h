// decode_rows.h: what `vkv bench decode` measured: as text, JSON and an HTML report.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

#include "tools/mllm/cuda/measure_decode.h"
#include "vkv/status.h"

namespace vkv {

// Bytes a second of plain reading, measured in this run; 0: not measured.
struct ReadSpeeds {
  double hbm = 0, link = 0, cpu = 0;           // each alone
  double link_together = 0, cpu_together = 0;  // at the same time, from different memory
  int threads = 0;                             // of the CPU
};

struct DecodeFacts {
  std::string device, model;
  int text_tokens = 0, steps = 0;
  ReadSpeeds speeds;
};

// One combination.
struct DecodeRow {
  std::string precision, path;
  int tokens = 0, batch = 1;
  Status status;  // not ok: `measured` has no meaning
  DecodeMeasurement measured;
};

nlohmann::json decode_json(const DecodeFacts& facts, std::span<const DecodeRow> rows);

// The one row there is, in all its parts.
void print_decode(const DecodeFacts& facts, const DecodeRow& row);

// A line of a table; the first needs the heading.
void print_decode_heading(const DecodeFacts& facts);
void print_decode_line(const DecodeRow& row);

// Table and plots. `script`: chart_script(); where it is empty the plots are missing and the page
// says so.
std::string decode_report(const DecodeFacts& facts, std::span<const DecodeRow> rows,
                          std::string_view script);

}  // namespace vkv
