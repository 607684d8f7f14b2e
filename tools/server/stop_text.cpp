// stop_text.cpp: ends an answer where one of some texts would begin.
// SPDX-License-Identifier: Apache-2.0
#include "tools/server/stop_text.h"

#include <algorithm>
#include <utility>

namespace vkv {

std::string StopText::push(std::string_view piece) {
  if (stopped_) return {};
  held_ += piece;
  size_t begin = held_.npos;
  for (const std::string& stop : stops_) begin = std::min(begin, held_.find(stop));
  if (begin != held_.npos) {
    stopped_ = true;
    return held_.substr(0, begin);
  }
  // The longest end of it that a stop text begins with stays.
  size_t kept = 0;
  for (const std::string& stop : stops_)
    for (size_t count = std::min(stop.size() - 1, held_.size()); count > kept; --count)
      if (held_.ends_with(std::string_view(stop).substr(0, count))) kept = count;
  std::string shown = held_.substr(0, held_.size() - kept);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopText::finish() { return stopped_ ? std::string() : std::exchange(held_, {}); }

}  // namespace vkv
