// decode_report_test.cpp: what `vkv bench decode` writes: rows as JSON and HTML, spans as a trace.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/vkv/chrome_trace.h"
#include "tools/vkv/decode_rows.h"

namespace vkv {
namespace {

DecodeFacts facts() {
  return {.device = "<GPU>",
          .model = "m",
          .text_tokens = 256,
          .steps = 10,
          .speeds = {.hbm = 3e12, .link = 5e10, .cpu = 1e11, .threads = 16}};
}

std::vector<DecodeRow> rows() {
  DecodeRow fits = {.precision = "visual1", .path = "split", .tokens = 8192, .batch = 4};
  fits.measured = {.weight_bytes = 14'000'000'000,
                   .kv_bytes = 4'000'000'000,
                   .read_bytes_per_second = 3e12,
                   .dram_bytes = 3'000'000'000,
                   .link_bytes_per_second = 5e10,
                   .host_read_bytes = 10'000'000'000,
                   .host_read_rate = 5e10,
                   .seconds = 0.04};
  DecodeRow large = {.precision = "</script>", .path = "resident", .tokens = 131072, .batch = 64};
  large.status = {Code::kOutOfMemory, "HBM: <no> room"};
  return {fits, large};
}

TEST(decode_report, json_has_rates_of_tokens_bytes_of_readers_and_errors) {
  const nlohmann::json json = decode_json(facts(), rows());
  EXPECT_EQ(json["read_gb_s"]["link"], 50.0);
  ASSERT_EQ(json["rows"].size(), 2u);
  const nlohmann::json& row = json["rows"][0];
  EXPECT_NEAR(row["tokens_per_second"].get<double>(), 100, 1e-9);
  EXPECT_EQ(row["host_read_bytes"], 1'000'000'000);  // of a step
  // 15 GB at the speed of HBM; the link brings 0.25 of the 3 GB meanwhile, both read the rest.
  EXPECT_NEAR(row["bound_ms"].get<double>(), 5 + 2.75 / 100 * 1e3, 1e-9);
  EXPECT_EQ(json["rows"][1]["error"], "HBM: <no> room");
  EXPECT_FALSE(json["rows"][1].contains("step_ms"));
}

TEST(decode_report, the_page_escapes_every_string_and_loads_nothing) {
  const std::string page = decode_report(facts(), rows(), "var chart;");
  for (const char* bad : {"<GPU>", "<no>", "</script></", "src=\"", "href=", "http:"})
    EXPECT_EQ(page.find(bad), std::string::npos) << bad;
  EXPECT_NE(page.find("HBM: &lt;no&gt; room"), std::string::npos);
  EXPECT_NE(page.find("id=\"plot4x8192\""), std::string::npos);
  EXPECT_NE(page.find("var chart;"), std::string::npos);
  EXPECT_NE(decode_report(facts(), rows(), "").find("libjs-chart.js"), std::string::npos);
}

TEST(chrome_trace, has_an_event_a_span_on_its_own_track) {
  const std::vector<ActivitySpan> spans = {
      {ActivitySpan::Place::kHost, 77, "step", 2'000'000, 2'500'000, 0},
      {ActivitySpan::Place::kCopy, 13, "to HBM", 2'100'000, 2'101'000, 50'000},
      {ActivitySpan::Place::kKernel, 7, "attend", 2'100'500, 2'100'500, 0}};
  const nlohmann::json trace = chrome_trace(spans);
  const nlohmann::json& events = trace["traceEvents"];
  ASSERT_EQ(events.size(), 6u);  // three spans, three names
  EXPECT_EQ(events[0]["ts"], 0.0);
  EXPECT_EQ(events[0]["dur"], 500.0);
  EXPECT_EQ(events[0]["tid"], 77);
  EXPECT_EQ(events[1]["ts"], 100.0);
  EXPECT_EQ(events[1]["args"]["bytes"], 50'000);
  EXPECT_EQ(events[1]["args"]["GB/s"], 50.0);
  EXPECT_NE(events[1]["pid"], events[2]["pid"]);
  EXPECT_EQ(events[2]["dur"], 0.0);
  int names = 0;
  for (const nlohmann::json& event : events)
    if (event["ph"] == "M") ++names;
  EXPECT_EQ(names, 3);
  EXPECT_EQ(chrome_trace({})["traceEvents"].size(), 0u);
}

}  // namespace
}  // namespace vkv
