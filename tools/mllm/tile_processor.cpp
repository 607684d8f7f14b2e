// tile_processor.cpp: LLaVA-OneVision: pictures and frames -> tiles of the vision tower's size.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/tile_processor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tools/mllm/media_limits.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

constexpr int kEdge = 384;        // where the settings are silent (transformers 5.17)
constexpr int kTilesEdgeMax = 6;  // of the default sizes: all of 1 to 6 by 1 to 6 tiles

int read_edge(ProcessorFields& fields) {
  const Json* size = fields.find("size");
  if (size == nullptr) return kEdge;
  const auto of = [&](const char* name) {
    const auto it = size->is_object() ? size->find(name) : size->end();
    return it != size->end() && it->is_number_integer() ? it->get<int64_t>() : 0;
  };
  const int64_t edge = std::max(of("height"), of("shortest_edge"));
  if (edge >= 1 && edge <= kImageEdgeMax && (of("height") == of("width")))
    return static_cast<int>(edge);
  fields.refuse("size", "must be a square {height, width} or {shortest_edge}");
  return kEdge;
}

std::vector<PixelSize> read_sizes(ProcessorFields& fields, int edge) {
  std::vector<PixelSize> sizes;
  const Json* const list = fields.find("image_grid_pinpoints");
  if (list == nullptr) {
    for (int64_t rows = 1; rows <= kTilesEdgeMax; ++rows)
      for (int64_t columns = 1; columns <= kTilesEdgeMax; ++columns)
        sizes.push_back({rows * edge, columns * edge});
    return sizes;
  }
  const auto is_edge = [&](const Json& value) {
    return value.is_number_unsigned() && value.get<uint64_t>() > 0 &&
           value.get<uint64_t>() <= kImageEdgeMax &&
           value.get<uint64_t>() % static_cast<uint64_t>(edge) == 0;
  };
  bool good = list->is_array() && !list->empty();
  for (size_t i = 0; good && i < list->size(); ++i) {
    const Json& size = (*list)[i];
    good = size.is_array() && size.size() == 2 && is_edge(size[0]) && is_edge(size[1]) &&
           size[0].get<int64_t>() * size[1].get<int64_t>() <= kImagePixelsMax;
    if (good) sizes.push_back({size[0].get<int64_t>(), size[1].get<int64_t>()});
  }
  if (!good)
    fields.refuse("image_grid_pinpoints",
                  fmt::format("must be sizes [height, width] in multiples of {}", edge));
  return sizes;
}

Image square_of(const Image& image, std::array<uint8_t, 3> background) {
  const int edge = std::max(image.width, image.height);
  if (image.width == image.height) return image;
  const int left = (edge - image.width) / 2, top = (edge - image.height) / 2;
  Image square{edge, edge, {}};
  square.rgb.resize(static_cast<size_t>(edge) * static_cast<size_t>(edge) * 3);
  for (size_t i = 0; i < square.rgb.size(); ++i) square.rgb[i] = background[i % 3];
  const auto row_bytes = static_cast<ptrdiff_t>(image.width) * 3;
  for (int y = 0; y < image.height; ++y)
    std::copy_n(image.rgb.begin() + y * row_bytes, row_bytes,
                square.rgb.begin() + (ptrdiff_t{top + y} * edge + left) * 3);
  return square;
}

}  // namespace

PixelSize best_resolution(PixelSize picture, std::span<const PixelSize> sizes) {
  PixelSize best = sizes[0];
  int64_t effective_best = 0, wasted_best = 0;
  for (const PixelSize& size : sizes) {
    const double scale =
        std::min(static_cast<double>(size.width) / static_cast<double>(picture.width),
                 static_cast<double>(size.height) / static_cast<double>(picture.height));
    const auto scaled = [&](int64_t edge) {
      return static_cast<int64_t>(static_cast<double>(edge) * scale);
    };
    const int64_t effective =
        std::min(scaled(picture.width) * scaled(picture.height), picture.width * picture.height);
    const int64_t wasted = size.width * size.height - effective;
    if (effective < effective_best || (effective == effective_best && wasted >= wasted_best))
      continue;
    best = size;
    effective_best = effective;
    wasted_best = wasted;
  }
  return best;
}

Result<TileProcessor> TileProcessor::parse(const ProcessorSettings& settings) {
  const Json json = Json::parse(settings.json_text, nullptr, false);
  if (!json.is_object())
    return Status(Code::kInvalidArgument, settings.where + ": is not a JSON object");
  ProcessorFields fields{json, settings.where, {}};
  TileProcessor processor;
  processor.edge_ = read_edge(fields);
  processor.sizes_ = read_sizes(fields, processor.edge_);
  processor.resample_ = read_resample(fields);
  processor.scale_ = PixelScale::read(fields, kClipMean, kClipDeviation);
  const std::array<double, 3> mean = fields.channels("image_mean", kClipMean, false);
  for (size_t c = 0; c < 3; ++c)
    processor.background_[c] = static_cast<uint8_t>(std::clamp(mean[c] * 255, 0.0, 255.0));
  if (!fields.boolean("do_resize", true)) fields.refuse("do_resize", "must be true");
  if (fields.boolean("do_center_crop", false)) fields.refuse("do_center_crop", "must be false");
  if (!fields.status.ok()) return fields.status;
  return processor;
}

// The tile whose upper left corner stands at (left, top) of the picture; black outside of it.
void TileProcessor::append(const Image& image, int top, int left,
                           std::vector<float>& values) const {
  for (size_t channel = 0; channel < 3; ++channel)
    for (int y = top; y < top + edge_; ++y)
      for (int x = left; x < left + edge_; ++x) {
        const bool inside = y >= 0 && y < image.height && x >= 0 && x < image.width;
        const size_t pixel = inside ? static_cast<size_t>(y) * static_cast<size_t>(image.width) +
                                          static_cast<size_t>(x)
                                    : 0;
        const float level = inside ? static_cast<float>(image.rgb[pixel * 3 + channel]) : 0.0f;
        values.push_back(scale_.value(level, channel));
      }
}

Result<VisualInput> TileProcessor::tiles(const Image& image) const {
  VKV_TRY(check_image_size("the picture", image.width, image.height));
  const PixelSize target = best_resolution({image.height, image.width}, sizes_);
  const double scale_x = static_cast<double>(target.width) / image.width;
  const double scale_y = static_cast<double>(target.height) / image.height;
  PixelSize size = target;
  if (scale_x < scale_y)
    size.height = std::min(target.height, static_cast<int64_t>(std::ceil(image.height * scale_x)));
  else
    size.width = std::min(target.width, static_cast<int64_t>(std::ceil(image.width * scale_y)));
  const Image large =
      resize(image, static_cast<int>(size.width), static_cast<int>(size.height), resample_);

  VisualInput input;
  input.shape = {.height = image.height,
                 .width = image.width,
                 .tile_rows = static_cast<int>(target.height / edge_),
                 .tile_columns = static_cast<int>(target.width / edge_)};
  append(resize(image, edge_, edge_, resample_), 0, 0, input.values);
  const int top = static_cast<int>((target.height - size.height) / 2);
  const int left = static_cast<int>((target.width - size.width) / 2);
  for (int row = 0; row < input.shape.tile_rows; ++row)
    for (int column = 0; column < input.shape.tile_columns; ++column)
      append(large, row * edge_ - top, column * edge_ - left, input.values);
  return input;
}

Result<VisualInput> TileProcessor::square(const Image& image) const {
  VKV_TRY(check_image_size("the picture", image.width, image.height));
  const int64_t longer = std::max(image.width, image.height);
  VKV_TRY(check_image_size("the padded picture", longer, longer));
  VisualInput input;
  append(resize(square_of(image, background_), edge_, edge_, resample_), 0, 0, input.values);
  return input;
}

Result<VisualInput> TileProcessor::frames(std::span<const Image> frames) const {
  VisualInput input;
  input.shape = {.is_video = true, .steps = static_cast<int>(frames.size())};
  for (const Image& frame : frames) {
    VKV_TRY(check_image_size("the frame", frame.width, frame.height));
    append(resize(frame, edge_, edge_, resample_), 0, 0, input.values);
  }
  return input;
}

}  // namespace vkv
