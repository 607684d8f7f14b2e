// torch_attention.cpp: a Python that runs a script, and what it printed.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/torch_attention.h"

#include <nlohmann/json.hpp>

#include "tools/vkv/python_script.h"

namespace vkv {

Result<TorchAttention> measure_torch_attention(const TorchAttentionOptions& options) {
  std::vector<std::string> numbers;
  for (const int number : {options.shape.q_heads, options.shape.kv_heads, options.shape.head_dim,
                           options.token_count, options.batch, options.q_len, options.cpu_threads})
    numbers.push_back(std::to_string(number));
  VKV_TRY_ASSIGN(output, run_python(options.python, torch_attention_script(), numbers));
  const auto json = nlohmann::json::parse(output, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("version") || !json.contains("rows"))
    return Status(Code::kUnsupported, options.python + " printed no result");
  TorchAttention torch{.version = json["version"]};
  for (const auto& row : json["rows"])
    torch.rows.push_back({.way = row["way"],
                          .seconds = row.value("seconds", 0.0),
                          .refused = row.value("refused", std::string())});
  return torch;
}

std::optional<TorchAttentionRow> fastest(const TorchAttention& torch, bool plain) {
  std::optional<TorchAttentionRow> best;
  for (const TorchAttentionRow& row : torch.rows) {
    if (row.seconds <= 0 || row.way.starts_with("plain") != plain) continue;
    if (!best || row.seconds < best->seconds) best = row;
  }
  return best;
}

}  // namespace vkv
