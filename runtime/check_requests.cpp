// check_requests.cpp: ranges, and layers in step.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/check_requests.h"

#include <algorithm>
#include <string>
#include <utility>

namespace vkv {
namespace {

constexpr uint32_t kTokensMax = 1u << 30;  // of a sequence

}  // namespace

Status check_each_once(std::vector<SequenceId> ids, std::string_view call) {
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice == ids.end()) return {};
  return {Code::kInvalidArgument, "sequence " + std::to_string(static_cast<uint64_t>(*twice)) +
                                      ": stands twice in one " + std::string(call)};
}

Status check_append(const KvShape& shape, int layer, const AppendRequest& request,
                    const SequenceState& sequence) {
  const auto wrong = [](std::string message) {
    return Status(Code::kInvalidArgument, std::move(message));
  };
  if (layer < 0 || layer >= shape.layers)
    return wrong("layer is " + std::to_string(layer) + "; the model has " +
                 std::to_string(shape.layers));
  if (request.token_count < 1 || request.k == nullptr || request.v == nullptr)
    return wrong("append needs at least one token, k and v");
  const size_t count = static_cast<size_t>(request.token_count);
  if (request.roles.size() != count)
    return wrong("append has " + std::to_string(count) + " tokens but " +
                 std::to_string(request.roles.size()) + " roles");
  if (sequence.roles.size() + count > kTokensMax)
    return wrong("a sequence holds at most " + std::to_string(kTokensMax) + " tokens");
  if (std::any_of(request.roles.begin(), request.roles.end(),
                  [](Role role) { return static_cast<int>(role) >= kRoleCount; }))
    return wrong("a role is none of text, visual, control, sink");
  if (layer == 0) return {};

  const size_t before = sequence.layers[static_cast<size_t>(layer)].token_count;
  if (before + count > sequence.roles.size())
    return wrong("layer " + std::to_string(layer) + " would have " +
                 std::to_string(before + count) + " tokens, layer 0 has " +
                 std::to_string(sequence.roles.size()) + ": append to the layers in order");
  if (!std::equal(request.roles.begin(), request.roles.end(),
                  sequence.roles.begin() + static_cast<ptrdiff_t>(before)))
    return wrong("roles of layer " + std::to_string(layer) + " differ from those of layer 0");
  return {};
}

Status check_attend(const KvShape& shape, int layer, const AttendRequest& request,
                    const SequenceState& sequence) {
  if (layer < 0 || layer >= shape.layers)
    return {Code::kInvalidArgument, "layer is " + std::to_string(layer) + "; the model has " +
                                        std::to_string(shape.layers)};
  const std::string who =
      "sequence " + std::to_string(static_cast<uint64_t>(request.sequence)) + ": ";
  if (request.q_len < 1 || request.q == nullptr || request.out == nullptr)
    return {Code::kInvalidArgument, who + "attend needs at least one query, q and out"};
  const LayerState& state = sequence.layers[static_cast<size_t>(layer)];
  const auto positions = state.open.positions();
  const size_t q_len = static_cast<size_t>(request.q_len);
  if (q_len > positions.size() || positions[positions.size() - q_len] + q_len != state.token_count)
    return {Code::kInvalidArgument,
            who + "q_len is " + std::to_string(q_len) + "; layer " + std::to_string(layer) +
                " has " + std::to_string(positions.size()) +
                " open tokens: append before attend, and attend all that was appended"};
  return {};
}

Status check_level(const SequenceState& sequence, SequenceId id, std::string_view what) {
  for (size_t layer = 0; layer < sequence.layers.size(); ++layer) {
    const uint32_t token_count = sequence.layers[layer].token_count;
    if (token_count != sequence.roles.size())
      return {Code::kInvalidArgument, "sequence " + std::to_string(static_cast<uint64_t>(id)) +
                                          " cannot be " + std::string(what) + ": layer " +
                                          std::to_string(layer) + " has " +
                                          std::to_string(token_count) + " tokens, layer 0 has " +
                                          std::to_string(sequence.roles.size())};
  }
  return {};
}

}  // namespace vkv
