// configuration.cpp: names -> policies and schemes.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/configuration.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <system_error>
#include <utility>

#include "tools/quality/simulated_cache.h"
#include "tools/vkv/policy_file.h"

namespace vkv {
namespace {

// The published sweep of the quantile, and ours of CalibQuant's kappa and tau2. The release has
// kappa 0.5, 0.3 and tau2 3 at 1 bit, kappa 1 at 2; the paper searches tau2 in [0, 3].
constexpr double kTaus[] = {0, .001, .01, .05, .1, .25};
constexpr std::pair<double, double> kKappas[] = {{.5, .3}, {1, 1}, {.7, .5}, {.5, .5}, {.3, .3}};
constexpr double kScoreTaus[] = {3, 2, 1, 0};
constexpr std::pair<double, double> kSpreads[] = {{1, 1},     {1.25, 1},    {1.5, 1}, {1.25, 1.25},
                                                  {1.5, 1.5}, {1.75, 1.75}, {2, 1.5}};

Status unknown(std::string_view name) {
  std::string presets;
  for (const std::string_view preset : precision_preset_names()) {
    presets += preset;
    presets += ' ';
  }
  return {
      Code::kInvalidArgument,
      fmt::format("no configuration is called \"{}\"; there are {}| i8 i4 i2 i1 f16, a pair "
                  "like i4/i2, visual:i4, each also with +segment, "
                  "+rotated, +pertoken, +spread:K[,V], +tuned, +originals, sim: | a policy file | "
                  "absmax4 kivi4 kivi2 quantile{{4,2,1}}[:TAU] "
                  "calibquant{{2,1}}[:KAPPA_K,KAPPA_V,TAU1,TAU2] lambda1 blank",
                  name, presets)};
}

bool take_prefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

// Text, control and sinks at 16 bit, every old visual token low.
PrecisionPolicy visual_only(const CodecPair& low) {
  return {.name = "visual", .high = {}, .low = low, .high_fraction = 0};
}

// What is high goes along where it is the same pair but for V per token.
void set_low(PrecisionPolicy& policy, const CodecPair& low) {
  const auto as_high = [&](CodecPair pair) {
    pair.v_per_token = policy.high.v_per_token;
    return pair;
  };
  if (policy.high == as_high(policy.low)) policy.high = as_high(low);
  policy.low = low;
}

// Suffixes of a pair; each may stand once.
bool take_suffix(std::string_view& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.remove_suffix(suffix.size());
  return true;
}

// "0.5,0.3": exactly `count` numbers, none negative.
std::optional<std::vector<double>> numbers(std::string_view text, size_t count) {
  std::vector<double> values;
  while (true) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || !(value >= 0) || value > 1e6) return std::nullopt;
    values.push_back(value);
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    if (text.empty()) break;
    if (!take_prefix(text, ",")) return std::nullopt;
  }
  if (values.size() != count) return std::nullopt;
  return values;
}

// "+spread:1.5,1" or "+spread:1.5" at the end of a name.
void take_spread(std::string_view& text, CodecPair& pair) {
  const size_t begin = text.rfind("+spread:");
  if (begin == std::string_view::npos) return;
  const std::string_view given = text.substr(begin + std::string_view("+spread:").size());
  std::optional<std::vector<double>> values = numbers(given, 2);
  if (!values && (values = numbers(given, 1))) values->push_back(values->front());
  if (!values) return;  // the name is then unknown
  pair.k_spread = static_cast<float>((*values)[0]);
  pair.v_spread = static_cast<float>((*values)[1]);
  text.remove_suffix(text.size() - begin);
}

Result<PrecisionPolicy> policy_named(std::string_view text) {
  if (Result<PrecisionPolicy> preset = precision_preset(text); preset.ok()) return preset;
  CodecPair spread;
  std::string_view unspread = text;
  take_spread(unspread, spread);
  if (unspread != text) {
    VKV_TRY_ASSIGN(policy, policy_named(unspread));
    CodecPair low = policy.low;
    low.k_spread = spread.k_spread;
    low.v_spread = spread.v_spread;
    set_low(policy, low);
    policy.name = text;
    VKV_TRY(validate(policy));
    return policy;
  }
  std::string_view rest = text;
  const bool visual = take_prefix(rest, "visual:");
  bool segment = false, rotated = false, per_token = false;
  while ((!segment && (segment = take_suffix(rest, "+segment"))) ||
         (!rotated && (rotated = take_suffix(rest, "+rotated"))) ||
         (!per_token && (per_token = take_suffix(rest, "+pertoken")))) {
  }
  std::optional<CodecPair> pair = codec_pair_named(rest);
  if (!pair) {
    // A file of one's own.
    std::error_code error;
    if (std::filesystem::is_regular_file(text, error)) return policy_from(text);
    return unknown(text);
  }
  pair->k_rotated = rotated;
  pair->v_per_token = per_token;
  PrecisionPolicy policy = visual ? visual_only(*pair) : uniform_policy(*pair, text);
  policy.name = text;
  policy.segment_headers = segment;
  VKV_TRY(validate(policy));
  return policy;
}

// The schemes that a name of a baseline may mean: one, or those to choose from; none: no such name.
std::vector<Scheme> schemes_named(std::string_view text) {
  if (text == "absmax4") return {{.kind = SchemeKind::kAbsMax, .bits = 4}};
  if (text == "blank") return {{.kind = SchemeKind::kBlank, .bits = 0}};
  if (text == "kivi4") return {{.kind = SchemeKind::kKivi, .bits = 4}};
  if (text == "kivi2") return {{.kind = SchemeKind::kKivi, .bits = 2}};
  const size_t colon = text.find(':');
  const std::string_view base = text.substr(0, colon);
  const std::string_view given =
      colon == std::string_view::npos ? std::string_view() : text.substr(colon + 1);
  std::vector<Scheme> schemes;
  for (const int bits : {4, 2, 1}) {
    if (base == fmt::format("quantile{}", bits)) {
      Scheme scheme{.kind = SchemeKind::kQuantile, .bits = bits};
      for (const double tau : kTaus) {
        scheme.tau = tau;
        schemes.push_back(scheme);
      }
      if (colon == std::string_view::npos) return schemes;
      const auto values = numbers(given, 1);
      if (!values || (*values)[0] >= 0.5) return {};
      scheme.tau = (*values)[0];
      return {scheme};
    }
    if (bits < 4 && base == fmt::format("calibquant{}", bits)) {
      Scheme scheme{.kind = SchemeKind::kCalibQuant, .bits = bits};
      for (const auto& [kappa_k, kappa_v] : kKappas) {
        for (const double tau : kScoreTaus) {
          scheme.kappa_k = kappa_k, scheme.kappa_v = kappa_v, scheme.score_tau_high = tau;
          schemes.push_back(scheme);
        }
      }
      if (colon == std::string_view::npos) return schemes;
      const auto values = numbers(given, 4);
      if (!values) return {};
      scheme.kappa_k = (*values)[0], scheme.kappa_v = (*values)[1];
      scheme.score_tau_low = (*values)[2], scheme.score_tau_high = (*values)[3];
      return {scheme};
    }
  }
  return {};
}

// The configurations that "+tuned" after a name chooses from.
Result<std::vector<Configuration>> tuned(std::string_view name) {
  VKV_TRY_ASSIGN(base, parse_configuration(name));
  if (base.needs_calibration()) return unknown(fmt::format("{}+tuned", name));
  const std::vector<CodecPair> variants = tuned_variants(base.policy.low);
  if (variants.size() == 1) return unknown(fmt::format("{}+tuned", name));
  std::vector<Configuration> candidates;
  for (const CodecPair& variant : variants) {
    Configuration candidate = base;
    set_low(candidate.policy, variant);
    VKV_TRY(validate(candidate.policy));
    candidates.push_back(std::move(candidate));
  }
  return candidates;
}

}  // namespace

std::vector<CodecPair> tuned_variants(const CodecPair& pair) {
  std::vector<CodecPair> variants = {pair};
  for (const bool rotated : {false, true}) {
    if (rotated && (pair.k_rotated || bits_of(pair.k) > 2)) continue;
    for (const auto& [k, v] : kSpreads) {
      CodecPair variant = pair;
      variant.k_rotated |= rotated;
      variant.k_spread = bits_of(pair.k) <= 4 ? static_cast<float>(k) : 1.0f;
      variant.v_spread = bits_of(pair.v) <= 4 ? static_cast<float>(v) : 1.0f;
      if (std::find(variants.begin(), variants.end(), variant) == variants.end())
        variants.push_back(variant);
    }
  }
  return variants;
}

Result<Configuration> parse_configuration(std::string_view text) {
  Configuration configuration{.name = std::string(text)};
  if (text == "lambda1") {
    configuration.policy = visual_only({Codec::kI1, Codec::kI1});
    configuration.policy.segment_headers = true;
    configuration.scheme = Scheme{.bits = 1, .fits_lambda = true};
    return configuration;
  }
  const std::vector<Scheme> schemes = schemes_named(text);
  if (!schemes.empty()) {
    // The low pair is not used; that it differs from the high one is what makes tokens low.
    configuration.policy = visual_only({Codec::kI4, Codec::kI4});
    configuration.scheme = schemes.front();
    if (schemes.size() == 1) return configuration;
    Configuration candidate = configuration;
    for (const Scheme& scheme : schemes) {
      candidate.scheme = scheme;
      configuration.candidates.push_back(candidate);
    }
    return configuration;
  }
  std::string_view rest = text;
  if (take_suffix(rest, "+originals")) {
    VKV_TRY_ASSIGN(kept, parse_configuration(rest));
    if (kept.scheme || kept.keep_original != KeepOriginal::kNone) return unknown(text);
    kept.name = text;
    kept.keep_original = KeepOriginal::kDram;
    for (Configuration& candidate : kept.candidates) {
      candidate.name = text;
      candidate.keep_original = KeepOriginal::kDram;
    }
    return kept;
  }
  if (take_suffix(rest, "+tuned")) {
    VKV_TRY_ASSIGN(candidates, tuned(rest));
    for (Configuration& candidate : candidates) candidate.name = text;
    configuration = candidates.front();
    configuration.candidates = std::move(candidates);
    return configuration;
  }
  if (take_prefix(rest, "sim:")) configuration.scheme = Scheme{};
  VKV_TRY_ASSIGN(policy, policy_named(rest));
  configuration.policy = policy;
  return configuration;
}

Result<std::vector<Configuration>> parse_configurations(std::string_view names) {
  std::vector<Configuration> configurations;
  while (!names.empty()) {
    size_t end = std::min(names.find(','), names.size());
    // Numbers after a comma go on with the name before it.
    while (end + 1 < names.size() &&
           (std::string_view("0123456789.").find(names[end + 1]) != std::string_view::npos))
      end = std::min(names.find(',', end + 1), names.size());
    VKV_TRY_ASSIGN(configuration, parse_configuration(names.substr(0, end)));
    for (const Configuration& other : configurations)
      if (other.name == configuration.name)
        return Status(Code::kInvalidArgument,
                      fmt::format("configuration {} stands twice", other.name));
    configurations.push_back(std::move(configuration));
    names.remove_prefix(std::min(end + 1, names.size()));
  }
  if (configurations.empty()) return unknown("");
  return configurations;
}

std::string chosen_text(const Configuration& configuration) {
  if (!configuration.scheme) {
    // Presets and files have spreads that nobody chose here.
    const std::string& given = configuration.name;
    if (given.find("+tuned") == given.npos && given.find("+spread:") == given.npos) return "";
    const CodecPair& low = configuration.policy.low;
    if (low.k_spread == 1.0f && low.v_spread == 1.0f) return "";
    return fmt::format("spread {} {}{}", low.k_spread, low.v_spread,
                       low.k_rotated ? ", rotated" : "");
  }
  const Scheme& scheme = *configuration.scheme;
  switch (scheme.kind) {
    case SchemeKind::kQuantile:
      return fmt::format("tau {}", scheme.tau);
    case SchemeKind::kCalibQuant:
      return fmt::format("kappa {} {}, tau {} {}", scheme.kappa_k, scheme.kappa_v,
                         scheme.score_tau_low, scheme.score_tau_high);
    case SchemeKind::kCodec: {
      if (!scheme.lambda || scheme.lambda->empty()) return "";
      const auto [least, greatest] =
          std::minmax_element(scheme.lambda->begin(), scheme.lambda->end());
      return fmt::format("lambda {:.3f} to {:.3f}", *least, *greatest);
    }
    default:
      return "";
  }
}

Result<std::unique_ptr<Cache>> open_cache(const Configuration& configuration,
                                          const TestCacheOptions& options) {
  const CacheOptions cache_options = {.shape = options.shape,
                                      .element = ElementType::kF32,
                                      .precision = configuration.policy,
                                      .keep_original = configuration.keep_original,
                                      .recent_tokens = options.recent_tokens,
                                      .threads = options.threads};
  if (!configuration.scheme) return Cache::open(cache_options);
  VKV_TRY_ASSIGN(simulated, SimulatedCache::open(cache_options, *configuration.scheme));
  return std::unique_ptr<Cache>(std::move(simulated));
}

}  // namespace vkv
