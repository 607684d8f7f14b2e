// attend_96x4.cu: the attention kernel for heads of up to 96 channels and 4 query rows.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/attend_launch.cuh"

namespace vkv {

template Status AttendKernels<96>::run<1>(const AttendLaunch&, cudaStream_t);
template Result<int> AttendKernels<96>::resident<1>();

}  // namespace vkv
