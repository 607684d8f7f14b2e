// job_media.h: the pictures and videos of a job, ready for the vision tower.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "tools/mllm/media_processor.h"
#include "tools/mllm/model_config.h"
#include "tools/mllm/watch.h"
#include "tools/vkv/jobs.h"

namespace vkv {

struct JobMedia {
  std::vector<VisualInput> inputs;
  int frame_count = 0;  // pictures, and frames of videos
};

// The processor of a checkpoint with vision. Errors: those of MediaProcessor::load, and
// kInvalidArgument if it makes pictures that the model does not take.
Result<MediaProcessor> load_media_processor(const std::string& folder, const ModelConfig& config);

// Progress counts frames; the total is not known. Errors: those of load_image, load_video and
// MediaProcessor, with the file's name; kCancelled.
Result<JobMedia> load_job_media(const Job& job, const MediaProcessor& processor,
                                const Watch& watch);

// The group of the job's answers: its own, or what its media are: "text", "image", "images-4",
// "video-16".
std::string media_group(const Job& job, int frame_count);

}  // namespace vkv
