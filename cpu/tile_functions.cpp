// tile_functions.cpp: the table of one instruction set; compiled once for each.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/tile_functions.h"

#include "cpu/dot.h"
#include "cpu/join.h"
#include "cpu/planes.h"
#include "cpu/rotate.h"
#include "cpu/softmax.h"
#include "cpu/unpack.h"

namespace vkv::VKV_ISA {

const TileFunctions& tile_functions() {
  static constexpr TileFunctions kFunctions = {
      .floats_from_halves = &VKV_ISA::floats_from_halves,
      .load_key_scales = &VKV_ISA::load_key_scales,
      .load_value_scales = &VKV_ISA::load_value_scales,
      .unpack_bytes = &VKV_ISA::unpack_bytes,
      .unpack_floats = &VKV_ISA::unpack_floats,
      .transpose_halves = &VKV_ISA::transpose_halves,
      .convert_halves = &VKV_ISA::convert_halves,
      .make_unsigned = &VKV_ISA::make_unsigned,
      .subtract_code_sums = &VKV_ISA::subtract_code_sums,
      .dot_halves = &VKV_ISA::dot_halves,
      .sum_halves = &VKV_ISA::sum_halves,
      .rotate_rows = &VKV_ISA::rotate_rows,
      .make_query_planes = &VKV_ISA::make_query_planes,
      .scale_queries = &VKV_ISA::scale_queries,
      .scores_from_planes = &VKV_ISA::scores_from_planes,
      .scale_scores = &VKV_ISA::scale_scores,
      .softmax_floats = &VKV_ISA::softmax_floats,
      .softmax_planes = &VKV_ISA::softmax_planes,
      .join_tile = &VKV_ISA::join_tile,
      .widen_row = &VKV_ISA::widen_row,
      .divide_row = &VKV_ISA::divide_row,
      .scale_weights = &VKV_ISA::scale_weights,
      .add_plane_products = &VKV_ISA::add_plane_products,
      .add_products = &VKV_ISA::add_products,
  };
  return kFunctions;
}

}  // namespace vkv::VKV_ISA
