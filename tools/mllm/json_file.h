// json_file.h: JSON whose mistakes are errors in words.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "vkv/status.h"

namespace vkv {

using Json = nlohmann::json;

// `where` begins the message of an error: the path of the file. A key that stands twice in one
// object is an error, because readers differ in which one they take; so is nesting deeper than 64.
// Errors: kDataLoss.
Result<Json> parse_json(std::string_view text, const std::string& where);

}  // namespace vkv
