// measure_attend.h: how fast attention on the GPU reads records, against how fast memory can be
// read at all; and how fast it is with many queries.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "vkv/options.h"
#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

struct AttendMeasurementOptions {
  KvShape shape;  // `layers` is ignored
  CodecPair codecs;
  int token_count = 131072;  // of a sequence, all in full blocks but the last
  int batch = 1;             // sequences
  int q_len = 1;  // more than 16: a chunk of a prompt, whose own tokens are open, and causal
  Tier tier = Tier::kHbm;  // of the records: kHbm, or kDram: mapped pinned memory, read in place
};

struct AttendMeasurement {
  uint64_t record_bytes = 0;  // read by one call, without tables
  double operations = 0;      // of the products, each a multiplication and an addition
  double seconds = 0;         // of one call: median over rounds of calls on different records
  std::string engine;         // Backend::name() of chunks; empty: the kernel of decoding alone
};

// On the current device. Random codes, plausible scales. Calls follow each other as the layers of a
// model do; there are enough different records that no cache holds them. What comes out is checked
// by tests/gpu_attend_test.cpp, not here.
// Errors: kUnsupported in a build without CUDA, without a GPU or for a shape without kernels,
// kOutOfMemory, kCuda.
Result<AttendMeasurement> measure_attend(const AttendMeasurementOptions& options);

constexpr bool is_prefill(const AttendMeasurementOptions& options) { return options.q_len > 16; }

// Bytes per second that a plain kernel reads from a tier: kHbm or kDram. Median. `timing`, if any,
// is called with true before what is timed, and with false behind it. Errors: as above.
Result<double> measure_read_speed(Tier tier, const std::function<void(bool)>& timing = {});

}  // namespace vkv
