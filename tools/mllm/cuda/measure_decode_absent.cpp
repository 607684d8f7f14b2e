// measure_decode_absent.cpp: of builds without CUDA.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/cuda/measure_decode.h"
#include "tools/mllm/cuda/measure_prefill.h"

namespace vkv {
namespace {

Status absent() {
  return {Code::kUnsupported,
          "this build is without CUDA: steps and prompts are measured with "
          "-DVKV_CUDA=ON"};
}

}  // namespace

Result<DecodeMeasurement> measure_decode(const DecodeMeasurementOptions&) { return absent(); }
Result<PrefillMeasurement> measure_prefill(const PrefillMeasurementOptions&) { return absent(); }

}  // namespace vkv
