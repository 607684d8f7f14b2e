// tile_packing.cpp: LLaVA-OneVision: visual tokens of tiles and frames -> those of the prompt.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/tile_packing.h"

#include <algorithm>
#include <cmath>

namespace vkv {
namespace {

// Rows and columns of visual tokens.
struct Grid {
  int64_t rows = 0;
  int64_t columns = 0;
  bool operator==(const Grid&) const = default;
};

// How a picture's tiles become tokens.
struct Mosaic {
  Grid whole;        // all tiles
  int64_t top = 0;   // rows of padding above, and as many below
  int64_t left = 0;  // the same of columns
  Grid seen;         // without padding
  Grid kept;         // after scaling
};

// As Python rounds to seven places and cuts off.
int64_t whole_part(double value) { return static_cast<int64_t>(std::round(value * 1e7) / 1e7); }

Mosaic mosaic_of(const ModelConfig& config, const VisualShape& shape) {
  const int64_t edge = config.vision.grid();
  Mosaic mosaic;
  mosaic.whole = {shape.tile_rows * edge, shape.tile_columns * edge};
  const auto rows = static_cast<double>(mosaic.whole.rows);
  const auto columns = static_cast<double>(mosaic.whole.columns);
  const double height = shape.height, width = shape.width;
  if (width / height > columns / rows)
    mosaic.top = (mosaic.whole.rows - whole_part(height * (columns / width))) / 2;
  else
    mosaic.left = (mosaic.whole.columns - whole_part(width * (rows / height))) / 2;
  mosaic.seen = {mosaic.whole.rows - 2 * mosaic.top, mosaic.whole.columns - 2 * mosaic.left};

  mosaic.kept = mosaic.seen;
  const double ratio = std::sqrt(static_cast<double>(mosaic.seen.rows * mosaic.seen.columns) /
                                 static_cast<double>(config.tiles_max * edge * edge));
  if (ratio > 1.1)
    mosaic.kept = {
        static_cast<int64_t>(std::floor(static_cast<double>(mosaic.seen.rows) / ratio)),
        static_cast<int64_t>(std::floor(static_cast<double>(mosaic.seen.columns) / ratio))};
  return mosaic;
}

Grid frame_grid(const ModelConfig& config) {
  const int64_t edge = (config.vision.grid() + 1) / 2;
  return {edge, edge};
}

// Bilinear, between the centres of cells: torch's interpolate without align_corners.
std::vector<float> scaled(std::span<const float> source, Grid from, Grid to, int64_t hidden) {
  struct Place {
    int64_t low, high;
    float weight;  // of high
  };
  const auto place = [](int64_t index, int64_t from_count, int64_t to_count) {
    const float scale = static_cast<float>(from_count) / static_cast<float>(to_count);
    const float at = std::max(0.0f, (static_cast<float>(index) + 0.5f) * scale - 0.5f);
    const auto low = static_cast<int64_t>(at);
    return Place{low, std::min(low + 1, from_count - 1), at - static_cast<float>(low)};
  };
  std::vector<float> target(static_cast<size_t>(to.rows * to.columns * hidden));
  float* out = target.data();
  for (int64_t row = 0; row < to.rows; ++row) {
    const Place y = place(row, from.rows, to.rows);
    for (int64_t column = 0; column < to.columns; ++column, out += hidden) {
      const Place x = place(column, from.columns, to.columns);
      const auto cell = [&](int64_t source_row, int64_t source_column) {
        return source.data() + (source_row * from.columns + source_column) * hidden;
      };
      const float *a = cell(y.low, x.low), *b = cell(y.low, x.high);
      const float *c = cell(y.high, x.low), *d = cell(y.high, x.high);
      for (int64_t i = 0; i < hidden; ++i)
        out[i] = (1 - y.weight) * ((1 - x.weight) * a[i] + x.weight * b[i]) +
                 y.weight * ((1 - x.weight) * c[i] + x.weight * d[i]);
    }
  }
  return target;
}

// What is seen of the large picture; tiles stand row by row.
std::vector<float> joined(const ModelConfig& config, const VisualShape& shape, const Mosaic& mosaic,
                          std::span<const float> tiles) {
  const int64_t edge = config.vision.grid(), hidden = config.text.hidden;
  std::vector<float> seen;
  seen.reserve(static_cast<size_t>(mosaic.seen.rows * mosaic.seen.columns * hidden));
  for (int64_t y = mosaic.top; y < mosaic.top + mosaic.seen.rows; ++y)
    for (int64_t x = mosaic.left; x < mosaic.left + mosaic.seen.columns; ++x) {
      const int64_t tile = y / edge * shape.tile_columns + x / edge;
      const int64_t cell = (tile * edge + y % edge) * edge + x % edge;
      const auto row =
          tiles.subspan(static_cast<size_t>(cell * hidden), static_cast<size_t>(hidden));
      seen.insert(seen.end(), row.begin(), row.end());
    }
  return seen;
}

}  // namespace

int64_t tile_count(const VisualShape& shape) {
  return shape.is_video ? shape.steps : 1 + int64_t{shape.tile_rows} * shape.tile_columns;
}

int64_t packed_token_count(const ModelConfig& config, const VisualShape& shape) {
  const int64_t newline = shape.ends ? 1 : 0;
  if (shape.is_video) {
    const Grid grid = frame_grid(config);
    return shape.steps * grid.rows * grid.columns + newline;
  }
  if (shape.tile_rows == 0) return config.tokens_per_image() + newline;
  const Grid kept = mosaic_of(config, shape).kept;
  return config.tokens_per_image() + kept.rows * (kept.columns + 1);
}

void pack_tiles(const ModelConfig& config, const VisualShape& shape, std::span<const float> tiles,
                std::span<const float> newline, std::vector<float>& rows) {
  const int64_t hidden = config.text.hidden, edge = config.vision.grid();
  const auto tile_values = static_cast<size_t>(config.tokens_per_image() * hidden);
  const auto append = [&](std::span<const float> values) {
    rows.insert(rows.end(), values.begin(), values.end());
  };
  if (shape.is_video) {
    for (int step = 0; step < shape.steps; ++step, tiles = tiles.subspan(tile_values))
      append(scaled(tiles.first(tile_values), {edge, edge}, frame_grid(config), hidden));
    if (shape.ends) append(newline);
    return;
  }
  append(tiles.first(tile_values));
  if (shape.tile_rows == 0) return append(newline);
  const Mosaic mosaic = mosaic_of(config, shape);
  std::vector<float> large = joined(config, shape, mosaic, tiles.subspan(tile_values));
  if (mosaic.kept != mosaic.seen) large = scaled(large, mosaic.seen, mosaic.kept, hidden);
  const auto row_values = static_cast<size_t>(mosaic.kept.columns * hidden);
  for (size_t at = 0; at < large.size(); at += row_values) {
    append(std::span<const float>(large).subspan(at, row_values));
    append(newline);
  }
}

}  // namespace vkv
