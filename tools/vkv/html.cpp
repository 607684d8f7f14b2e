// html.cpp: what reports have in common.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/html.h"

#include <nlohmann/json.hpp>

namespace vkv {
namespace {

constexpr std::string_view kStyle = R"(
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1480px; margin: 2em auto; padding: 0 1.5em;
  color: #1d2433; background: #fff; }
h1 { font-size: 1.5em; margin-bottom: .2em; } h2 { font-size: 1.15em; margin: 2em 0 .5em; }
p, dd { color: #48536b; max-width: 62em; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .32em .55em; text-align: right; border-bottom: 1px solid #e3e7ef;
  white-space: nowrap; }
th { color: #48536b; font-weight: 600; border-bottom: 2px solid #c3cad8; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; font-weight: 600; }
.PASS { background: #d9f2e0; color: #135c2b; } .FAIL { background: #fbdcdc; color: #8f1616; }
.OPEN { background: #fdf0cf; color: #6f5200; } .facts td { font-weight: 400; text-align: left; }
.warn { background: #fdf0cf; padding: .6em 1em; border-left: 4px solid #d9a400; color: #4d3a00; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 2em; }
.plot { position: relative; height: 420px; } .heat td { min-width: 3.6em; }
.small { font-size: 12.5px; }
)";

}  // namespace

std::string_view html_style() { return kStyle; }

std::string escape_html(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      case '\'':
        safe += "&#39;";
        break;
      default:
        safe += c;
    }
  }
  return safe;
}

std::string script_json(const nlohmann::json& json) {
  std::string text = json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace), safe;
  for (const char c : text) {
    if (c == '<')
      safe += "\\u003c";
    else
      safe += c;
  }
  return safe;
}

}  // namespace vkv
