// encode_i4.cu: I4.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/encode_codes.cuh"

namespace vkv {

Status launch_encode_i4(const EncodeLaunch& launch, cudaStream_t stream) {
  return launch_codes<4>(launch, stream);
}

}  // namespace vkv
