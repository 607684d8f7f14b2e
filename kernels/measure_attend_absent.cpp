// measure_attend_absent.cpp: stands in for measure_attend.cu in builds without CUDA.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/measure_attend.h"

namespace vkv {
namespace {

Status absent() { return {Code::kUnsupported, "built without CUDA (VKV_CUDA=OFF)"}; }

}  // namespace

Result<AttendMeasurement> measure_attend(const AttendMeasurementOptions&) { return absent(); }
Result<double> measure_read_speed(Tier, const std::function<void(bool)>&) { return absent(); }

}  // namespace vkv
