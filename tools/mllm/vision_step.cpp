// vision_step.cpp: how the patches of a picture stand in Qwen's vision tower, and who sees whom.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/vision_step.h"

#include <algorithm>

namespace vkv {
namespace {

// Tokens of each window, windows and tokens row by row.
std::vector<std::vector<int32_t>> windows_of(int rows, int columns, int edge) {
  std::vector<std::vector<int32_t>> windows;
  for (int top = 0; top < rows; top += edge)
    for (int left = 0; left < columns; left += edge) {
      std::vector<int32_t>& window = windows.emplace_back();
      for (int row = top; row < std::min(rows, top + edge); ++row)
        for (int column = left; column < std::min(columns, left + edge); ++column)
          window.push_back(row * columns + column);
    }
  return windows;
}

}  // namespace

VisionStep vision_step(const VisionConfig& vision, int height, int width) {
  const int merge = vision.merge_edge, rows = height / merge, columns = width / merge;
  const int edge = vision.window_edge > 0 ? vision.window_edge : std::max(rows, columns);
  auto windows = windows_of(rows, columns, edge);
  std::stable_sort(windows.begin(), windows.end(),
                   [](const auto& a, const auto& b) { return a.size() > b.size(); });

  VisionStep step;
  for (const std::vector<int32_t>& window : windows) {
    const auto patches = static_cast<int64_t>(window.size()) * merge * merge;
    if (step.windows.empty() || step.windows.back().positions != patches)
      step.windows.push_back({step.rows(), 0, patches});
    ++step.windows.back().parts;
    for (const int32_t token : window) {
      step.token_order.push_back(token);
      for (int y = 0; y < merge; ++y)
        for (int x = 0; x < merge; ++x)
          step.positions.push_back({0, token / columns * merge + y, token % columns * merge + x});
    }
  }
  return step;
}

bool has_windows(const VisionConfig& vision, int layer) {
  const auto& whole = vision.whole_layers;
  return vision.window_edge > 0 && std::find(whole.begin(), whole.end(), layer) == whole.end();
}

}  // namespace vkv
