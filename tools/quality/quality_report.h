// quality_report.h: the summary as one HTML file that opens without a network.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "tools/quality/quality_summary.h"

namespace vkv {

// The source of Chart.js, which draws the plots; empty if this build has none (CMake says what to
// install). Licence: MIT, its notice is part of the text.
std::string_view chart_script();

// Table, plots and a heat map of attention error by layer. Nothing is loaded from elsewhere; every
// string of the facts and summaries is escaped. `script`: chart_script(); where it is empty the
// plots are missing and the page says so.
std::string quality_report(const QualityFacts& facts,
                           std::span<const ConfigurationSummary> summaries,
                           std::string_view script);

}  // namespace vkv
