// chrome_trace.h: spans as the trace format that chrome://tracing and ui.perfetto.dev open.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>

#include "kernels/activity_trace.h"

namespace vkv {

// Complete events ("X") in microseconds since the first span: a process each for kernels, copies
// (with their bytes and GB/s) and the host, a thread each for streams and threads. The format:
// "Trace Event Format", Google, 2016.
nlohmann::json chrome_trace(std::span<const ActivitySpan> spans);

}  // namespace vkv
