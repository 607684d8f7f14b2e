// attend_128x8.cu: the attention kernel for heads of up to 128 channels and 8 query rows.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/attend_launch.cuh"

namespace vkv {

template Status AttendKernels<128>::run<2>(const AttendLaunch&, cudaStream_t);
template Result<int> AttendKernels<128>::resident<2>();

}  // namespace vkv
