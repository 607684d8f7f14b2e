// scheme.h: published ways to quantize a KV cache, as round trips: values -> codes -> values.
// SPDX-License-Identifier: Apache-2.0
//
// Baselines to compare our codecs with. They run in a SimulatedCache, which attends over what comes
// back; nothing is packed. Bits are counted by each scheme's own formula, all metadata included:
// fp16 for each scale and zero point, fp32 for the one scale of a tensor.
//
//   absmax4      one scale for all of a layer's K, one for its V: s = max|x| / 7, c = round(x / s).
//                Bits: 4 + 32/values. (The first published method's pseudo-code.)
//   kivi4 kivi2  K per channel over 32 tokens, V per token over 32 channels; min and max.
//                Bits: b + 32/32. Source: Liu et al. 2024, KIVI, arXiv 2402.02750.
//   quantile     b = 4, 2 or 1: each channel is clipped to its quantiles tau and 1 - tau over the
//                segment. Bits: b + 32/tokens. Source: arXiv 2502.14882 v1. Its "channel groups"
//                are taken as one channel each, which is its best case.
//   calibquant   b = 2 or 1: each channel's range over the segment is kappa * [min, max], shrunk
//                about zero. Scores of the quantized tokens then go through
//                g(S) = (S - lo) / (hi - lo) * ((hi - tau2) - (lo - tau1)) + (lo - tau1),
//                lo and hi the least and greatest of them, per query and head.
//                Bits: b + 32/tokens. Source: arXiv 2502.14882 v2 (CalibQuant) and its code.
//   lambda1      our I1, whose scores are pulled to the middle of each channel's two levels:
//                S = S_middle + lambda * (S^ - S_middle), lambda = Cov(S, S^) / Var(S^) for each
//                layer and query head.
//   blank        no scheme but a control: every value becomes zero. Shows how far the measures can
//   go
//                at all: where blank passes, the data do not depend on what is encoded. 0 bits.
//   codec        one of our codec pairs by the real encoder and decoder: shows that the simulator
//                agrees with vkv::Cache.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "vkv/options.h"
#include "vkv/types.h"

namespace vkv {

enum class SchemeKind : uint8_t { kCodec, kAbsMax, kKivi, kQuantile, kCalibQuant, kBlank };

struct Scheme {
  SchemeKind kind = SchemeKind::kCodec;
  int bits = 4;  // of a code; kCodec: the policy says

  double tau = 0;                                // kQuantile: 0 .. below 0.5
  double kappa_k = 1, kappa_v = 1;               // kCalibQuant
  double score_tau_low = 0, score_tau_high = 0;  // kCalibQuant: tau1, tau2

  // kCodec: factors of scores about their middle, [layers, q_heads]; null: none.
  std::shared_ptr<const std::vector<float>> lambda;
  bool fits_lambda = false;  // kCodec: gather what lambda is computed from
};

// Rows of K or V of one layer: value (row, head, channel) is at row * kv_heads * head_dim + ...
struct SegmentShape {
  int rows = 0;  // tokens, at least 1
  int kv_heads = 0;
  int head_dim = 0;

  size_t width() const { return static_cast<size_t>(kv_heads) * static_cast<size_t>(head_dim); }
  size_t values() const { return static_cast<size_t>(rows) * width(); }
};

// Replaces the values by what the scheme makes of them; returns the bits that it stores, metadata
// included. `kind` is not kCodec.
double round_trip_k(const Scheme& scheme, const SegmentShape& shape, float* k);
double round_trip_v(const Scheme& scheme, const SegmentShape& shape, float* v);

}  // namespace vkv
