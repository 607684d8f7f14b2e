// planes.h: queries, scores and outputs as planes of bytes, for one instruction set; see
// tile_functions.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/tile_functions.h"

namespace vkv::VKV_ISA {

void make_query_planes(const float* q, const double* wide_q, int rows, int channels,
                       const float* scale, const double* zero, float code_middle,
                       const QueryPlanes& planes);
void scale_queries(const float* q, const double* wide_q, int rows, int channels, const float* scale,
                   const double* zero, float* scaled, double* beta);
void make_unsigned(const uint8_t* bytes, size_t count, uint8_t* target);
void subtract_code_sums(const int32_t* products, const int32_t* code_sums, int row_count,
                        int row_stride, int n, int32_t* target, int target_stride);
void scores_from_planes(const int32_t* products, int rows, int tokens, const float* step,
                        float factor, float* scores);
void scale_scores(float* scores, int rows, int tokens, float factor);
void scale_weights(const TileWeights& weights, const TokenScales& scales);
void add_plane_products(const int32_t* products, const TileOutput& output);
void add_products(const float* products, const TileOutput& output);

}  // namespace vkv::VKV_ISA
