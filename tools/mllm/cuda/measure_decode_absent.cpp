// measure_decode_absent.cpp: of builds without CUDA.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/cuda/measure_decode.h"

namespace vkv {

Result<DecodeMeasurement> measure_decode(const DecodeMeasurementOptions&) {
  return Status(Code::kUnsupported,
                "this build is without CUDA: decoding is measured with -DVKV_CUDA=ON");
}

}  // namespace vkv
