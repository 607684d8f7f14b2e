// peer_rows.cpp: tables and plots of what peers cost.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/peer_rows.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/vkv/html.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

std::string number(double value, double unit, int digits) {
  return value > 0 ? fmt::format("{:.{}f}", value * unit, digits) : std::string("-");
}

std::vector<std::string> cells(const PeerRow& row) {
  const auto gib = [](uint64_t bytes) { return number(static_cast<double>(bytes), 0x1p-30, 2); };
  return {row.who,
          row.way,
          std::to_string(row.tokens),
          std::to_string(row.batch),
          number(row.step_seconds, 1e3, 2),
          number(row.tokens_per_second(), 1, 1),
          number(row.prompt_seconds, 1e3, 0),
          number(row.question_seconds, 1e3, 1),
          gib(row.kv_bytes),
          gib(row.device_bytes),
          gib(row.host_bytes)};
}

constexpr const char* kTextLine =
    "{:<13} {:<28} {:>7} {:>5} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7} {:>7}\n";

void print_line(const std::vector<std::string>& c) {
  fmt::print(fmt::runtime(kTextLine), c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9],
             c[10]);
}

// A step's time by way, for each length with one sequence; tokens a second by batch.
constexpr std::string_view kPlots = R"(
const data = JSON.parse(document.getElementById('data').textContent);
const rows = data.rows.filter(row => row.refused === undefined && row.step_ms > 0);
const colour = row => row.who === 'vkv' ? '#1f6feb' : '#c4501b';
const label = row => `${row.who}: ${row.way}`;
const options = title => ({ indexAxis: 'y', maintainAspectRatio: false, animation: false,
  plugins: { legend: { display: false } },
  scales: { x: { type: 'logarithmic', title: { display: true, text: title } } } });
if (window.Chart) {
  for (const plot of document.querySelectorAll('canvas[data-tokens]')) {
    const here = rows.filter(row => row.batch === 1 && row.tokens == plot.dataset.tokens &&
      !row.way.includes('under'));
    new Chart(plot, { type: 'bar', data: { labels: here.map(label), datasets: [{
      data: here.map(row => row.step_ms), backgroundColor: here.map(colour) }] },
      options: options('ms a token') });
  }
  const grown = rows.filter(row => row.way.includes('under') || row.batch > 1);
  const ways = [...new Set(grown.map(label))];
  const palette = ['#1f6feb', '#12875a', '#8250df', '#c4501b', '#b08800'];
  new Chart(document.getElementById('batches'), { type: 'line', data: {
    datasets: ways.map((way, i) => ({ label: way, borderColor: palette[i % palette.length],
      data: grown.filter(row => label(row) === way).map(row => ({ x: row.batch,
        y: row.tokens_per_second })) })) },
    options: { maintainAspectRatio: false, animation: false,
      plugins: { legend: { position: 'bottom' } },
      scales: { x: { type: 'linear', title: { display: true, text: 'sequences' } },
        y: { title: { display: true, text: 'tokens a second' } } } } });
}
)";

}  // namespace

Result<std::vector<PeerRow>> parse_peers(const std::string& printed, std::string& versions) {
  const Json json = Json::parse(printed, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("versions") || !json.contains("rows"))
    return Status(Code::kUnsupported, "the script of the peers printed no result");
  std::vector<PeerRow> rows;
  try {
    versions = json["versions"].get<std::string>();
    for (const Json& row : json["rows"])
      rows.push_back({.who = "transformers",
                      .way = row.at("way").get<std::string>(),
                      .tokens = row.at("tokens").get<int>(),
                      .batch = row.at("batch").get<int>(),
                      .step_seconds = row.value("step_s", 0.0),
                      .prompt_seconds = row.value("prompt_s", 0.0),
                      .device_bytes = row.value("device_bytes", uint64_t{0}),
                      .host_bytes = row.value("host_bytes", uint64_t{0}),
                      .refused = row.value("refused", std::string())});
  } catch (const Json::exception& error) {
    return Status(Code::kUnsupported,
                  fmt::format("the script of the peers printed something else: {}", error.what()));
  }
  return rows;
}

Json peers_json(const PeerFacts& facts, std::span<const PeerRow> rows) {
  Json json = {{"device", facts.device},
               {"model", facts.model},
               {"peers", facts.versions},
               {"text_tokens", facts.text_tokens},
               {"batch_hbm_budget", facts.budget},
               {"hbm_read_gb_s", facts.hbm_read_rate * 1e-9},
               {"link_read_gb_s", facts.link_read_rate * 1e-9},
               {"rows", Json::array()}};
  for (const PeerRow& row : rows) {
    Json one = {{"who", row.who}, {"way", row.way}, {"tokens", row.tokens}, {"batch", row.batch}};
    if (!row.refused.empty()) {
      one["refused"] = row.refused;
    } else {
      one["step_ms"] = row.step_seconds * 1e3;
      one["tokens_per_second"] = row.tokens_per_second();
      one["prompt_ms"] = row.prompt_seconds * 1e3;
      one["question_ms"] = row.question_seconds * 1e3;
      one["kv_bytes"] = row.kv_bytes;
      one["device_bytes"] = row.device_bytes;
      one["host_peak_bytes"] = row.host_bytes;
    }
    json["rows"].push_back(std::move(one));
  }
  return json;
}

void print_peers_heading(const PeerFacts& facts) {
  fmt::print("device    {}\nmodel     {}, random weights of bf16\npeers     {}\n", facts.device,
             facts.model, facts.versions);
  fmt::print("read      HBM {:.0f} GB/s, link {:.1f}\n\n", facts.hbm_read_rate * 1e-9,
             facts.link_read_rate * 1e-9);
  print_line({"who", "K and V", "tokens", "batch", "step ms", "tokens/s", "prompt ms", "quest. ms",
              "KV GiB", "GPU GiB", "host"});
}

void print_peer_line(const PeerRow& row) {
  if (row.refused.empty()) {
    print_line(cells(row));
  } else {
    fmt::print("{:<13} {:<28} {:>7} {:>5} {}\n", row.who, row.way, row.tokens, row.batch,
               row.refused);
  }
  std::fflush(stdout);
}

std::string peers_report(const PeerFacts& facts, std::span<const PeerRow> rows,
                         std::string_view script) {
  std::string html = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n";
  html += fmt::format(
      "<title>{0} beside transformers</title>\n<style>{1}</style></head>\n<body>\n"
      "<h1>{0} beside transformers</h1>\n<p>{2}, random weights of bf16; {3} text tokens, the rest "
      "visual. Peers: {4}. Plain reading in the same run: HBM {5:.0f} GB/s, link {6:.1f}. GPU: "
      "bytes in use, weights (14.2 GiB of a 7B model) with them; host: the process at its "
      "peak.</p>\n",
      escape_html(facts.model), html_style(), escape_html(facts.device), facts.text_tokens,
      escape_html(facts.versions), facts.hbm_read_rate * 1e-9, facts.link_read_rate * 1e-9);
  html +=
      "<div class=\"scroll\"><table><tr><th>who</th><th>K and V</th><th>tokens</th><th>batch</th>"
      "<th>step<br>ms</th><th>tokens/s</th><th>prompt<br>ms</th><th>question<br>ms</th>"
      "<th>KV<br>GiB</th><th>GPU<br>GiB</th><th>host<br>GiB</th></tr>\n";
  std::vector<int> lengths;
  for (const PeerRow& row : rows) {
    if (std::find(lengths.begin(), lengths.end(), row.tokens) == lengths.end())
      lengths.push_back(row.tokens);
    html += "<tr>";
    const std::vector<std::string> values = cells(row);
    for (size_t i = 0; i < (row.refused.empty() ? values.size() : 4); ++i)
      html += "<td>" + escape_html(values[i]) + "</td>";
    if (!row.refused.empty())
      html +=
          "<td colspan=\"7\" style=\"white-space: normal\">" + escape_html(row.refused) + "</td>";
    html += "</tr>\n";
  }
  html += "</table></div>\n";
  if (script.empty())
    return html +
           "<p class=\"warn\">No plots: the program was built without Chart.js. Install "
           "libjs-chart.js and build again.</p>\n</body></html>\n";
  html += "<h2>Time of a token</h2>\n<div class=\"plots\">\n";
  for (const int tokens : lengths)
    html += fmt::format(
        "<div><p>{0} tokens, one sequence</p><div class=\"plot\"><canvas id=\"plot{0}\" "
        "data-tokens=\"{0}\"></canvas></div></div>\n",
        tokens);
  html +=
      "</div>\n<h2>Tokens a second by sequences</h2>\n<div class=\"plot\"><canvas id=\"batches\">"
      "</canvas></div>\n";
  return html + fmt::format(
                    "<script type=\"application/json\" id=\"data\">{}</script>\n"
                    "<script>{}</script>\n<script>{}</script>\n</body></html>\n",
                    script_json(peers_json(facts, rows)), script, kPlots);
}

}  // namespace vkv
