// encode_bench_absent.cpp: stands in for encode_bench.cu in builds without CUDA (VKV_CUDA=OFF).
// SPDX-License-Identifier: Apache-2.0
#include "kernels/encode_bench.h"

namespace vkv {

Result<GpuEncodeBench> bench_gpu_encode(const GpuEncodeBenchArguments&) {
  return Status(Code::kUnsupported, "built without CUDA (VKV_CUDA=OFF)");
}

}  // namespace vkv
