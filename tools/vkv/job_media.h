// job_media.h: the pictures and videos of a job, ready for the vision tower.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tools/mllm/media_source.h"
#include "tools/mllm/model.h"
#include "tools/mllm/watch.h"
#include "tools/vkv/jobs.h"

namespace vkv {

// The processor of a checkpoint with vision. Errors: those of MediaProcessor::load, and
// kInvalidArgument if it makes pictures that the model does not take.
Result<MediaProcessor> load_media_processor(const std::string& folder, const ModelConfig& config);

MediaFiles job_files(const Job& job);

// In pieces that the model's vision tower takes at once. Processor and model outlive it. As
// FileMedia::open.
Result<std::unique_ptr<FileMedia>> open_job_media(const Job& job, const MediaProcessor& processor,
                                                  const Model& model, const Watch& watch);

// The group of the job's answers: its own, or what its media are: "text", "image", "images-4",
// "video-16".
std::string media_group(const Job& job, int64_t frame_count);

}  // namespace vkv
