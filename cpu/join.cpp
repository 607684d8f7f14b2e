// join.cpp: what is done once a header, and once a row and tile.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/join.h"

#include "cpu/lanes.h"

namespace vkv::VKV_ISA {

void load_key_scales(const uint16_t* halves, int channels, float bias, float* scale, double* zero) {
  for (int c = 0; c < channels; c += kLanes) {
    const Floats s = widen_16<false>(halves + c), z = widen_16<false>(halves + channels + c);
    store(scale + c, s);
    const Floats biased = s * bias;
    store(zero + c, __builtin_convertvector(low_half(z), Doubles) +
                        __builtin_convertvector(low_half(biased), Doubles));
    store(zero + c + 8, __builtin_convertvector(high_half(z), Doubles) +
                            __builtin_convertvector(high_half(biased), Doubles));
  }
}

void load_value_scales(const uint16_t* halves, int channels, float bias, float* scale, float* zero,
                       float* byte_zero) {
  for (int c = 0; c < channels; c += kLanes) {
    const Floats s = widen_16<false>(halves + c), z = widen_16<false>(halves + channels + c);
    store(scale + c, s);
    store(zero + c, z);
    store(byte_zero + c, z + s * bias);
  }
}

void widen_row(const float* values, int count, double* wide) {
  for (int i = 0; i < count; i += 8)
    store(wide + i, __builtin_convertvector(load<Floats8>(values + i), Doubles));
}

void divide_row(const float* values, int count, float divisor, float* target) {
  for (int i = 0; i < count; i += 8) store(target + i, load<Floats8>(values + i) / divisor);
}

// In sixteens of rows, since one exponential costs as much as sixteen.
void join_tile(const TileWeights& weights, const double* beta, float factor,
               const RunningSums& running) {
  for (int first = 0; first < weights.rows; first += kLanes) {
    const int count = weights.rows - first < kLanes ? weights.rows - first : kLanes;
    alignas(64) float keep[kLanes] = {}, weight[kLanes] = {};
    for (int i = 0; i < count; ++i) {
      const int row = first + i;
      if (weights.visible[row] == 0) continue;
      const double tile_max = double{weights.max[row]} + beta[row] * factor;
      const double max = running.max[row] < tile_max ? tile_max : running.max[row];
      keep[i] = static_cast<float>(running.max[row] - max);
      weight[i] = static_cast<float>(tile_max - max);
      running.max[row] = max;
    }
    store(keep, exp2_of(load<Floats>(keep)));
    store(weight, exp2_of(load<Floats>(weight)));
    for (int i = 0; i < count; ++i) {
      const int row = first + i;
      running.keep[row] = keep[i];
      running.weight[row] = weights.visible[row] == 0 ? 0.0f : weight[i];
      if (weights.visible[row] == 0) continue;
      running.sum[row] = running.sum[row] * keep[i] + weights.sum[row] * weight[i];
    }
  }
}

}  // namespace vkv::VKV_ISA
