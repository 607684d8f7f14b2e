// chrome_trace.cpp: spans as events.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/chrome_trace.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

namespace vkv {
namespace {

using Json = nlohmann::json;
using Place = ActivitySpan::Place;

constexpr const char* kTitles[] = {"GPU: kernels", "GPU: copies", "CPU"};  // by place

}  // namespace

Json chrome_trace(std::span<const ActivitySpan> spans) {
  uint64_t first = UINT64_MAX;
  for (const ActivitySpan& span : spans) first = std::min(first, span.begin_ns);
  const auto microseconds = [](uint64_t ns) { return static_cast<double>(ns) * 1e-3; };

  Json events = Json::array();
  std::set<Place> places;
  for (const ActivitySpan& span : spans) {
    places.insert(span.place);
    const uint64_t ns = std::max(span.end_ns, span.begin_ns) - span.begin_ns;
    Json event = {{"ph", "X"},
                  {"name", span.name},
                  {"pid", static_cast<int>(span.place)},
                  {"tid", span.track},
                  {"ts", microseconds(span.begin_ns - first)},
                  {"dur", microseconds(ns)}};
    if (span.byte_count > 0) {
      event["args"]["bytes"] = span.byte_count;
      if (ns > 0)
        event["args"]["GB/s"] = static_cast<double>(span.byte_count) / static_cast<double>(ns);
    }
    events.push_back(std::move(event));
  }
  for (const Place place : places)
    events.push_back({{"ph", "M"},
                      {"name", "process_name"},
                      {"pid", static_cast<int>(place)},
                      {"args", {{"name", kTitles[static_cast<size_t>(place)]}}}});
  return {{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}};
}

}  // namespace vkv
