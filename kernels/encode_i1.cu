// encode_i1.cu: I1.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/encode_codes.cuh"

namespace vkv {

Status launch_encode_i1(const EncodeLaunch& launch, cudaStream_t stream) {
  return launch_codes<1>(launch, stream);
}

}  // namespace vkv
