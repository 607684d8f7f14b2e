// encode_kernels.h: launchers of the encoder's kernels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/encode_part.h"
#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

inline constexpr uint32_t kLaunchPartsMax = 65535;  // of a grid's z

// Blocks of tiles of `lanes` lanes: tile, KV head, part.
inline dim3 launch_grid(const EncodeLaunch& launch, int lanes) {
  return dim3(static_cast<uint32_t>((launch.lanes_max + lanes - 1) / lanes),
              static_cast<uint32_t>(launch.kv_heads_max), launch.part_count);
}

// Codes and, unless shared, headers of parts of one codec; all rotated, or none.
Status launch_encode_i8(const EncodeLaunch& launch, cudaStream_t stream);
Status launch_encode_i4(const EncodeLaunch& launch, cudaStream_t stream);
Status launch_encode_i2(const EncodeLaunch& launch, cudaStream_t stream);
Status launch_encode_i1(const EncodeLaunch& launch, cudaStream_t stream);

// Parts at 16 bit, and their headers, which are zero, where there is one.
Status launch_encode_halves(const EncodeLaunch& launch, cudaStream_t stream);

// Headers over any number of rows. rotated: [part_count][kv_heads_max][samples_max][head_dim]
// floats of room, where launch.rotated.
Status launch_encode_headers(const EncodeLaunch& launch, float* rotated, cudaStream_t stream);

// mean: [kv_heads, head_dim] of launch's only part.
Status launch_mean_key(const EncodeLaunch& launch, float* mean, cudaStream_t stream);

// room: saliency_room() floats of the device.
size_t saliency_room(const SaliencyItem& item);
Status launch_saliency(const SaliencyItem& item, float* room, cudaStream_t stream);

// distances: [rows, kv_heads].
Status launch_squared_distances(const EncodePart& part, float* distances, cudaStream_t stream);

}  // namespace vkv
