// stop_text.h: ends an answer where one of some texts would begin.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace vkv {

// Holds back what may become a stop text until it is known.
class StopText {
 public:
  // None of them empty.
  explicit StopText(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Returns what may be shown now. Once stopped, nothing.
  std::string push(std::string_view piece);
  std::string finish();  // the answer ended: what was held back

  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace vkv
