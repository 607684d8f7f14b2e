// model_config.cpp: config.json of a folder, by the family that it names.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/model_config.h"

#include <fmt/format.h>

#include "tools/mllm/family.h"
#include "tools/mllm/json_file.h"
#include "tools/mllm/mapped_file.h"

namespace vkv {
namespace {

constexpr size_t kConfigBytesMax = size_t{1} << 20;

// Errors: kUnsupported for a model or architecture that there is no code for, listing those known.
Result<const Family*> find_family(const Json& root, const std::string& path) {
  ConfigFields fields(root, path);
  const std::string type = fields.text("model_type", "");
  VKV_TRY(fields.status());
  const Json* const architectures = fields.find("architectures");
  std::string known;
  for (const auto& group : {kLlavaFamilies, kQwenVlFamilies, kTextFamilies})
    for (const Family& family : group) {
      if (type == family.model_type &&
          (architectures == nullptr || *architectures == Json{family.architecture}))
        return &family;
      known += fmt::format("{}\"{}\" ({})", known.empty() ? "" : ", ", family.model_type,
                           family.architecture);
    }
  return Status(Code::kUnsupported,
                fmt::format("{}: model_type \"{}\", architectures {}; there are {}", path, type,
                            architectures == nullptr ? "" : architectures->dump(), known));
}

// Errors: kUnsupported, naming the method.
Status refuse_quantized(const Json& object, const std::string& where) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    const auto found = object.find(key);
    if (found == object.end() || found->is_null()) continue;
    const std::string method = found->is_object() && found->contains("quant_method")
                                   ? (*found)["quant_method"].dump()
                                   : "";
    return {Code::kUnsupported,
            fmt::format("{}: {}{}: quantized weights are not read; give an F32, F16 or BF16 "
                        "checkpoint",
                        where, key, method.empty() ? "" : " of " + method)};
  }
  return {};
}

Status read_generation_config(const std::string& folder, std::vector<int32_t>& eos_tokens) {
  const std::string path = folder + "/generation_config.json";
  auto text = read_text_file(path, kConfigBytesMax);
  if (!text.ok()) return text.status().code() == Code::kNotFound ? Status() : text.status();
  VKV_TRY_ASSIGN(json, parse_json(text.value(), path));
  if (!json.is_object()) return {Code::kDataLoss, path + ": not a JSON object"};
  ConfigFields fields(json, path);
  read_eos(fields, eos_tokens);
  return fields.status();
}

}  // namespace

Result<ModelConfig> load_model_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  auto file_text = read_text_file(path, kConfigBytesMax);
  if (!file_text.ok() && file_text.status().code() == Code::kNotFound)
    return Status(Code::kNotFound,
                  fmt::format("{}: no config.json; give the folder of a Hugging Face "
                              "checkpoint, or a GGUF file",
                              folder));
  if (!file_text.ok()) return file_text.status();
  VKV_TRY_ASSIGN(json, parse_json(file_text.value(), path));
  if (!json.is_object()) return Status(Code::kDataLoss, path + ": not a JSON object");
  VKV_TRY_ASSIGN(family, find_family(json, path));
  VKV_TRY(refuse_quantized(json, path));
  for (const char* part : {"text_config", "vision_config"})
    if (const auto found = json.find(part); found != json.end() && found->is_object())
      VKV_TRY(refuse_quantized(*found, path + ": " + part));
  VKV_TRY_ASSIGN(config, family->read(json, path));
  VKV_TRY(read_generation_config(folder, config.eos_tokens));
  return std::move(config);
}

}  // namespace vkv
