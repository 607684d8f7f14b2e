// family.h: the kinds of model that there are: their data, and what reads their config.json.
// SPDX-License-Identifier: Apache-2.0
//
// A family is one file, family_....cpp: which model_type and architecture it has, and how its
// configuration becomes a ModelConfig. What computes it follows from that.
#pragma once

#include <span>
#include <string>

#include "tools/mllm/config_fields.h"
#include "tools/mllm/model_config.h"

namespace vkv {

struct Family {
  const char* model_type;
  const char* architecture;
  // `root` is config.json, `path` its place, for messages. eos_tokens may stay empty. Errors: those
  // of load_model_config.
  Result<ModelConfig> (*read)(const Json& root, const std::string& path);
};

extern const std::span<const Family> kTextFamilies;  // family_text.cpp
extern const std::span<const Family> kLlavaFamilies;
extern const std::span<const Family> kQwenVlFamilies;

// What families share.

enum class DecoderKind : uint8_t { kLlama, kQwen2, kQwen2Vl };

// The decoder's part of a configuration; `where` names it. model_type is the family's matter.
Result<TextConfig> read_text_config(const Json& object, DecoderKind kind, const std::string& where);

// Errors: kInvalidArgument if there is no such object.
Result<const Json*> find_object(const Json& parent, const char* key, const std::string& where);

// "eos_token_id": 2 or [2, 3]; null leaves `tokens` as it is.
void read_eos(ConfigFields& fields, std::vector<int32_t>& tokens);

}  // namespace vkv
