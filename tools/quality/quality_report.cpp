// quality_report.cpp: HTML by string building: a table, two plots, bars, a heat map.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/quality_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tools/vkv/html.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

// Draws names beside points and 95 % intervals; reads its data from the element "data".
constexpr std::string_view kPlots = R"(
const data = JSON.parse(document.getElementById('data').textContent);
const colours = { ours: '#1f6feb', visual: '#12875a', baseline: '#c4501b', control: '#7a7f8c' };
const titles = { ours: 'vkv, by role', visual: 'vkv, visual tokens only',
  baseline: 'published baselines (simulated)', control: 'control' };
const labels = {
  id: 'labels',
  afterDatasetsDraw(chart) {
    const context = chart.ctx, taken = [];
    context.save();
    context.font = '11px system-ui, sans-serif';
    chart.data.datasets.forEach((set, index) => {
      chart.getDatasetMeta(index).data.forEach((point, i) => {
        const value = set.data[i];
        if (value.low !== undefined) {
          const scale = chart.scales.y;
          context.strokeStyle = set.backgroundColor;
          context.beginPath();
          context.moveTo(point.x, scale.getPixelForValue(value.low));
          context.lineTo(point.x, scale.getPixelForValue(value.high));
          context.stroke();
        }
        if (!value.name) return;
        const width = context.measureText(value.name).width;
        const left = point.x + 8 + width > chart.chartArea.right;
        const x = left ? point.x - 8 - width : point.x + 8;
        let y = point.y + 4;
        for (let tries = 0; tries < 40; ++tries) {
          const hit = taken.some(t => Math.abs(t.y - y) < 12 && t.x < x + width && x < t.x + t.w);
          if (!hit) break;
          y += (tries % 2 ? 1 : -1) * 6 * (tries + 1);
        }
        taken.push({ x, y, w: width });
        context.fillStyle = '#1d2433';
        context.fillText(value.name, x, y);
      });
    });
    context.restore();
  }
};
// Powers of ten only.
const decades = value => Math.abs(Math.log10(value) % 1) < 1e-9 ? value.toExponential(0) : '';
function scatter(id, points, xTitle, yTitle, logarithmic) {
  const sets = Object.keys(colours).map(family => ({
    label: titles[family], backgroundColor: colours[family], pointRadius: 5,
    data: points.filter(p => p.family === family) })).filter(set => set.data.length > 0);
  new Chart(document.getElementById(id), { type: 'scatter', data: { datasets: sets },
    plugins: [labels],
    options: { maintainAspectRatio: false, animation: false, clip: false,
      plugins: { legend: { position: 'bottom' },
        tooltip: { callbacks: { label: item => item.raw.name + ': ' + item.raw.x.toFixed(2) +
          ' bits, ' + item.raw.y.toPrecision(3) } } },
      scales: { x: { title: { display: true, text: xTitle }, min: 0 },
        y: { type: logarithmic ? 'logarithmic' : 'linear',
          suggestedMin: Math.min(...points.map(p => p.low ?? p.y)),
          suggestedMax: Math.max(...points.map(p => p.high ?? p.y)),
          ticks: logarithmic ? { callback: decades } : {},
          title: { display: true, text: yTitle } } } } });
}
if (window.Chart && data.kl.length) {
  scatter('kl', data.kl, data.bits, 'mean KL, nats (logarithmic)', true);
  if (data.drop.length) scatter('drop', data.drop, data.bits, 'points of accuracy lost', false);
  if (data.media.length > 1) {
    const palette = ['#1f6feb', '#12875a', '#c4501b', '#8250df', '#b08800', '#7a7f8c'];
    new Chart(document.getElementById('media'), { type: 'bar',
      data: { labels: data.names, datasets: data.media.map((media, i) => ({ label: media.name,
        backgroundColor: palette[i % palette.length], data: media.kl })) },
      options: { maintainAspectRatio: false, animation: false,
        plugins: { legend: { position: 'bottom' } },
        scales: { y: { type: 'logarithmic', ticks: { callback: decades },
          title: { display: true, text: 'mean KL, nats (logarithmic)' } } } } });
  }
}
)";

std::string_view family(const ConfigurationSummary& s) {
  if (s.name == "blank") return "control";
  if (s.name == "lambda1" || s.name.starts_with("visual:")) return "visual";
  return s.simulated && !s.name.starts_with("sim:") ? "baseline" : "ours";
}

double bits_of(const ConfigurationSummary& s) {
  return s.visual_encoded_share > 0 ? s.visual_encoded_bits : s.all_bits;
}

Json plot_data(std::span<const ConfigurationSummary> summaries) {
  const bool visual = std::any_of(summaries.begin(), summaries.end(),
                                  [](const auto& s) { return s.visual_encoded_share > 0; });
  Json data = {{"bits", visual ? "bits a value of encoded visual tokens, metadata counted"
                               : "bits a value, metadata counted"},
               {"kl", Json::array()},
               {"drop", Json::array()},
               {"names", Json::array()},
               {"media", Json::array()}};
  for (const ConfigurationSummary& s : summaries) {
    if (s.name == "exact") continue;
    const Json point = {{"name", s.name}, {"family", family(s)}, {"x", bits_of(s)}};
    if (s.kl_mean > 0) {
      data["kl"].push_back(point);
      data["kl"].back()["y"] = s.kl_mean;
    }
    if (s.answers.total() > 0) {
      const Interval interval = paired_interval(s.answers.paired);
      Json lost = point;
      lost["y"] = 100 * s.answers.paired.drop();
      lost["low"] = 100 * interval.low;
      lost["high"] = 100 * interval.high;
      data["drop"].push_back(std::move(lost));
    }
    data["names"].push_back(s.name);
  }
  for (const auto& [media, group] : summaries.front().groups) {
    Json bars = {{"name", media}, {"kl", Json::array()}};
    for (const ConfigurationSummary& s : summaries)
      if (s.name != "exact") bars["kl"].push_back(s.groups.at(media).kl_mean);
    data["media"].push_back(std::move(bars));
  }
  return data;
}

std::string interval_text(const Interval& interval) {
  return fmt::format("[{:.2f}, {:.2f}]", 100 * interval.low, 100 * interval.high);
}

std::string cell(std::string_view text, std::string_view css = "") {
  return fmt::format("<td{}>{}</td>",
                     css.empty() ? std::string() : fmt::format(" class=\"{}\"", css),
                     escape_html(text));
}

std::string summary_row(const ConfigurationSummary& s) {
  const Answers& answers = s.answers;
  const bool asked = answers.total() > 0;
  std::string row = "<tr>" + cell(s.name);
  row += cell(s.gate == nullptr ? "" : fmt::format("{} {}", s.gate->name, name(s.verdict)),
              name(s.verdict));
  row += cell(fmt::format("{:.2f}", s.visual_bits));
  row += cell(fmt::format("{:.2f}", s.visual_encoded_bits));
  row += cell(s.keeps_originals ? fmt::format("{:.2f}", s.visual_original_bits) : "");
  row += cell(fmt::format("{:.2f}", s.all_bits));
  row += cell(fmt::format("{:.2e}", s.kl_mean), name(s.kl_verdict));
  row += cell(fmt::format("{:.2e}", s.kl_p99)) + cell(fmt::format("{:.2g}", s.kl_max));
  row += cell(fmt::format("{:.2f}", 100 * s.top1), name(s.top1_verdict));
  row += cell(fmt::format("{:.2f}", 100 * s.match));
  row += cell(fmt::format("{:.2f}", 100 * s.same_answer));
  row += cell(fmt::format("{:.2f}", 100 * s.catastrophic));
  row += cell(asked ? fmt::format("{:.2f} {}",
                                  100.0 * static_cast<double>(answers.right) /
                                      static_cast<double>(answers.total()),
                                  interval_text(wilson_interval(answers.right, answers.total())))
                    : "-");
  row += cell(asked ? fmt::format("{:.2f} {}", 100 * answers.paired.drop(),
                                  interval_text(paired_interval(answers.paired)))
                    : "-",
              name(s.drop_verdict));
  return row + cell(s.detail) + "</tr>\n";
}

std::string summary_table(std::span<const ConfigurationSummary> summaries) {
  std::string table =
      "<div class=\"scroll\"><table><tr><th>configuration</th><th>gate</th><th>visual "
      "bits<br>all</th>"
      "<th>visual bits<br>encoded</th><th>originals<br>beside</th><th>bits<br>total</th>"
      "<th>KL<br>mean</th><th>KL<br>p99</th>"
      "<th>KL<br>max</th><th>same<br>top-1 %</th><th>greedy<br>match %</th>"
      "<th>same<br>answer %</th><th>catas-<br>trophic %</th><th>right %<br>[95 %]</th>"
      "<th>points lost<br>[95 %]</th><th>chosen</th></tr>\n";
  for (const ConfigurationSummary& s : summaries) table += summary_row(s);
  return table + "</table></div>\n";
}

// Green below 1e-3 through yellow to red at 1 and beyond, by logarithm.
std::string heat_colour(double error) {
  const double share = std::clamp((std::log10(std::max(error, 1e-9)) + 3) / 3, 0.0, 1.0);
  return fmt::format("hsl({:.0f} 75% {:.0f}%)", 140 - 140 * share, 88 - 18 * share);
}

std::string heat_map(std::span<const ConfigurationSummary> summaries) {
  const size_t layers = summaries.front().layer_error.size();
  if (layers == 0) return "";
  std::string map =
      "<h2>Error of attention by layer</h2>\n<p>||out &minus; exact|| / ||exact||, median over "
      "tokens and items. Each layer gets the reference's q, k and v, so that a cell shows this "
      "layer's own error. Colours are logarithmic: green 0.001, red 1.</p>\n"
      "<div class=\"scroll\"><table class=\"heat\"><tr><th>configuration</th>";
  for (size_t layer = 0; layer < layers; ++layer) map += fmt::format("<th>{}</th>", layer);
  map += "</tr>\n";
  for (const ConfigurationSummary& s : summaries) {
    map += "<tr>" + cell(s.name);
    for (const double error : s.layer_error)
      map += fmt::format("<td style=\"background: {}\">{:.4f}</td>", heat_colour(error), error);
    map += "</tr>\n";
  }
  return map + "</table></div>\n";
}

std::string facts_table(const QualityFacts& facts,
                        std::span<const ConfigurationSummary> summaries) {
  std::string table = "<table class=\"facts\">";
  const auto add = [&](std::string_view what, const std::string& value) {
    table += "<tr>" + cell(what) + cell(value) + "</tr>\n";
  };
  const ConfigurationSummary& first = summaries.front();
  add("model", facts.model);
  add("data", fmt::format("{}: {} items, {} questions or passages, {} positions", facts.data,
                          facts.source_count, first.case_count, first.position_count));
  if (facts.calibration_count > 0)
    add("calibration",
        fmt::format("{} other items chose the parameters of baselines", facts.calibration_count));
  add("stored",
      fmt::format("{} newest tokens at 16 bit; questions: {}", facts.recent_tokens, facts.view));
  if (first.answers.total() > 0)
    add("reference", fmt::format("{} of {} answers right, all at 16 bit",
                                 first.answers.reference_right, first.answers.total()));
  if (facts.failure_count > 0) add("failed", fmt::format("{} items", facts.failure_count));
  add("time", fmt::format("{:.1f} s", facts.seconds));
  return table + "</table>\n";
}

constexpr std::string_view kReading = R"(<h2>How to read it</h2>
<p>The reference keeps all KV at 16 bit and answers greedily. Each configuration is fed the same
tokens, and its logits are compared at every position of the answer (teacher forced). <b>KL</b> is
KL(softmax(reference) || softmax(test)) in nats. <b>Same top-1</b>: positions with the same
likeliest token. <b>Greedy match</b>: share of an answer before the first difference when both run
freely. <b>Catastrophic</b>: cases whose mean KL is above ten times the median case's and above
0.01 nats. <b>Right</b>: with its 95 % Wilson interval. <b>Points lost</b>: reference minus test
over the same questions, with Tango's 95 % score interval for paired shares. <b>Bits</b>: stored
bits a K or V value with headers, scales, padding and means; "all" also counts tokens still open
at 16 bit. <b>Originals</b>: 16-bit K and V of encoded visual tokens that are kept in DRAM, in
bits a visual value; no other column counts them. Questions are read from them, answers from codes
and promoted copies. A gate says PASS for accuracy only if the whole interval lies within it, OPEN
if more questions are needed. Baselines run in a simulated cache that puts the same old visual
tokens through the published rule and keeps text and recent tokens at 16 bit; their block tables
are not counted.</p>
)";

}  // namespace

std::string quality_report(const QualityFacts& facts,
                           std::span<const ConfigurationSummary> summaries,
                           std::string_view script) {
  const Json data = plot_data(summaries);
  std::string html = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n";
  html += fmt::format("<title>KV quality: {}</title>\n<style>{}</style></head>\n<body>\n",
                      escape_html(facts.model), html_style());
  html += "<h1>What each way to store the KV cache costs</h1>\n";
  if (facts.interrupted)
    html += "<p class=\"warn\">Interrupted: this is what had been done until then.</p>\n";
  html += facts_table(facts, summaries);
  html += "<h2>Table</h2>\n" + summary_table(summaries);
  html += "<h2>Bits against quality</h2>\n";
  if (script.empty()) {
    html +=
        "<p class=\"warn\">No plots: the program was built without Chart.js. Install "
        "libjs-chart.js and build again.</p>\n";
  } else {
    html += "<div class=\"plots\"><div class=\"plot\"><canvas id=\"kl\"></canvas></div>\n";
    if (!data["drop"].empty()) html += "<div class=\"plot\"><canvas id=\"drop\"></canvas></div>\n";
    html += "</div>\n";
    if (data["media"].size() > 1)
      html += "<h2>By media</h2>\n<div class=\"plot\"><canvas id=\"media\"></canvas></div>\n";
  }
  html += heat_map(summaries);
  html += kReading;
  if (!script.empty()) {
    html += fmt::format("<script type=\"application/json\" id=\"data\">{}</script>\n",
                        script_json(data));
    html += fmt::format("<script>{}</script>\n<script>{}</script>\n", script, kPlots);
  }
  return html + "</body></html>\n";
}

}  // namespace vkv
