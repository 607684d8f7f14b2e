// configuration.h: a way to store KV, by name: a preset, a pair of codecs, a published baseline.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/quality/scheme.h"
#include "vkv/cache.h"

namespace vkv {

struct Configuration {
  std::string name;
  PrecisionPolicy policy;
  std::optional<Scheme> scheme;  // runs in a SimulatedCache; none: in vkv::Cache
  KeepOriginal keep_original = KeepOriginal::kNone;  // of vkv::Cache
  // What the name leaves open, to be chosen on calibration items by the lowest mean KL; the first
  // is in force until then. fits_lambda: see Scheme.
  std::vector<Configuration> candidates;

  bool needs_calibration() const { return !candidates.empty() || (scheme && scheme->fits_lambda); }
};

// Names, [..] may be left out:
//
//   exact, balanced, visual2, ...     a preset of vkv/options.h
//   i8, i4, i2, i1, f16, i4/i2        all that is old in that pair of codecs, K/V
//   visual:i4, visual:i4/i2           only old visual tokens, as the baselines have it; the rest
//   stays
//                                     at 16 bit
//   i1+segment, visual:i1+segment     with headers shared by the low tokens of a window
//   i2+rotated, i4+pertoken           K rotated by a Hadamard matrix; V scaled per token
//   i1+spread:1.5, i2+spread:1.5,1    levels moved apart, of K and V or each (CodecPair::k_spread)
//   i1+tuned, visual1+tuned           by how much, and whether K is rotated, is chosen
//   extreme+originals                 16-bit originals of low tokens are kept in DRAM: questions
//                                     read them, and what they look at is promoted. Stands last,
//                                     or next to +tuned; not of baselines
//   FILE                              a policy of one's own, see tools/vkv/policy_file.h
//   sim:NAME                          one of the above through the simulator
//   absmax4, kivi4, kivi2             baselines, see scheme.h
//   quantile4[:TAU], quantile2, quantile1
//   calibquant2[:KAPPA_K,KAPPA_V,TAU1,TAU2], calibquant1
//   blank                             old visual tokens become zero: a control, see scheme.h
//   lambda1                           visual:i1+segment with scores corrected by lambda
//
// Errors: kInvalidArgument, listing what there is; those of policy_from for a file.
Result<Configuration> parse_configuration(std::string_view name);

// Names separated by commas; a comma inside calibquant's numbers belongs to them. No name twice.
Result<std::vector<Configuration>> parse_configurations(std::string_view names);

// What was chosen: "tau 0.01", "kappa 0.5 0.3, tau 0 3", "spread 1.5 1"; "" where nothing was,
// as for presets and files, which have their own spreads.
std::string chosen_text(const Configuration& configuration);

// What "+tuned" chooses from: the pair as it is, which comes first, and with levels moved apart in
// several ways, K as it is and rotated, where its codecs allow.
std::vector<CodecPair> tuned_variants(const CodecPair& pair);

struct TestCacheOptions {
  KvShape shape;
  int recent_tokens = 128;
  int threads = 1;
};

// Errors: those of Cache::open and SimulatedCache::open.
Result<std::unique_ptr<Cache>> open_cache(const Configuration& configuration,
                                          const TestCacheOptions& options);

}  // namespace vkv
