// encode.cpp: sorts the parts of a call by kernel, carries them to the device and launches.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/encode.h"

#include <array>
#include <string>

#include "kernels/encode_kernels.h"
#include "kernels/encode_workspace.h"
#include "runtime/base/check.h"

namespace vkv {
namespace {

// A launch has parts of one codec, of one of three lengths of lanes, all rotated or none.
constexpr size_t kSampleClasses = 3;
constexpr size_t kLaunchMax = static_cast<size_t>(kCodecCount) * kSampleClasses * 2;

size_t launch_index(const EncodePart& part) {
  const size_t samples = static_cast<size_t>(part.samples());
  const size_t sample_class = samples <= 64 ? 0 : samples <= 128 ? 1 : 2;
  return (static_cast<size_t>(part.codec) * kSampleClasses + sample_class) * 2 + part.rotated;
}

void include(EncodeLaunch& launch, const EncodePart& part) {
  ++launch.part_count;
  launch.kv_heads_max = std::max(launch.kv_heads_max, part.kv_heads);
  launch.lanes_max = std::max(launch.lanes_max, part.lanes());
  launch.samples_max = std::max(launch.samples_max, part.samples());
  launch.rotated = launch.rotated || part.rotated;
}

Status launch_parts(Codec codec, const EncodeLaunch& launch, cudaStream_t stream) {
  switch (codec) {
    case Codec::kI8:
      return launch_encode_i8(launch, stream);
    case Codec::kI4:
      return launch_encode_i4(launch, stream);
    case Codec::kI2:
      return launch_encode_i2(launch, stream);
    case Codec::kI1:
      return launch_encode_i1(launch, stream);
    default:
      return launch_encode_halves(launch, stream);
  }
}

// What kernels ask for beyond runtime/base/check.h.
Status check_device_source(const KvShape& shape, const OpenTokens& source) {
  if (reinterpret_cast<uintptr_t>(source.k) % 16 != 0 ||
      reinterpret_cast<uintptr_t>(source.v) % 16 != 0)
    return invalid_call("K or V that is not 16-byte aligned");
  if (shape.kv_heads > kErrorKvHeadsMax)
    return {Code::kUnsupported, "kv_heads is " + std::to_string(shape.kv_heads) + "; " +
                                    std::to_string(kErrorKvHeadsMax) + " at most"};
  return {};
}

EncodePart source_part(const KvShape& shape, const OpenTokens& source,
                       std::span<const uint32_t> rows, const uint32_t* device_rows) {
  const int row_count = static_cast<int>(rows.size());
  return {.source = source.k,
          .rows = device_rows,
          .first_row = rows[0],
          .row_count = row_count,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim,
          .padded_rows = padded_tokens(row_count),
          .bfloat = source.codec == Codec::kBf16};
}

// K and V of an item. Where the headers lie: in the record, or in front of all records.
std::array<EncodePart, 2> parts_of(const EncodeItem& item, uint32_t item_index,
                                   const uint32_t* device_rows) {
  const BlockLayout layout = block_layout(item);
  const bool shared = item.shared_headers != nullptr;
  std::byte* headers = shared ? const_cast<std::byte*>(item.shared_headers) : item.record.data();
  std::byte* payload = item.record.data() + layout.payload_offset();

  EncodePart k = source_part(item.shape, item.source, item.rows, device_rows);
  k.head_header = static_cast<uint32_t>(layout.head_header);
  k.head_payload = static_cast<uint32_t>(layout.k_payload + layout.v_payload);
  k.item = item_index;
  EncodePart v = k;

  k.payload = payload + layout.k_of(0);
  k.spread = item.k_spread;
  k.codec = item.k_codec;
  k.rotated = item.k_rotated;
  if (!is_16_bit(k.codec)) k.mean = item.k_mean;

  v.source = item.source.v;
  v.payload = payload + layout.v_of(0);
  v.spread = item.v_spread;
  v.codec = item.v_codec;
  v.is_v = true;
  v.lanes_are_tokens = item.v_per_token;

  if (layout.head_header == 0) return {k, v};
  k.scales = reinterpret_cast<uint16_t*>(headers + layout.header_of(0));
  v.scales = reinterpret_cast<uint16_t*>(headers + layout.v_scales_of(0));
  for (EncodePart* part : {&k, &v}) {
    part->shared_header = shared;
    if (shared && is_16_bit(part->codec)) part->scales = nullptr;
  }
  return {k, v};
}

// The words of cpu/encode.cpp.
Status status_of(uint64_t error) {
  if (error == kNoEncodeError) return {};
  const std::string where = std::string(error >> 19 & 1 ? "V" : "K") + " of KV head " +
                            std::to_string(error >> 20 & 0xfff);
  const std::string index = std::to_string(error & 0xffff);
  const std::string range = " has a range too large for fp16 scales and zeros; store it at 16 bit";
  const auto say = [&](const std::string& what) {
    return Status(Code::kInvalidArgument, where + what);
  };
  switch (static_cast<EncodeError>(error >> 16 & 7)) {
    case EncodeError::kNotFinite:
      return say(", channel " + index + " holds a value that is not finite");
    case EncodeError::kRotation:
      return say(" has values too large to be rotated; store it at 16 bit");
    case EncodeError::kChannelRange:
      return say(", channel " + index + range);
    case EncodeError::kTokenRange:
      return say(", token " + index + range);
    case EncodeError::kTooLarge:
      return say(", channel " + index + " holds a value too large for fp16; store it as BF16");
  }
  return say(" has an error of unknown kind");
}

}  // namespace

struct GpuEncoder::State {
  GpuEncoderOptions options;
  std::vector<EncodeStaging> stagings;
  size_t next_staging = 0;
  EncodeRoom room;
  CudaArray<uint64_t> first_error;         // [1]
  uint64_t* reported_to = nullptr;         // by the calls from now on
  CudaArray<uint64_t> first_error_pinned;  // [2]: what was read, and kNoEncodeError
  uint32_t item_count = 0;                 // since the last check()
  uint64_t growth_count = 0;

  ~State() {
    // Memory must outlive the kernels that use it, on whatever streams these are.
    if (!stagings.empty()) (void)cudaDeviceSynchronize();
  }

  Result<EncodeStaging*> begin(size_t row_count) {
    EncodeStaging& staging = stagings[next_staging];
    next_staging = (next_staging + 1) % stagings.size();
    bool grew = false;
    const Status status = staging.begin(row_count, &grew);
    growth_count += grew;
    VKV_TRY(status);
    return &staging;
  }

  // Errors that leave kernels behind are the device's own: nothing can be undone then.
  Status encode_some(std::span<const EncodeItem>& items, cudaStream_t stream);
};

// Encodes as many of the first items as a staging holds, and takes them off.
Status GpuEncoder::State::encode_some(std::span<const EncodeItem>& items, cudaStream_t stream) {
  VKV_TRY_ASSIGN(staging, begin(0));
  std::vector<std::array<EncodePart, 2>> parts;
  parts.reserve(std::min<size_t>(items.size(), options.items_max));
  std::array<EncodeLaunch, kLaunchMax> launches = {};
  while (!items.empty() && parts.size() < options.items_max &&
         staging->rows_free() >= items[0].rows.size()) {
    const EncodeItem& item = items[0];
    parts.push_back(parts_of(item, item_count++, staging->add_rows(item.rows)));
    for (const EncodePart& part : parts.back()) include(launches[launch_index(part)], part);
    items = items.subspan(1);
  }

  uint32_t begin_of_launch = 0;
  std::array<uint32_t, kLaunchMax> next = {};
  for (size_t i = 0; i < kLaunchMax; ++i) {
    next[i] = begin_of_launch;
    launches[i].parts = staging->device_parts() + begin_of_launch;
    launches[i].first_error = reported_to;
    begin_of_launch += launches[i].part_count;
  }
  const std::span<EncodePart> sorted = staging->parts();
  for (const auto& pair : parts)
    for (const EncodePart& part : pair) sorted[next[launch_index(part)]++] = part;

  Status status = staging->copy_to_device(begin_of_launch, stream);
  for (size_t i = 0; i < kLaunchMax && status.ok(); ++i)
    if (launches[i].part_count > 0)
      status = launch_parts(static_cast<Codec>(i / (2 * kSampleClasses)), launches[i], stream);
  const Status ended = staging->end(stream);
  return status.ok() ? ended : status;
}

GpuEncoder::GpuEncoder(std::unique_ptr<State> state) : state_(std::move(state)) {}
GpuEncoder::GpuEncoder(GpuEncoder&&) noexcept = default;
GpuEncoder& GpuEncoder::operator=(GpuEncoder&&) noexcept = default;
GpuEncoder::~GpuEncoder() = default;

Result<GpuEncoder> GpuEncoder::make(const GpuEncoderOptions& options) {
  if (options.items_max < 1 || options.items_max > kLaunchPartsMax / 2 || options.rows_max < 256 ||
      options.calls_in_flight < 1 || options.calls_in_flight > 16)
    return invalid_call("an encoder of " + std::to_string(options.items_max) + " items, " +
                        std::to_string(options.rows_max) + " rows and " +
                        std::to_string(options.calls_in_flight) +
                        " calls in flight; 1..32767, at least 256 and 1..16");
  auto state = std::make_unique<State>();
  state->options = options;
  for (uint32_t i = 0; i < options.calls_in_flight; ++i) {
    VKV_TRY_ASSIGN(staging, EncodeStaging::make(size_t{2} * options.items_max, options.rows_max));
    state->stagings.push_back(std::move(staging));
  }
  VKV_TRY_ASSIGN(room, EncodeRoom::make(options.room_bytes));
  state->room = std::move(room);
  VKV_TRY_ASSIGN(first_error, CudaArray<uint64_t>::make(1));
  VKV_TRY_ASSIGN(pinned, CudaArray<uint64_t>::make(2, CudaMemory::kPinned));
  pinned.data()[0] = pinned.data()[1] = kNoEncodeError;
  VKV_TRY(cuda_status(
      cudaMemcpy(first_error.data(), pinned.data(), sizeof(uint64_t), cudaMemcpyDefault),
      "cudaMemcpy"));
  state->first_error = std::move(first_error);
  state->reported_to = state->first_error.data();
  state->first_error_pinned = std::move(pinned);
  return GpuEncoder(std::move(state));
}

Status GpuEncoder::encode(std::span<const EncodeItem> items, cudaStream_t stream) {
  for (const EncodeItem& item : items) {
    VKV_TRY(check_encode(item));
    VKV_TRY(check_device_source(item.shape, item.source));
  }
  while (!items.empty()) VKV_TRY(state_->encode_some(items, stream));
  return {};
}

Status GpuEncoder::encode_headers(const EncodeItem& item, cudaStream_t stream) {
  VKV_TRY(check_encode_headers(item));
  VKV_TRY(check_device_source(item.shape, item.source));
  if (item.record.empty()) return {};  // K and V are 16 bit
  VKV_TRY_ASSIGN(staging, state_->begin(item.rows.size()));
  const std::array<EncodePart, 2> parts =
      parts_of(item, state_->item_count++, staging->add_rows(item.rows));
  EncodeLaunch launch = {.parts = staging->device_parts(), .first_error = state_->reported_to};
  for (size_t i = 0; i < parts.size(); ++i) {
    staging->parts()[i] = parts[i];
    include(launch, parts[i]);
  }

  if (launch.rotated) {
    bool grew = false;
    const size_t values = item.rows.size() * static_cast<size_t>(item.shape.kv_heads) *
                          static_cast<size_t>(item.shape.head_dim);
    const Status status = state_->room.begin(values, stream, &grew);
    state_->growth_count += grew;
    VKV_TRY(status);
  }
  Status status = staging->copy_to_device(parts.size(), stream);
  if (status.ok()) status = launch_encode_headers(launch, state_->room.data(), stream);
  if (launch.rotated && status.ok()) status = state_->room.end(stream);
  const Status ended = staging->end(stream);
  return status.ok() ? ended : status;
}

Status GpuEncoder::mean_key(const KvShape& shape, const OpenTokens& source,
                            std::span<const uint32_t> rows, float* mean, cudaStream_t stream) {
  VKV_TRY(check_mean_key(shape, source, rows, mean));
  VKV_TRY(check_device_source(shape, source));
  VKV_TRY_ASSIGN(staging, state_->begin(rows.size()));
  EncodePart& part = staging->parts()[0];
  part = source_part(shape, source, rows, staging->add_rows(rows));
  part.item = state_->item_count++;
  EncodeLaunch launch = {.parts = staging->device_parts(), .first_error = state_->reported_to};
  include(launch, part);
  Status status = staging->copy_to_device(1, stream);
  if (status.ok()) status = launch_mean_key(launch, mean, stream);
  const Status ended = staging->end(stream);
  return status.ok() ? ended : status;
}

Status GpuEncoder::saliency(const SaliencyItem& item, cudaStream_t stream) {
  VKV_TRY(check_saliency(item));
  bool grew = false;
  const Status begun = state_->room.begin(saliency_room(item), stream, &grew);
  state_->growth_count += grew;
  VKV_TRY(begun);
  VKV_TRY(launch_saliency(item, state_->room.data(), stream));
  return state_->room.end(stream);
}

Status GpuEncoder::squared_distances(const KvShape& shape, const OpenTokens& source,
                                     std::span<const uint32_t> rows, const float* mean,
                                     float* distances, cudaStream_t stream) {
  VKV_TRY(check_mean_key(shape, source, rows, mean));
  if (distances == nullptr) return invalid_call("squared_distances without room for them");
  VKV_TRY_ASSIGN(staging, state_->begin(rows.size()));
  EncodePart part = source_part(shape, source, rows, staging->add_rows(rows));
  part.mean = mean;
  Status status = staging->copy_to_device(0, stream);
  if (status.ok()) status = launch_squared_distances(part, distances, stream);
  const Status ended = staging->end(stream);
  return status.ok() ? ended : status;
}

Status GpuEncoder::check(cudaStream_t stream) {
  uint64_t* pinned = state_->first_error_pinned.data();
  VKV_TRY(copy_async(pinned, state_->first_error.data(), 1, stream));
  VKV_TRY(copy_async(state_->first_error.data(), pinned + 1, 1, stream));
  VKV_TRY(synchronize(stream));
  state_->item_count = 0;
  return status_of(pinned[0]);
}

void GpuEncoder::report_to(uint64_t* first_error) {
  state_->reported_to = first_error != nullptr ? first_error : state_->first_error.data();
}

Status GpuEncoder::error_of(uint64_t word) { return status_of(word); }

uint64_t GpuEncoder::growth_count() const { return state_->growth_count; }

uint64_t GpuEncoder::device_bytes() const {
  uint64_t bytes = sizeof(uint64_t) + state_->room.device_bytes();
  for (const EncodeStaging& staging : state_->stagings) bytes += staging.device_bytes();
  return bytes;
}

}  // namespace vkv
