// encode_i8.cu: I8.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/encode_codes.cuh"

namespace vkv {

Status launch_encode_i8(const EncodeLaunch& launch, cudaStream_t stream) {
  return launch_codes<8>(launch, stream);
}

}  // namespace vkv
