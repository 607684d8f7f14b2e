// measure_attend.h: how fast attention reads records, against how fast memory can be read at all.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/cuda_handles.h"
#include "vkv/options.h"
#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

struct AttendMeasurementOptions {
  KvShape shape;  // `layers` is ignored
  CodecPair codecs;
  int token_count = 131072;  // of a sequence, all in full blocks but the last
  int batch = 1;             // sequences
  int q_len = 1;
  CudaMemory memory = CudaMemory::kDevice;  // of the records
};

struct AttendMeasurement {
  uint64_t record_bytes = 0;  // read by one call, without tables
  double seconds = 0;         // of one call: median over rounds of calls on different records
};

// Random codes, plausible scales. Calls follow each other as the layers of a model do; there are
// enough different records that no cache holds them. Errors: kOutOfMemory, kUnsupported, kCuda.
Result<AttendMeasurement> measure_attend(const AttendMeasurementOptions& options);

// Bytes per second that a plain kernel reads: of device memory, or of mapped pinned memory. Median.
Result<double> measure_read_speed(CudaMemory memory);

}  // namespace vkv
