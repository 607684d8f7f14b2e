// policy_file.h: precision policies by name, as codec pairs, or from a file of one's own.
// SPDX-License-Identifier: Apache-2.0
//
// A file is one JSON object; a field that is missing keeps the value of the base:
//
//   {"name": "mine",                   what reports call it; default: the name of the file
//    "base": "visual2",                preset that the other fields change; default: "exact"
//    "high": "i8/i8",                  K/V of sealed text and of the visual tokens looked at most
//    "low": {"k": "i2", "v": "i1",     of all others; "i4" alone is both K and V
//            "k_rotated": true,        Hadamard rotation: K i2 or i1, head_dim a power of two
//            "v_per_token": false,     V with scales per token, not with segment_headers
//            "k_spread": 1.5, "v_spread": 1},    i4, i2, i1: levels moved apart, 0.5..4
//    "high_fraction": 0.1,             of all tokens, 0..1: how many may be high
//    "visual_high_fraction_max": 1,    of the visual tokens, 0..1
//    "sink_tokens": 4,                 first tokens of a sequence that stay at 16 bit, 0..64
//    "sink_sigmas": 6,                 keys this far from the mean do too; 0: none
//    "segment_headers": false,         one header for the low tokens of a prefill window
//    "layers": [{"layer": 0, "high": "i8", "low": "i8"}, ...]}    overrides; each layer once
//
// Codecs are f16, bf16, i8, i4, i2, i1. K never gets fewer bits than V. Other fields, other types
// and values out of range are refused.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

// "i4" or "i4/i2": K/V in codecs by name, without variants; none for anything else.
std::optional<CodecPair> codec_pair_named(std::string_view text);

// The same, or else kInvalidArgument that names those there are.
Result<CodecPair> codec_pair_of(std::string_view text);

// Every old token in one pair, but V of text at 4 bits and fewer with scales per token, as presets
// have it. Not validated.
PrecisionPolicy uniform_policy(const CodecPair& codecs, std::string_view name);

// A preset's name; a codec ("i4") or pair ("i4/i2") for every token; or the path of a file.
// Errors: kInvalidArgument and kDataLoss naming the file, the field and what may stand there;
// kNotFound and kIo for a file that cannot be read.
Result<PrecisionPolicy> policy_from(std::string_view name_or_path);

// `where` begins the message of an error; `name` is the policy's where the text gives none.
// Errors: as policy_from.
Result<PrecisionPolicy> parse_policy(std::string_view text, const std::string& where,
                                     const std::string& name);

// The file of a policy, every field written out; parse_policy gives the same policy again.
std::string policy_text(const PrecisionPolicy& policy);

}  // namespace vkv
