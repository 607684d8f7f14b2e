// image_processor.cpp: the processor's settings and its arithmetic.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/image_processor.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "tools/mllm/media_limits.h"
#include "tools/mllm/processor_settings.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

// What a processor does where its file is silent (transformers 5.17, models/*/image_processing_*).
struct Defaults {
  std::string_view type;
  bool center_crop;
  std::array<double, 3> mean;
  std::array<double, 3> deviation;
  const char* size;
};
constexpr Defaults kProcessors[] = {
    {"CLIPImageProcessor", true, kClipMean, kClipDeviation, R"({"shortest_edge": 224})"},
    {"SiglipImageProcessor",
     false,
     {0.5, 0.5, 0.5},
     {0.5, 0.5, 0.5},
     R"({"height": 224, "width": 224})"},
};

// Pixels, 1..kImageEdgeMax; 0 when the object has no such member or a senseless one.
int edge(const Json& object, const char* name) {
  const auto it = object.find(name);
  if (it == object.end() || !it->is_number_integer()) return 0;
  const auto value = it->get<int64_t>();
  return value >= 1 && value <= kImageEdgeMax ? static_cast<int>(value) : 0;
}

// The processor that the settings name. Errors: kUnsupported, listing those there are.
Result<const Defaults*> find_defaults(const Json& json, const std::string& where) {
  const std::string type = processor_type(json);
  std::string known;
  for (const Defaults& processor : kProcessors) {
    if (processor.type == type) return &processor;
    known += fmt::format(" {}", processor.type);
  }
  return Status(Code::kUnsupported,
                fmt::format("{}: image_processor_type is \"{}\"; there are{} Qwen2VLImageProcessor "
                            "LlavaOnevisionImageProcessor",
                            where, type, known));
}

struct Size {
  int height = 0;
  int width = 0;
  int shortest_edge = 0;  // instead of the two

  bool fixed() const { return height > 0 && width > 0; }
};

// An object, or in older files a number, the shortest edge.
Size read_size(ProcessorFields& fields, const Defaults& defaults) {
  const Json* field = fields.find("size");
  const Json json = field == nullptr ? Json::parse(defaults.size) : *field;
  if (!json.is_object()) return {0, 0, edge(Json{{"edge", json}}, "edge")};
  if (json.contains("longest_edge")) fields.refuse("size", "with longest_edge is not supported");
  return {edge(json, "height"), edge(json, "width"), edge(json, "shortest_edge")};
}

Size read_crop_size(ProcessorFields& fields) {
  const Json* field = fields.find("crop_size");
  const Json json = field == nullptr ? Json(224) : *field;
  const Json object = json.is_object() ? json : Json{{"height", json}, {"width", json}};
  const Size size = {edge(object, "height"), edge(object, "width"), 0};
  if (!size.fixed()) {
    fields.refuse("crop_size", fmt::format("must be {{height, width}}, not {}", json.dump()));
  }
  return size;
}

}  // namespace

Result<ImageProcessor> ImageProcessor::load(const std::filesystem::path& model_dir) {
  VKV_TRY_ASSIGN(settings, find_processor_settings(model_dir, SettingsOf::kPictures));
  return parse(settings.json_text, settings.where);
}

Result<ImageProcessor> ImageProcessor::parse(const std::string& json_text,
                                             const std::string& where) {
  const Json json = Json::parse(json_text, nullptr, false);
  if (!json.is_object()) {
    return Status(Code::kInvalidArgument, fmt::format("{}: is not a JSON object", where));
  }
  VKV_TRY_ASSIGN(defaults, find_defaults(json, where));

  // 1. The size before and after the crop.
  ImageProcessor processor;
  ProcessorFields fields{json, where, {}};
  const Size size = read_size(fields, *defaults);
  processor.do_resize_ = fields.boolean("do_resize", true);
  processor.do_center_crop_ = fields.boolean("do_center_crop", defaults->center_crop);
  processor.resize_height_ = size.height;
  processor.resize_width_ = size.width;
  processor.shortest_edge_ = size.shortest_edge;
  if (processor.do_resize_ && size.fixed() == (size.shortest_edge > 0)) {
    fields.refuse("size", fmt::format("must be {{height, width}} or {{shortest_edge}}, each 1..{}",
                                      kImageEdgeMax));
  }
  const Size result = processor.do_center_crop_ ? read_crop_size(fields)
                      : processor.do_resize_    ? size
                                                : Size{};
  processor.height_ = result.height;
  processor.width_ = result.width;
  if (fields.status.ok() && !result.fixed()) {
    return Status(Code::kUnsupported, fmt::format("{}: gives pictures of no fixed size (neither "
                                                  "resized to {{height, width}} nor cropped)",
                                                  where));
  }

  // 2. How values are made of grey levels.
  processor.resample_ = read_resample(fields);
  processor.scale_ = PixelScale::read(fields, defaults->mean, defaults->deviation);
  // Not needed here, as load_image() gives RGB, but a file that asks for less is misread.
  (void)fields.boolean("do_convert_rgb", true);
  if (!fields.status.ok()) return fields.status;
  return processor;
}

Result<Image> ImageProcessor::resized(const Image& image) const {
  if (!do_resize_) return image;
  int64_t height = resize_height_, width = resize_width_;
  if (shortest_edge_ > 0) {
    // As torchvision: the longer edge rounded down.
    const bool wide = image.height <= image.width;
    const int64_t shorter = wide ? image.height : image.width;
    const int64_t longer = wide ? image.width : image.height;
    const int64_t longer_new = shortest_edge_ * longer / shorter;
    height = wide ? shortest_edge_ : longer_new;
    width = wide ? longer_new : shortest_edge_;
  }
  VKV_TRY(check_image_size("the resized picture", width, height));
  return resize(image, static_cast<int>(width), static_cast<int>(height), resample_);
}

Result<std::vector<float>> ImageProcessor::process(const Image& image) const {
  VKV_TRY(check_image_size("the picture", image.width, image.height));
  VKV_TRY_ASSIGN(source, resized(image));

  // Cropping about the centre; what lies outside the picture is level 0. With padding on both
  // sides the extra line goes to the bottom and right; without, offsets round down.
  const auto offset = [](int source_edge, int target_edge) {
    return target_edge > source_edge ? -((target_edge - source_edge) / 2)
                                     : (source_edge - target_edge) / 2;
  };
  const int top = offset(source.height, height_), left = offset(source.width, width_);
  const size_t plane = static_cast<size_t>(height_) * static_cast<size_t>(width_);
  std::vector<float> values(3 * plane);
  for (int y = 0; y < height_; ++y) {
    for (int x = 0; x < width_; ++x) {
      const int source_y = y + top, source_x = x + left;
      const bool inside =
          source_y >= 0 && source_y < source.height && source_x >= 0 && source_x < source.width;
      const size_t pixel = inside
                               ? static_cast<size_t>(source_y) * static_cast<size_t>(source.width) +
                                     static_cast<size_t>(source_x)
                               : 0;
      for (size_t c = 0; c < 3; ++c) {
        const float level = inside ? static_cast<float>(source.rgb[pixel * 3 + c]) : 0.0f;
        values[c * plane + static_cast<size_t>(y) * static_cast<size_t>(width_) +
               static_cast<size_t>(x)] = scale_.value(level, c);
      }
    }
  }
  return values;
}

}  // namespace vkv
