// media_ffmpeg.cpp: pictures and videos by libavformat, libavcodec and libswscale.
// SPDX-License-Identifier: Apache-2.0
//
// A video is read twice: the first pass only takes the container apart, for the times of all
// frames; the second decodes, and converts the frames taken. Files are opened without
// their name, so that neither it nor a playlist inside can make FFmpeg open anything else.
extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/parseutils.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "tools/mllm/media_decoder.h"
#include "tools/mllm/media_limits.h"
#include "tools/mllm/turn_image.h"

namespace vkv {
namespace {

// Containers that hold their own frames. Playlists, devices and text renderers are left out.
constexpr const char* kFormats =
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,gif,apng,asf,h264,"
    "hevc,"
    "ivf,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,ppm_pipe,pgm_pipe,pam_pipe,qoi_pipe,"
    "jpegls_pipe,j2k_pipe,gif_pipe";

// BT.601 below this many lines and BT.709 from it, for video that does not say: what players do.
constexpr int kHighDefinitionLines = 720;

std::string error_text(int error) {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  return av_make_error_string(text, sizeof(text), error);
}

// Calls a free function that takes the address of the pointer.
template <auto kFree>
struct Freed {
  template <class T>
  void operator()(T* pointer) const {
    kFree(&pointer);
  }
};
using Io = std::unique_ptr<AVIOContext, Freed<avio_closep>>;
using Format = std::unique_ptr<AVFormatContext, Freed<avformat_close_input>>;
using Decoder = std::unique_ptr<AVCodecContext, Freed<avcodec_free_context>>;
using Frame = std::unique_ptr<AVFrame, Freed<av_frame_free>>;
using Packet = std::unique_ptr<AVPacket, Freed<av_packet_free>>;
struct SwsFree {
  void operator()(SwsContext* context) const { sws_freeContext(context); }
};

Status refuse(Code code, const std::filesystem::path& path, std::string_view what) {
  return {code, fmt::format("{}: {}", path.string(), what)};
}

// An opened file and its video stream. Members are destroyed in reverse order: the format first.
struct Source {
  Io io;
  Format format;
  AVStream* stream = nullptr;
};

Result<Source> open_source(const std::filesystem::path& path) {
  av_log_set_level(AV_LOG_QUIET);  // what matters comes back as a Status
  Source source;
  AVIOContext* io = nullptr;
  int error = avio_open(&io, ("file:" + path.string()).c_str(), AVIO_FLAG_READ);
  if (error < 0) return refuse(Code::kIo, path, "cannot be opened: " + error_text(error));
  source.io.reset(io);

  AVFormatContext* format = avformat_alloc_context();
  VKV_CHECK(format != nullptr);
  format->pb = io;
  AVDictionary* settings = nullptr;
  av_dict_set(&settings, "format_whitelist", kFormats, 0);
  error = avformat_open_input(&format, nullptr, nullptr, &settings);  // frees `format` on failure
  av_dict_free(&settings);
  if (error < 0) {
    return refuse(Code::kInvalidArgument, path,
                  "is not a picture or video that can be decoded: " + error_text(error));
  }
  source.format.reset(format);
  if (error = avformat_find_stream_info(format, nullptr); error < 0) {
    return refuse(Code::kDataLoss, path, "is damaged: " + error_text(error));
  }
  const int index = av_find_best_stream(format, AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0);
  if (index < 0) return refuse(Code::kInvalidArgument, path, "has no picture or video in it");
  source.stream = format->streams[index];
  for (unsigned i = 0; i < format->nb_streams; ++i) {
    if (static_cast<int>(i) != index) format->streams[i]->discard = AVDISCARD_ALL;
  }
  return source;
}

// The next packet of the video stream. False at the end. Errors: kDataLoss.
Result<bool> next_packet(const std::filesystem::path& path, const Source& source,
                         AVPacket* packet) {
  while (true) {
    av_packet_unref(packet);
    const int error = av_read_frame(source.format.get(), packet);
    if (error == AVERROR_EOF) return false;
    if (error < 0) return refuse(Code::kDataLoss, path, "is damaged: " + error_text(error));
    if (packet->stream_index == source.stream->index) return true;
  }
}

// Where the file says that its frames end, in seconds; 0 if it does not say so reliably. Matroska
// only: a cut file of it looks like a whole one, while other containers notice.
double announced_end(const Source& source) {
  if (std::string_view(source.format->iformat->name).find("matroska") == std::string_view::npos) {
    return 0;
  }
  const AVDictionaryEntry* tag = av_dict_get(source.stream->metadata, "DURATION", nullptr, 0);
  int64_t microseconds = 0;
  if (tag != nullptr && av_parse_time(&microseconds, tag->value, 1) >= 0) {
    return static_cast<double>(microseconds) / AV_TIME_BASE;
  }
  const bool alone = source.format->nb_streams == 1 && source.format->duration > 0;
  return alone ? static_cast<double>(source.format->duration) / AV_TIME_BASE : 0;
}

// Times of presentation in seconds, ascending, of the frames that the packets announce.
Result<std::vector<double>> frame_seconds(const std::filesystem::path& path, const Source& source) {
  const Packet packet(av_packet_alloc());
  const double tick = av_q2d(source.stream->time_base);
  const AVRational rate = av_guess_frame_rate(source.format.get(), source.stream, nullptr);
  const double interval = rate.num > 0 ? av_q2d(av_inv_q(rate)) : 1.0 / 25;  // without time stamps
  std::vector<double> seconds;
  double end = 0;
  while (true) {
    VKV_TRY_ASSIGN(more, next_packet(path, source, packet.get()));
    if (!more) break;
    if (packet->flags & AV_PKT_FLAG_DISCARD) continue;  // decoded but never shown
    if (packet->flags & AV_PKT_FLAG_CORRUPT) return refuse(Code::kDataLoss, path, "is truncated");
    const int64_t stamp = packet->pts != AV_NOPTS_VALUE ? packet->pts : packet->dts;
    if (stamp != AV_NOPTS_VALUE) {
      seconds.push_back(static_cast<double>(stamp) * tick);
    } else {
      seconds.push_back(static_cast<double>(seconds.size()) * interval);
    }
    end = std::max(end, seconds.back() + static_cast<double>(packet->duration) * tick);
  }
  std::sort(seconds.begin(), seconds.end());

  double gap_max = 0;
  for (size_t i = 1; i < seconds.size(); ++i)
    gap_max = std::max(gap_max, seconds[i] - seconds[i - 1]);
  const double announced = announced_end(source);
  if (gap_max > 0 && announced - end > 0.75 * gap_max) {
    return refuse(
        Code::kDataLoss, path,
        fmt::format("is truncated: its frames end after {:.2f} of {:.2f} seconds", end, announced));
  }
  return seconds;
}

Result<Decoder> open_codec(const std::filesystem::path& path, const Source& source, bool strict) {
  const AVCodecParameters* parameters = source.stream->codecpar;
  const AVCodec* codec = avcodec_find_decoder(parameters->codec_id);
  if (codec == nullptr) {
    return refuse(Code::kUnsupported, path,
                  fmt::format("is coded as {}, which this FFmpeg cannot decode",
                              avcodec_get_name(parameters->codec_id)));
  }
  Decoder context(avcodec_alloc_context3(codec));
  VKV_CHECK(context != nullptr);
  int error = avcodec_parameters_to_context(context.get(), parameters);
  context->pkt_timebase = source.stream->time_base;
  context->max_pixels = kImagePixelsMax;
  context->thread_count = 1;  // the same frames whatever the machine, and no threads left behind
  if (strict) context->err_recognition = AV_EF_CRCCHECK | AV_EF_BITSTREAM | AV_EF_EXPLODE;
  if (error >= 0) error = avcodec_open2(context.get(), codec, nullptr);
  if (error < 0) return refuse(Code::kDataLoss, path, "is damaged: " + error_text(error));
  return context;
}

// swscale's range and matrix of the frame: what it says of itself, or else the custom.
struct ColorModel {
  bool full_range = false;
  int matrix = SWS_CS_ITU601;
};

ColorModel color_model(const AVFrame& frame, const AVPixFmtDescriptor& format) {
  ColorModel model;
  const bool gray = format.nb_components <= 2;
  const bool rgb = (format.flags & (AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_PAL)) != 0;
  const bool yuvj = frame.format == AV_PIX_FMT_YUVJ420P || frame.format == AV_PIX_FMT_YUVJ422P ||
                    frame.format == AV_PIX_FMT_YUVJ444P || frame.format == AV_PIX_FMT_YUVJ440P ||
                    frame.format == AV_PIX_FMT_YUVJ411P;
  model.full_range = rgb || yuvj || frame.color_range == AVCOL_RANGE_JPEG ||
                     (gray && frame.color_range == AVCOL_RANGE_UNSPECIFIED);
  switch (frame.colorspace) {
    case AVCOL_SPC_BT709:
      model.matrix = SWS_CS_ITU709;
      break;
    case AVCOL_SPC_FCC:
      model.matrix = SWS_CS_FCC;
      break;
    case AVCOL_SPC_SMPTE240M:
      model.matrix = SWS_CS_SMPTE240M;
      break;
    case AVCOL_SPC_BT2020_NCL:
    case AVCOL_SPC_BT2020_CL:
      model.matrix = SWS_CS_BT2020;
      break;
    case AVCOL_SPC_UNSPECIFIED:
      // JPEG's own standard (JFIF) is BT.601 at any size.
      if (!yuvj && frame.height >= kHighDefinitionLines) model.matrix = SWS_CS_ITU709;
      break;
    default:
      break;
  }
  return model;
}

Result<Image> to_image(const std::filesystem::path& path, const AVFrame& frame, int quarter_turns) {
  VKV_TRY(check_image_size(path.string(), frame.width, frame.height));
  const auto pixel_format = static_cast<AVPixelFormat>(frame.format);
  const AVPixFmtDescriptor* description = av_pix_fmt_desc_get(pixel_format);
  const std::unique_ptr<SwsContext, SwsFree> scaler(sws_getContext(
      frame.width, frame.height, pixel_format, frame.width, frame.height, AV_PIX_FMT_RGB24,
      SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP | SWS_BITEXACT,
      nullptr, nullptr, nullptr));
  if (description == nullptr || scaler == nullptr) {
    return refuse(Code::kUnsupported, path, "has pixels that cannot be converted to RGB");
  }
  const ColorModel model = color_model(frame, *description);
  const int* matrix = sws_getCoefficients(model.matrix);
  // Refused for RGB sources, which need no matrix.
  (void)sws_setColorspaceDetails(scaler.get(), matrix, model.full_range, matrix, 1, 0, 1 << 16,
                                 1 << 16);

  // swscale may write a few bytes past a row: rows are padded, and copied out without the padding.
  const int row_bytes = frame.width * 3;
  const int padded_bytes = (row_bytes + 63) / 64 * 64;
  std::vector<uint8_t> rows(static_cast<size_t>(padded_bytes) * static_cast<size_t>(frame.height) +
                            64);
  uint8_t* const targets[4] = {rows.data()};
  const int strides[4] = {padded_bytes};
  const int height =
      sws_scale(scaler.get(), frame.data, frame.linesize, 0, frame.height, targets, strides);
  if (height != frame.height) return refuse(Code::kDataLoss, path, "could not be converted to RGB");

  Image image{frame.width, frame.height, {}};
  image.rgb.reserve(static_cast<size_t>(row_bytes) * static_cast<size_t>(frame.height));
  for (int y = 0; y < frame.height; ++y) {
    const uint8_t* row = rows.data() + static_cast<size_t>(y) * static_cast<size_t>(padded_bytes);
    image.rgb.insert(image.rgb.end(), row, row + row_bytes);
  }
  return turn_image(std::move(image), quarter_turns);
}

// Clockwise quarter turns that set the frames upright, 0..3.
int quarter_turns_of(const AVStream* stream) {
  const uint8_t* matrix = av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, nullptr);
  if (matrix == nullptr) return 0;
  const double degrees = -av_display_rotation_get(reinterpret_cast<const int32_t*>(matrix));
  if (!(degrees >= -360 && degrees <= 360)) return 0;  // also NaN: a singular matrix
  return (static_cast<int>(degrees + 360 + 45) / 90) % 4;
}

// Decodes from the start and gives the frames whose indices stand in `taken`, ascending.
class CodedReader : public VideoReader {
 public:
  // `strict`: every error counts. Errors: those of open_source and open_codec.
  static Result<std::unique_ptr<CodedReader>> open(const std::filesystem::path& path,
                                                   std::vector<int64_t> taken,
                                                   double frames_per_second, bool strict) {
    VKV_TRY_ASSIGN(source, open_source(path));
    VKV_TRY_ASSIGN(codec, open_codec(path, source, strict));
    return std::unique_ptr<CodedReader>(new CodedReader(path, std::move(taken), frames_per_second,
                                                        std::move(source), std::move(codec)));
  }

  Result<Image> next() override {
    VKV_CHECK(next_ < taken_.size());
    while (true) {
      // 1. Take what the decoder has.
      const int error = avcodec_receive_frame(codec_.get(), frame_.get());
      if (error == 0) {
        VKV_TRY(check_frame());
        if (index_++ != taken_[next_]) continue;
        ++next_;
        return to_image(path_, *frame_, quarter_turns_);
      }
      if (error == AVERROR_EOF) return damaged("its frames end early");
      if (error != AVERROR(EAGAIN)) return damaged(error_text(error));

      // 2. It wants a packet; none is the sign that there are no more.
      VKV_TRY_ASSIGN(more, next_packet(path_, source_, packet_.get()));
      const int refused = avcodec_send_packet(codec_.get(), more ? packet_.get() : nullptr);
      if (refused < 0) return damaged(error_text(refused));
    }
  }

 private:
  CodedReader(const std::filesystem::path& path, std::vector<int64_t> taken,
              double frames_per_second, Source source, Decoder codec)
      : VideoReader(static_cast<int64_t>(taken.size()), frames_per_second),
        path_(path),
        taken_(std::move(taken)),
        source_(std::move(source)),
        codec_(std::move(codec)),
        quarter_turns_(quarter_turns_of(source_.stream)) {}

  Status damaged(std::string_view why) const {
    return refuse(Code::kDataLoss, path_,
                  fmt::format("is damaged or truncated after {} good frames: {}", index_, why));
  }

  Status check_frame() const {
    if (frame_->decode_error_flags != 0 || (frame_->flags & AV_FRAME_FLAG_CORRUPT) != 0)
      return damaged("a frame is incomplete");
    return {};
  }

  const std::filesystem::path path_;
  const std::vector<int64_t> taken_;
  const Source source_;
  const Decoder codec_;  // freed before the source
  const Packet packet_{av_packet_alloc()};
  const Frame frame_{av_frame_alloc()};
  const int quarter_turns_;
  size_t next_ = 0;    // of taken_
  int64_t index_ = 0;  // of the next frame to come out of the decoder
};

}  // namespace

Result<Image> decode_image(const std::filesystem::path& path) {
  VKV_TRY_ASSIGN(source, open_source(path));
  VKV_TRY_ASSIGN(seconds, frame_seconds(path, source));
  if (seconds.empty()) return refuse(Code::kDataLoss, path, "has no picture in it");
  if (seconds.size() > 1) {
    return refuse(Code::kInvalidArgument, path,
                  fmt::format("has {} frames; an image has one (give it as a video instead)",
                              seconds.size()));
  }
  VKV_TRY_ASSIGN(reader, CodedReader::open(path, {0}, 0, /*strict=*/true));
  return reader->next();
}

Result<std::unique_ptr<VideoReader>> open_coded_video(const std::filesystem::path& path,
                                                      const VideoSampling& sampling) {
  VKV_TRY_ASSIGN(source, open_source(path));
  VKV_TRY_ASSIGN(seconds, frame_seconds(path, source));
  if (seconds.empty()) return refuse(Code::kInvalidArgument, path, "has zero frames");
  VKV_TRY_ASSIGN(indices, select_frames(seconds, sampling));
  // Every error counts in a single picture. In a video decoders go on after small ones, and say so.
  const double rate = frame_rate(seconds, indices.size());
  VKV_TRY_ASSIGN(reader,
                 CodedReader::open(path, std::move(indices), rate, /*strict=*/seconds.size() == 1));
  return std::unique_ptr<VideoReader>(std::move(reader));
}

std::string_view media_decoder_name() {
  static const std::string name = fmt::format("FFmpeg {}", av_version_info());
  return name;
}

}  // namespace vkv
