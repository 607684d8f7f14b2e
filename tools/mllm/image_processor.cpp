// image_processor.cpp: the processor's settings and its arithmetic.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/image_processor.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/mllm/media_limits.h"

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
    {"CLIPImageProcessor",
     true,
     {0.48145466, 0.4578275, 0.40821073},
     {0.26862954, 0.26130258, 0.27577711},
     R"({"shortest_edge": 224})"},
    {"SiglipImageProcessor",
     false,
     {0.5, 0.5, 0.5},
     {0.5, 0.5, 0.5},
     R"({"height": 224, "width": 224})"},
};

// Fields of the settings with their defaults; the first field of a wrong kind becomes `status`.
struct Fields {
  const Json& json;
  const std::string& where;
  Status status;

  void refuse(std::string_view field, std::string_view what) {
    if (!status.ok()) return;
    status = Status(Code::kInvalidArgument, fmt::format("{}: \"{}\" {}", where, field, what));
  }

  const Json* find(const char* field) const {
    const auto it = json.find(field);
    return it == json.end() || it->is_null() ? nullptr : &*it;
  }

  bool boolean(const char* field, bool otherwise) {
    const Json* value = find(field);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) return refuse(field, "must be true or false"), otherwise;
    return value->get<bool>();
  }

  double positive(const char* field, double otherwise) {
    const Json* value = find(field);
    if (value == nullptr) return otherwise;
    const double number = value->is_number() ? value->get<double>() : 0.0;
    if (!(number > 0)) return refuse(field, "must be a number above 0"), otherwise;
    return number;
  }

  std::array<double, 3> channels(const char* field, std::array<double, 3> otherwise, bool nonzero) {
    const Json* value = find(field);
    if (value == nullptr) return otherwise;
    std::array<double, 3> numbers = otherwise;
    bool good = value->is_array() && value->size() == 3;
    for (size_t c = 0; good && c < 3; ++c) {
      good = (*value)[c].is_number();
      if (good) numbers[c] = (*value)[c].get<double>();
      if (nonzero && numbers[c] == 0) good = false;
    }
    if (!good)
      refuse(field, nonzero ? "must be three numbers, none of them 0" : "must be three numbers");
    return numbers;
  }
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
  std::string type;
  if (const auto it = json.find("image_processor_type"); it != json.end() && it->is_string()) {
    type = it->get<std::string>();
  } else if (const auto older = json.find("feature_extractor_type");
             older != json.end() && older->is_string()) {
    type = older->get<std::string>();
    if (const size_t at = type.find("FeatureExtractor"); at != std::string::npos) {
      type.replace(at, std::string::npos, "ImageProcessor");
    }
  }
  if (type.ends_with("Fast")) type.resize(type.size() - 4);
  std::string known;
  for (const Defaults& processor : kProcessors) {
    if (processor.type == type) return &processor;
    known += fmt::format(" {}", processor.type);
  }
  return Status(Code::kUnsupported,
                fmt::format("{}: image_processor_type is \"{}\"; there are{}", where, type, known));
}

struct Size {
  int height = 0;
  int width = 0;
  int shortest_edge = 0;  // instead of the two

  bool fixed() const { return height > 0 && width > 0; }
};

// An object, or in older files a number, the shortest edge.
Size read_size(Fields& fields, const Defaults& defaults) {
  const Json* field = fields.find("size");
  const Json json = field == nullptr ? Json::parse(defaults.size) : *field;
  if (!json.is_object()) return {0, 0, edge(Json{{"edge", json}}, "edge")};
  if (json.contains("longest_edge")) fields.refuse("size", "with longest_edge is not supported");
  return {edge(json, "height"), edge(json, "width"), edge(json, "shortest_edge")};
}

Size read_crop_size(Fields& fields) {
  const Json* field = fields.find("crop_size");
  const Json json = field == nullptr ? Json(224) : *field;
  const Json object = json.is_object() ? json : Json{{"height", json}, {"width", json}};
  const Size size = {edge(object, "height"), edge(object, "width"), 0};
  if (!size.fixed()) {
    fields.refuse("crop_size", fmt::format("must be {{height, width}}, not {}", json.dump()));
  }
  return size;
}

Result<std::string> read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file) return Status(Code::kIo, fmt::format("{}: cannot be read", path.string()));
  return text;
}

}  // namespace

Result<ImageProcessor> ImageProcessor::load(const std::filesystem::path& model_dir) {
  std::error_code error;
  const std::filesystem::path newer = model_dir / "processor_config.json";
  if (std::filesystem::exists(newer, error)) {
    VKV_TRY_ASSIGN(text, read_text(newer));
    const Json json = Json::parse(text, nullptr, false);
    if (!json.is_object()) {
      return Status(Code::kInvalidArgument,
                    fmt::format("{}: is not a JSON object", newer.string()));
    }
    // Files of older releases hold only the text side here.
    const auto nested = json.find("image_processor");
    if (nested != json.end()) return parse(nested->dump(), newer.string());
  }
  const std::filesystem::path older = model_dir / "preprocessor_config.json";
  if (!std::filesystem::exists(older, error)) {
    return Status(Code::kNotFound,
                  fmt::format("{}: has no preprocessor_config.json; it comes with the checkpoint "
                              "and says how pictures are resized",
                              model_dir.string()));
  }
  VKV_TRY_ASSIGN(text, read_text(older));
  return parse(text, older.string());
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
  Fields fields{json, where, {}};
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
  const double resample = fields.positive("resample", 3);
  if (resample != 2 && resample != 3) {
    fields.refuse("resample",
                  fmt::format("is {}; there are 2 (bilinear) and 3 (bicubic)", resample));
  }
  processor.resample_ = resample == 2 ? Resample::kBilinear : Resample::kBicubic;
  const bool rescale = fields.boolean("do_rescale", true);
  const double factor = rescale ? fields.positive("rescale_factor", 1.0 / 255.0) : 1.0;
  processor.do_normalize_ = fields.boolean("do_normalize", true);
  processor.factor_ = static_cast<float>(factor);
  const std::array<double, 3> mean = fields.channels("image_mean", defaults->mean, false);
  const std::array<double, 3> deviation = fields.channels("image_std", defaults->deviation, true);
  for (size_t c = 0; c < 3; ++c) {
    // transformers fuses both steps: fp32 statistics times 1 / factor.
    processor.mean_[c] = static_cast<float>(mean[c]) * static_cast<float>(1.0 / factor);
    processor.deviation_[c] = static_cast<float>(deviation[c]) * static_cast<float>(1.0 / factor);
  }
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
               static_cast<size_t>(x)] =
            do_normalize_ ? (level - mean_[c]) / deviation_[c] : level * factor_;
      }
    }
  }
  return values;
}

}  // namespace vkv
