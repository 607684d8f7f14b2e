// answer_json.cpp: answers and failures as JSON.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/vkv/answers.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

std::string role_name(int role) { return std::string(name(static_cast<Role>(role))); }

Json tier_json(const TierBytes& tier) {
  return {{"bytes", tier.bytes}, {"peak", tier.peak}, {"originals", tier.originals}};
}

TierBytes tier_from(const Json& json) {
  return {json.at("bytes").get<uint64_t>(), json.at("peak").get<uint64_t>(),
          json.at("originals").get<uint64_t>()};
}

Json kv_json(const RoleStats& role) {
  return {{"tokens", role.token_count},
          {"values", role.value_count},
          {"stored_bits", role.stored_bits},
          {"bits_per_value", role.bits_per_value()},
          {"sealed_values", role.sealed_value_count},
          {"sealed_stored_bits", role.sealed_stored_bits},
          {"nvme_values", role.nvme_value_count},
          {"high_values", role.high_value_count},
          {"promoted_values", role.promoted_value_count},
          {"original_bits", role.original_bits}};
}

Json form_json(const FormStats& form) {
  return {{"role", name(form.role)}, {"form", name(form.form)},    {"k", name(form.k_codec)},
          {"v", name(form.v_codec)}, {"tokens", form.token_count}, {"bytes", form.byte_count}};
}

// The member of an enumeration of `count` that is called so. Throws Json::other_error.
template <class Enum>
Enum named(const Json& json, int count) {
  for (int i = 0; i < count; ++i)
    if (name(static_cast<Enum>(i)) == json.get<std::string>()) return static_cast<Enum>(i);
  throw Json::other_error::create(500, "unknown name " + json.dump(), &json);
}

FormStats form_from(const Json& json) {
  return {.role = named<Role>(json.at("role"), kRoleCount),
          .form = named<TokenForm>(json.at("form"), kTokenFormCount),
          .k_codec = named<Codec>(json.at("k"), kCodecCount),
          .v_codec = named<Codec>(json.at("v"), kCodecCount),
          .token_count = json.at("tokens").get<uint64_t>(),
          .byte_count = json.at("bytes").get<uint64_t>()};
}

RoleStats kv_from(const Json& json) {
  RoleStats role;
  role.token_count = json.at("tokens").get<uint64_t>();
  role.value_count = json.at("values").get<uint64_t>();
  role.stored_bits = json.at("stored_bits").get<uint64_t>();
  role.sealed_value_count = json.at("sealed_values").get<uint64_t>();
  role.sealed_stored_bits = json.at("sealed_stored_bits").get<uint64_t>();
  role.nvme_value_count = json.at("nvme_values").get<uint64_t>();
  role.high_value_count = json.at("high_values").get<uint64_t>();
  role.promoted_value_count = json.at("promoted_values").get<uint64_t>();
  role.original_bits = json.at("original_bits").get<uint64_t>();
  return role;
}

AnswerRecord record_from(const Json& json) {
  AnswerRecord record;
  record.id = json.at("id").get<std::string>();
  record.question = json.at("question").get<int64_t>();
  record.hash = json.at("hash").get<std::string>();
  record.group = json.at("group").get<std::string>();
  record.kind = json.value("kind", "");
  record.prompt = json.at("prompt").get<std::string>();
  record.text = json.at("text").get<std::string>();
  if (json.contains("expected")) {
    record.expected = json.at("expected").get<std::string>();
    record.correct = json.at("correct").get<bool>();
  }
  record.finish = json.at("finish").get<std::string>() == name(FinishReason::kLength)
                      ? FinishReason::kLength
                      : FinishReason::kEos;
  record.answer_tokens = json.at("tokens").at("answer").get<uint64_t>();
  for (int role = 0; role < kRoleCount; ++role) {
    record.prompt_tokens[static_cast<size_t>(role)] =
        json.at("tokens").at(role_name(role)).get<uint64_t>();
    record.kv[static_cast<size_t>(role)] = kv_from(json.at("kv").at(role_name(role)));
  }
  record.media_seconds = json.at("media_ms").get<double>() / 1e3;
  record.ttft_seconds = json.at("ttft_ms").get<double>() / 1e3;
  const Json& tpot = json.at("tpot_ms");
  record.tpot_seconds = tpot.is_null() ? 0 : tpot.get<double>() / 1e3;
  record.dram = tier_from(json.at("tiers").at("dram"));
  record.nvme = tier_from(json.at("tiers").at("nvme"));
  for (const Json& form : json.at("forms")) record.forms.push_back(form_from(form));
  const Json& io = json.at("io");
  record.io = {io.at("extents_needed").get<uint64_t>(), io.at("nvme_read_bytes").get<uint64_t>(),
               io.at("nvme_written_bytes").get<uint64_t>(), io.at("prefetch_hits").get<uint64_t>(),
               io.at("prefetch_ready").get<uint64_t>()};
  return record;
}

}  // namespace

Json to_json(const AnswerRecord& record) {
  Json json = {{"id", record.id},
               {"question", record.question},
               {"hash", record.hash},
               {"group", record.group},
               {"prompt", record.prompt},
               {"text", record.text},
               {"finish", name(record.finish)},
               {"tokens", {{"answer", record.answer_tokens}}},
               {"media_ms", record.media_seconds * 1e3},
               {"ttft_ms", record.ttft_seconds * 1e3},
               {"tpot_ms", nullptr},
               {"tiers", {{"dram", tier_json(record.dram)}, {"nvme", tier_json(record.nvme)}}},
               {"io",
                {{"extents_needed", record.io.extents_needed},
                 {"nvme_read_bytes", record.io.nvme_read_bytes},
                 {"nvme_written_bytes", record.io.nvme_written_bytes},
                 {"prefetch_hits", record.io.prefetch_hits},
                 {"prefetch_ready", record.io.prefetch_ready}}}};
  if (record.tpot_seconds > 0) json["tpot_ms"] = record.tpot_seconds * 1e3;
  if (!record.kind.empty()) json["kind"] = record.kind;
  if (record.expected) {
    json["expected"] = *record.expected;
    json["correct"] = record.correct;
  }
  for (int role = 0; role < kRoleCount; ++role) {
    json["tokens"][role_name(role)] = record.prompt_tokens[static_cast<size_t>(role)];
    json["kv"][role_name(role)] = kv_json(record.kv[static_cast<size_t>(role)]);
  }
  json["forms"] = Json::array();
  for (const FormStats& form : record.forms) json["forms"].push_back(form_json(form));
  return json;
}

Json to_json(const FailureRecord& record) {
  Json json = {{"id", record.id}, {"line", record.line}, {"error", record.error}};
  if (record.question >= 0) json["question"] = record.question;
  return json;
}

Result<AnswerRecord> answer_from_json(const Json& json) {
  try {
    return record_from(json);
  } catch (const Json::exception& error) {
    return Status(Code::kInvalidArgument, fmt::format("is not an answer: {}", error.what()));
  }
}

}  // namespace vkv
