// attend_32x4.cu: the attention kernel for heads of up to 32 channels and 4 query rows.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/attend_launch.cuh"

namespace vkv {

template Status AttendKernels<32>::run<1>(const AttendLaunch&, cudaStream_t);
template Result<int> AttendKernels<32>::resident<1>();

}  // namespace vkv
