// gguf_checkpoint.h: the model in a GGUF file: configuration, weights and tokenizer.
// SPDX-License-Identifier: Apache-2.0
//
// Decoders of architecture llama and qwen2, as llama.cpp's converter writes them.
#pragma once

#include <memory>

#include "tools/mllm/gguf.h"
#include "tools/mllm/model_config.h"
#include "tools/mllm/tokenizer_file.h"
#include "tools/mllm/weights.h"

namespace vkv {

// Errors: kInvalidArgument for a value that is missing or out of range; kUnsupported for another
// architecture, experts or RoPE scaling.
Result<ModelConfig> gguf_model_config(const GgufFile& file);

// Errors: kDataLoss for fields that are missing or contradict each other, kUnsupported for a
// tokenizer model or pre-tokenizer that there is no code for, naming it and what there is.
Result<TokenizerFile> gguf_tokenizer(const GgufFile& file);

// The tensors under their names in transformers. `config` is gguf_model_config(file).
std::unique_ptr<Weights> gguf_weights(GgufFile file, const ModelConfig& config);

}  // namespace vkv
