// measure_tile.h: what the parts of attention take for one tile that lies in a cache.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/attend_tiles.h"
#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

// Nanoseconds of one thread for each token and KV head. Zero: the part does not exist.
struct TileParts {
  double unpack = 0;    // of K and V, where products want panels
  double products = 0;  // both, with unpacking where it is not a part of its own
  double queries = 0;   // a header's scales, and planes of queries
  double scores = 0;    // from the products of planes
  double softmax = 0;
  double outputs = 0;  // scales of V, and adding to what came before
  double merge = 0;    // a task's partial into the result of all
  double whole = 0;    // attention over blocks that lie in a cache, and its merge

  double sum() const { return unpack + products + queries + scores + softmax + outputs + merge; }
};

// rows: queries x query heads that share a KV head, 1..128. codec: of K and V; at 16 bit there are
// products, softmax and outputs. On the calling thread, some milliseconds.
// Errors: as can_run().
Result<TileParts> measure_tile_parts(TileEngine engine, Codec codec, int rows, int head_dim);

}  // namespace vkv
