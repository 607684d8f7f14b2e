// encode_i2.cu: I2.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/encode_codes.cuh"

namespace vkv {

Status launch_encode_i2(const EncodeLaunch& launch, cudaStream_t stream) {
  return launch_codes<2>(launch, stream);
}

}  // namespace vkv
