// chart_script_absent.cpp: a build without Chart.js.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/quality_report.h"

namespace vkv {

std::string_view chart_script() { return {}; }

}  // namespace vkv
