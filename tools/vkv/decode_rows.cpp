// decode_rows.cpp: numbers to lines.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/decode_rows.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/vkv/html.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

double ms(double seconds) { return seconds * 1e3; }
double gb(uint64_t bytes) { return static_cast<double>(bytes) * 1e-9; }
double of_bound(const DecodeMeasurement& m) { return m.seconds / m.bound_seconds(); }

// Who read what lies in DRAM.
struct Reader {
  const char* who;
  const char* key;
  uint64_t bytes;  // a step
  double rate;
};

std::vector<Reader> readers(const DecodeFacts& facts, const DecodeMeasurement& m) {
  const auto steps = static_cast<uint64_t>(facts.steps);
  return {{"copied ahead", "ahead", m.ahead_read_bytes / steps, m.ahead_read_rate},
          {"by the GPU, attending", "link", m.link_read_bytes / steps, m.link_read_rate},
          {"by the CPU", "host", m.host_read_bytes / steps, m.host_read_rate}};
}

Json row_json(const DecodeFacts& facts, const DecodeRow& row) {
  Json json = {{"precision", row.precision},
               {"path", row.path},
               {"tokens", row.tokens},
               {"batch", row.batch}};
  if (!row.status.ok()) {
    json["error"] = row.status.message();
    return json;
  }
  const DecodeMeasurement& m = row.measured;
  json.update({{"bits_per_value", m.bits_per_value},
               {"weight_bytes", m.weight_bytes},
               {"kv_bytes", m.kv_bytes},
               {"hbm_bytes_used", m.hbm_bytes},
               {"dram_kv_bytes", m.dram_bytes},
               {"bound_ms", ms(m.bound_seconds())},
               {"step_ms", ms(m.seconds)},
               {"step_ms_max", ms(m.seconds_max)},
               {"of_bound", of_bound(m)},
               {"tokens_per_second", row.batch / m.seconds},
               {"attention_ms", ms(m.attention_seconds)},
               {"products_ms", ms(m.products_seconds)},
               {"products_cublas_ms", ms(m.cublas_seconds)},
               {"step_without_graphs_ms", ms(m.seconds_plain)}});
  for (const Reader& reader : readers(facts, m)) {
    json[std::string(reader.key) + "_read_bytes"] = reader.bytes;
    json[std::string(reader.key) + "_read_gb_s"] = reader.rate * 1e-9;
  }
  return json;
}

std::string cell(const std::string& text) { return "<td>" + text + "</td>"; }

std::string html_row(const DecodeFacts& facts, const DecodeRow& row) {
  std::string html = "<tr>" + cell(escape_html(row.precision)) + cell(escape_html(row.path)) +
                     cell(fmt::format("{}", row.tokens)) + cell(fmt::format("{}", row.batch));
  if (!row.status.ok())
    return html + "<td colspan=\"9\">" + escape_html(row.status.message()) + "</td></tr>\n";
  const DecodeMeasurement& m = row.measured;
  html +=
      cell(fmt::format("{:.2f}", gb(m.dram_bytes))) + cell(fmt::format("{:.2f}", ms(m.seconds)));
  html += cell(fmt::format("{:.1f}", row.batch / m.seconds));
  html += cell(fmt::format("{:.2f}", of_bound(m))) +
          cell(fmt::format("{:.2f}", ms(m.attention_seconds)));
  html += cell(fmt::format("{:.2f}", ms(m.products_seconds)));
  for (const Reader& reader : readers(facts, m))
    html += cell(reader.bytes == 0
                     ? std::string("-")
                     : fmt::format("{:.2f} GB, {:.0f} GB/s", gb(reader.bytes), reader.rate * 1e-9));
  return html + "</tr>\n";
}

// Bars of a step's milliseconds, grouped by path; a plot for each number of tokens and batch.
constexpr std::string_view kPlots = R"(
const data = JSON.parse(document.getElementById('data').textContent);
const palette = ['#1f6feb', '#12875a', '#c4501b', '#8250df', '#b08800', '#7a7f8c'];
const rows = data.rows.filter(row => row.error === undefined);
const unique = key => [...new Set(rows.map(row => row[key]))];
const bars = (id, labels, sets, title, stacked) =>
  new Chart(document.getElementById(id), { type: 'bar',
    data: { labels, datasets: sets.map((set, i) => ({ ...set,
      backgroundColor: palette[i % palette.length] })) },
    options: { maintainAspectRatio: false, animation: false,
      plugins: { legend: { position: 'bottom' } },
      scales: { x: { stacked }, y: { stacked, title: { display: true, text: title } } } } });
if (window.Chart) {
  for (const plot of document.querySelectorAll('canvas[data-tokens]')) {
    const here = rows.filter(row => row.tokens == plot.dataset.tokens &&
      row.batch == plot.dataset.batch);
    const find = (precision, path) => here.find(row => row.precision === precision &&
      row.path === path);
    bars(plot.id, unique('precision'), unique('path').map(path => ({ label: path,
      data: unique('precision').map(precision => find(precision, path)?.step_ms ?? null) })),
      'ms a step', false);
  }
  bars('readers', rows.map(row => `${row.precision} ${row.path} ${row.tokens} x ${row.batch}`),
    [['resident', row => row.kv_bytes - row.dram_kv_bytes], ['copied ahead',
      row => row.ahead_read_bytes], ['GPU through the link', row => row.link_read_bytes],
      ['CPU', row => row.host_read_bytes]].map(([label, bytes]) => ({ label,
      data: rows.map(row => bytes(row) / 1e9) })), 'GB of K and V a step', true);
}
)";

}  // namespace

Json decode_json(const DecodeFacts& facts, std::span<const DecodeRow> rows) {
  const ReadSpeeds& speeds = facts.speeds;
  Json json = {{"device", facts.device},
               {"model", facts.model},
               {"text_tokens", facts.text_tokens},
               {"steps", facts.steps},
               {"read_gb_s",
                {{"hbm", speeds.hbm * 1e-9},
                 {"link", speeds.link * 1e-9},
                 {"cpu", speeds.cpu * 1e-9},
                 {"cpu_threads", speeds.threads},
                 {"link_beside_cpu", speeds.link_together * 1e-9},
                 {"cpu_beside_link", speeds.cpu_together * 1e-9}}},
               {"rows", Json::array()}};
  for (const DecodeRow& row : rows) json["rows"].push_back(row_json(facts, row));
  return json;
}

void print_decode(const DecodeFacts& facts, const DecodeRow& row) {
  const DecodeMeasurement& m = row.measured;
  const double other = m.seconds - m.attention_seconds - m.products_seconds;
  const auto share = [&](double seconds) { return 100 * seconds / m.seconds; };
  fmt::print("device    {}\n", facts.device);
  fmt::print("model     {}, random weights of bf16\n", facts.model);
  fmt::print("cache     {} x {} tokens, {} of them visual, {}: {:.2f} bits a value\n", row.batch,
             row.tokens, row.tokens - facts.text_tokens, row.precision, m.bits_per_value);
  fmt::print("read      {:.0f} GB/s (a kernel that only reads device memory)\n\n",
             facts.speeds.hbm * 1e-9);
  fmt::print("weights   {:8.3f} GB a step\n", gb(m.weight_bytes));
  fmt::print("K and V   {:8.3f} GB a step\n", gb(m.kv_bytes));
  if (m.dram_bytes > 0) {
    fmt::print("  in DRAM {:8.3f} GB; the link reads {:.1f} GB/s (a kernel that only reads)\n",
               gb(m.dram_bytes), facts.speeds.link * 1e-9);
    for (const Reader& reader : readers(facts, m)) {
      if (reader.bytes == 0) continue;
      fmt::print("    {:<21} {:8.3f} GB", reader.who, gb(reader.bytes));
      if (reader.rate > 0) fmt::print(" at {:.1f} GB/s", reader.rate * 1e-9);
      fmt::print("\n");
    }
  }
  fmt::print("bound     {:8.3f} ms  (these bytes at {})\n", ms(m.bound_seconds()),
             m.dram_bytes > 0 ? "the speeds of HBM, the link and the CPU" : "that speed");
  fmt::print("step      {:8.3f} ms  {:.3f} of the bound (median of {}; slowest {:.3f} ms)\n",
             ms(m.seconds), of_bound(m), facts.steps, ms(m.seconds_max));
  fmt::print("  attention {:6.3f} ms  {:.1f} %\n", ms(m.attention_seconds),
             share(m.attention_seconds));
  fmt::print("  products  {:6.3f} ms  {:.1f} %, {:.1f} % of read; by cuBLASLt {:.3f} ms\n",
             ms(m.products_seconds), share(m.products_seconds),
             100 * static_cast<double>(m.weight_bytes) / m.products_seconds / facts.speeds.hbm,
             ms(m.cublas_seconds));
  fmt::print("  rest      {:6.3f} ms  {:.1f} %\n", ms(other), share(other));
  fmt::print("without CUDA graphs {:.3f} ms\n", ms(m.seconds_plain));
}

void print_decode_heading(const DecodeFacts& facts) {
  const ReadSpeeds& s = facts.speeds;
  fmt::print("device    {}\n", facts.device);
  fmt::print("model     {}, random weights of bf16\n", facts.model);
  fmt::print(
      "read      HBM {:.0f} GB/s, link {:.1f}, {} CPU threads {:.1f}; link and CPU at once "
      "{:.1f} + {:.1f}\n\n",
      s.hbm * 1e-9, s.link * 1e-9, s.threads, s.cpu * 1e-9, s.link_together * 1e-9,
      s.cpu_together * 1e-9);
  fmt::print("{:<10} {:>8} {:>5} {:<10} {:>8} {:>8} {:>8} {:>8} {:>7} {:>6} {:>6} {:>6}\n",
             "precision", "tokens", "batch", "path", "KV GB", "in DRAM", "step ms", "tokens/s",
             "bound x", "ahead", "link", "CPU");
}

void print_decode_line(const DecodeRow& row) {
  fmt::print("{:<10} {:>8} {:>5} {:<10}", row.precision, row.tokens, row.batch, row.path);
  if (!row.status.ok()) {
    fmt::print(" {}\n", row.status.message());
  } else {
    const DecodeMeasurement& m = row.measured;
    const auto total =
        static_cast<double>(m.ahead_read_bytes + m.link_read_bytes + m.host_read_bytes);
    const auto percent = [&](uint64_t bytes) {
      return bytes == 0 ? "-" : fmt::format("{:.0f} %", 100 * static_cast<double>(bytes) / total);
    };
    fmt::print(" {:>8.2f} {:>8.2f} {:>8.2f} {:>8.1f} {:>7.2f} {:>6} {:>6} {:>6}\n", gb(m.kv_bytes),
               gb(m.dram_bytes), ms(m.seconds), row.batch / m.seconds, of_bound(m),
               percent(m.ahead_read_bytes), percent(m.link_read_bytes), percent(m.host_read_bytes));
  }
  std::fflush(stdout);
}

std::string decode_report(const DecodeFacts& facts, std::span<const DecodeRow> rows,
                          std::string_view script) {
  const ReadSpeeds& s = facts.speeds;
  std::string html = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n";
  html += fmt::format("<title>Decode steps: {}</title>\n<style>{}</style></head>\n<body>\n",
                      escape_html(facts.model), html_style());
  html += fmt::format(
      "<h1>Decode steps of {}</h1>\n<p>{}, random weights of bf16; {} text tokens, the rest "
      "visual; "
      "median of {} steps. Plain reading in the same run: HBM {:.0f} GB/s, link {:.1f}, {} CPU "
      "threads {:.1f}; link and CPU at once {:.1f} + {:.1f}.</p>\n",
      escape_html(facts.model), escape_html(facts.device), facts.text_tokens, facts.steps,
      s.hbm * 1e-9, s.link * 1e-9, s.threads, s.cpu * 1e-9, s.link_together * 1e-9,
      s.cpu_together * 1e-9);
  html +=
      "<div class=\"scroll\"><table><tr><th>precision</th><th>path</th><th>tokens</th><th>batch"
      "</th><th>GB in<br>DRAM</th><th>step<br>ms</th><th>tokens/s</th><th>of the<br>bound</th>"
      "<th>attention<br>ms</th><th>products<br>ms</th><th>copied ahead</th><th>GPU, through the "
      "link</th><th>CPU</th></tr>\n";
  for (const DecodeRow& row : rows) html += html_row(facts, row);
  html += "</table></div>\n";
  if (script.empty())
    return html +
           "<p class=\"warn\">No plots: the program was built without Chart.js. Install "
           "libjs-chart.js and build again.</p>\n</body></html>\n";
  std::vector<std::pair<int, int>> plots;
  for (const DecodeRow& row : rows)
    if (std::ranges::find(plots, std::pair(row.tokens, row.batch)) == plots.end())
      plots.emplace_back(row.tokens, row.batch);
  html += "<h2>Time of a step</h2>\n<div class=\"plots\">\n";
  for (const auto& [tokens, batch] : plots)
    html += fmt::format(
        "<div><p>{0} x {1} tokens</p><div class=\"plot\"><canvas id=\"plot{0}x{1}\" "
        "data-tokens=\"{1}\" data-batch=\"{0}\"></canvas></div></div>\n",
        batch, tokens);
  html +=
      "</div>\n<h2>Who read K and V</h2>\n<div class=\"plot\"><canvas id=\"readers\"></canvas>"
      "</div>\n";
  return html + fmt::format(
                    "<script type=\"application/json\" id=\"data\">{}</script>\n"
                    "<script>{}</script>\n<script>{}</script>\n</body></html>\n",
                    script_json(decode_json(facts, rows)), script, kPlots);
}

}  // namespace vkv
