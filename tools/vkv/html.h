// html.h: what reports have in common: one HTML file that opens without a network.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace vkv {

// The style sheet of reports.
std::string_view html_style();

// For text between tags and in quoted attributes: & < > " '.
std::string escape_html(std::string_view text);

// Inside <script type="application/json">: nothing may look like a tag.
std::string script_json(const nlohmann::json& json);

}  // namespace vkv
