// vkv.h: the C ABI of VisualKV: all that vkv/cache.h does, for C and what can call C.
// SPDX-License-Identifier: Apache-2.0
//
// What the calls do, in more words, is in vkv/cache.h, vkv/options.h, vkv/stats.h and vkv/saved.h.
// Conventions, which all calls keep:
//
//  1. Status. A call that can fail returns VKV_OK, which is 0, or the reason. A failed call leaves
//     what was there as it was and writes no output, but for `out` of vkv_attend, which then has no
//     meaning.
//  2. Words. vkv_last_error() has those of the last call of this thread that returned a status: ""
//     after VKV_OK. They name the argument, its value and what it may be. Never NULL; valid until
//     the thread's next call. Texts end after 1,023 bytes.
//  3. Handles. A vkv_cache* is a name and no address: none is given twice in a process, so that one
//     that was closed is always recognised (VKV_INVALID_ARGUMENT). The same holds for the sequences
//     of a cache (VKV_NOT_FOUND). NULL is never a handle; vkv_close(NULL) does nothing.
//  4. Structs. The first member of each is struct_size, its sizeof where it was compiled, also in
//     structs that stand inside others. The _init calls set it and all defaults; a struct that is
//     only zeroes has no defaults. An unknown struct_size is refused and nothing else is read.
//  5. Versions. Structs grow at their ends, enums too; nothing that is there moves. A library takes
//     the structs of its own release and of earlier ones with the same vkv_version() / 10000, and
//     refuses longer ones (VKV_UNSUPPORTED). While the first number is 0, minor releases may break
//     all that, and the name of the shared library changes.
//  6. Ownership. What a pointer argument points to is read or written during the call alone (with
//     a stream, k, v, q and out until the stream has done it). Texts and lists that a call hands
//     out are the library's: of a cache, valid until vkv_close; others, always. Nothing is to be
//     freed but caches, by vkv_close, and sequences, by vkv_erase or with their cache.
//  7. Threads. Every call may come from any thread. Calls on one cache run one after another, each
//     parallel inside. vkv_close waits for calls under way; calls that come later find no cache.
//     A cache is of the process that opened it: no use in a child after fork(2).
//  8. Units. Bytes, tokens, seconds; a member's name ends with what it counts. Layers and devices
//     count from 0.
//  9. Numbers. Enums are int32_t members and arguments, booleans int32_t 0 or 1; any other value,
//     a negative count, or a NaN where a number is due, is VKV_INVALID_ARGUMENT. Members named
//     reserved are 0.
// 10. Tensors. Dense, row-major, as the comment beside them says, in elements of options.element,
//     aligned to them. Host memory on VKV_DEVICE_CPU; on VKV_DEVICE_CUDA that device's, with q and
//     out 16-byte aligned, and queued work in order of options.stream.
// 11. Lists. Calls that fill one take an array of `capacity` structs, of which the first tells the
//     struct_size of all, and set *count to how many there are, which may be more; a capacity of 0
//     only asks for that. Arrays that are read have the same struct_size in every element.
// 12. Exceptions of C++ never come out; lack of memory is VKV_OUT_OF_MEMORY, any other one
//     VKV_INTERNAL. Only broken invariants of the library stop the process.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "vkv/version.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum vkv_status {
  VKV_OK = 0,
  VKV_INVALID_ARGUMENT = 1,  // the caller broke a documented requirement
  VKV_UNSUPPORTED = 2,       // legal, but this build, device or version cannot do it
  VKV_OUT_OF_MEMORY = 3,     // a budget is spent; the words name the tier and the need
  VKV_IO = 4,                // a file could not be read or written; the words have errno
  VKV_CUDA = 5,              // a CUDA call failed; the words have its name
  VKV_NOT_FOUND = 6,         // no such sequence or saved sequence
  VKV_DATA_LOSS = 7,         // stored bytes do not match their checksum
  VKV_CANCELLED = 8,         // stopped on the caller's request
  VKV_INTERNAL = 9           // a fault of vkv or of a library below it
} vkv_status;

enum { VKV_ROLE_TEXT = 0, VKV_ROLE_VISUAL = 1, VKV_ROLE_CONTROL = 2, VKV_ROLE_SINK = 3 };
enum { VKV_TIER_HBM = 0, VKV_TIER_DRAM = 1, VKV_TIER_NVME = 2 };
enum {
  VKV_CODEC_F16 = 0,
  VKV_CODEC_BF16 = 1,
  VKV_CODEC_I8 = 2,
  VKV_CODEC_I4 = 3,
  VKV_CODEC_I2 = 4,
  VKV_CODEC_I1 = 5
};
enum { VKV_ELEMENT_F32 = 0, VKV_ELEMENT_F16 = 1, VKV_ELEMENT_BF16 = 2 };
enum { VKV_DEVICE_CPU = 0, VKV_DEVICE_CUDA = 1 };
enum { VKV_KEEP_ORIGINAL_NONE = 0, VKV_KEEP_ORIGINAL_DRAM = 1, VKV_KEEP_ORIGINAL_NVME = 2 };
enum { VKV_QUALITY_COUNT = 0, VKV_QUALITY_PROMOTE = 1 };
enum { VKV_IO_AUTO = 0, VKV_IO_URING = 1, VKV_IO_THREADS = 2 };
enum {
  VKV_FORM_OPEN = 0,
  VKV_FORM_HIGH = 1,
  VKV_FORM_LOW = 2,
  VKV_FORM_PROMOTED = 3,
  VKV_FORM_ORIGINAL = 4
};
enum { VKV_ROLE_COUNT = 4, VKV_TIER_COUNT = 3, VKV_KEY_BYTES = 32, VKV_KEY_HEX_BYTES = 65 };

typedef struct vkv_cache vkv_cache;
typedef uint64_t vkv_sequence;  // never 0

// ---- Texts and versions. None fails, and none changes vkv_last_error().

VKV_API const char* vkv_last_error(void);
VKV_API int32_t vkv_version(void);           // of the library: 10000 major + 100 minor + patch
VKV_API const char* vkv_version_text(void);  // "0.1.0"

// Lower-case words as in vkv/types.h, "unknown" for other numbers.
VKV_API const char* vkv_status_name(int32_t status);  // "ok", "invalid argument" ...
VKV_API const char* vkv_role_name(int32_t role);
VKV_API const char* vkv_tier_name(int32_t tier);
VKV_API const char* vkv_codec_name(int32_t codec);
VKV_API const char* vkv_keep_original_name(int32_t keep_original);
VKV_API const char* vkv_form_name(int32_t form);
VKV_API const char* vkv_preset_name(int32_t index);  // from 0; NULL after the last
VKV_API int32_t vkv_codec_bits(int32_t codec);       // of a value without metadata; 0: no codec

// ---- Precision: in how many bits which token is stored.

// How K and V of a class of tokens are stored.
typedef struct vkv_codec_pair {
  size_t struct_size;
  int32_t k_codec;      // K never gets fewer bits than V
  int32_t v_codec;      //
  int32_t k_rotated;    // by a Hadamard matrix: K I2 or I1, head_dim a power of two
  int32_t v_per_token;  // scales of V per token instead of per channel: V I8 or less
  float k_spread;       // 0.5..4, other than 1 for I4, I2, I1: how far levels are moved apart
  float v_spread;
} vkv_codec_pair;

// What one layer does instead of the policy's own pairs.
typedef struct vkv_layer_precision {
  size_t struct_size;
  int32_t layer;
  int32_t reserved;
  vkv_codec_pair high;
  vkv_codec_pair low;
} vkv_layer_precision;

typedef struct vkv_policy {
  size_t struct_size;
  const char* name;  // for messages; NULL: "unnamed"
  vkv_codec_pair high;
  vkv_codec_pair low;
  double high_fraction;               // 0..1 of all tokens; sinks, text and control count first
  double visual_high_fraction_max;    // 0..1 of the visual tokens
  double sink_sigmas;                 // a key this far from the mean is a sink; 0: none is
  int32_t sink_tokens;                // 0..64, the first tokens of a sequence
  int32_t segment_headers;            // one header for the low tokens of a prefill window
  const vkv_layer_precision* layers;  // [layer_count], each layer at most once; NULL if none
  int64_t layer_count;
} vkv_policy;

// Fills *policy with a preset: exact, safe, balanced, visual2, visual1, extreme, onebit; `policy`
// is written in full, its struct_size set from the argument. Change members, and vkv_open takes it.
// Errors: VKV_INVALID_ARGUMENT, listing the names there are.
VKV_API vkv_status vkv_policy_init(vkv_policy* policy, size_t struct_size, const char* preset);

// Errors: VKV_INVALID_ARGUMENT naming the member and what it may be.
VKV_API vkv_status vkv_policy_validate(const vkv_policy* policy);

// The pairs of one layer, its override or the policy's own; layer->struct_size is set before.
VKV_API vkv_status vkv_policy_layer(const vkv_policy* policy, int32_t layer_index,
                                    vkv_layer_precision* layer);

// ---- Options: every knob of a cache.

typedef struct vkv_options {
  size_t struct_size;

  // One attention geometry for all layers of a model.
  int32_t layers;
  int32_t q_heads;
  int32_t kv_heads;      // q_heads is a multiple of it
  int32_t head_dim;      // a multiple of 8, 8..256
  int32_t element;       // VKV_ELEMENT_..., of q, k, v and out
  int32_t open_codec;    // F16 or BF16: tokens before they are encoded
  float score_scale;     // 0: 1/sqrt(head_dim)
  int32_t device;        // VKV_DEVICE_...
  int32_t device_index;  // CUDA's, among the visible devices
  int32_t reserved;
  void* stream;  // a cudaStream_t of that device, or NULL: then calls wait

  // A preset by name or a policy of one's own, not both. Both NULL: "exact", nothing is encoded.
  const char* preset;
  const vkv_policy* policy;
  int32_t keep_original;  // VKV_KEEP_ORIGINAL_...: 16-bit originals for later questions
  int32_t recent_tokens;  // 16..4096, kept at 16 bit; what vkv_truncate can always drop

  // Samples of the error that encoding makes.
  double quality_sample_fraction;  // of layers and steps, 0..1
  double quality_error_bound;      // of a head: ||out - exact|| / ||exact||; 0: none
  int32_t quality_action;          // above the bound; VKV_QUALITY_PROMOTE needs keep_original

  int32_t keep_store;             // the store file stays, with the sequences that were saved
  uint64_t hbm_bytes_max;         // CUDA alone, needed there: all that lies in GPU memory
  uint64_t hbm_block_bytes_max;   // of it, for encoded blocks; UINT64_MAX: all that is left
  uint64_t hbm_ahead_bytes;       // of it, for blocks on their way from DRAM; UINT64_MAX: 64 MiB
  uint64_t dram_bytes_max;        // records, open tokens, staging, headers, tables
  uint64_t dram_block_bytes_max;  // of it, for encoded blocks; UINT64_MAX: all
  uint64_t nvme_bytes_max;        // 0: no NVMe tier
  const char* store_path;         // the NVMe tier's file; NULL without that tier
  uint64_t extent_bytes_max;      // unit of moving, 4 KiB..16 MiB
  int32_t prefetch_extents;       // read ahead, 2..64, CUDA 2..8192; 0: as the DRAM budget allows
  int32_t io_backend;             // VKV_IO_...
  double host_share;              // of CUDA steps' DRAM reads, for the CPU: 0..1; -1: measured
  int32_t threads;                // 0: all that the process may use
  int32_t reserved_2;
  uint64_t nvme_write_bytes_per_day;  // to the store's file; UINT64_MAX: no limit
} vkv_options;

// Sets struct_size and every default; layers, q_heads, kv_heads and head_dim are left to be set.
VKV_API vkv_status vkv_options_init(vkv_options* options, size_t struct_size);

// Whether that geometry can be; vkv_open checks it too.
VKV_API vkv_status vkv_shape_validate(int32_t layers, int32_t q_heads, int32_t kv_heads,
                                      int32_t head_dim);

// ---- Caches.

// Errors: VKV_INVALID_ARGUMENT for options out of range, VKV_OUT_OF_MEMORY for budgets too small
// for one block and its staging, VKV_IO, VKV_UNSUPPORTED for what this build lacks, VKV_CUDA.
VKV_API vkv_status vkv_open(const vkv_options* options, vkv_cache** cache);

// Frees the cache, its sequences and, without keep_store, its store file.
VKV_API vkv_status vkv_close(vkv_cache* cache);

// As opened, defaults filled in: preset NULL, policy and store_path the cache's own.
// options->struct_size is set before.
VKV_API vkv_status vkv_get_options(vkv_cache* cache, vkv_options* options);

VKV_API vkv_status vkv_get_engine(vkv_cache* cache, const char** name);  // "cpu-onednn (...)"
VKV_API vkv_status vkv_get_io_engine(vkv_cache* cache,
                                     const char** name);  // "io_uring", "none" ...

// ---- Sequences.

VKV_API vkv_status vkv_create_sequence(vkv_cache* cache, vkv_sequence* sequence);

// A sequence with the same tokens: blocks are shared, open tokens copied. Every layer has the same
// number of tokens then.
VKV_API vkv_status vkv_fork(vkv_cache* cache, vkv_sequence parent, vkv_sequence* child);

VKV_API vkv_status vkv_erase(vkv_cache* cache, vkv_sequence sequence);

// Drops the newest tokens of every layer. Errors: VKV_UNSUPPORTED, naming how many can go.
VKV_API vkv_status vkv_truncate(vkv_cache* cache, vkv_sequence sequence, int64_t token_count);

// ---- Steps of a model: for each layer in order vkv_append, then vkv_attend.

// K (after RoPE) and V of new tokens of one layer.
typedef struct vkv_append_request {
  size_t struct_size;
  vkv_sequence sequence;
  int64_t token_count;   // 1 or more
  const void* k;         // [token_count, kv_heads, head_dim]
  const void* v;         // [token_count, kv_heads, head_dim]
  const uint8_t* roles;  // [token_count] VKV_ROLE_...; the same for every layer
} vkv_append_request;

// Queries of the newest q_len tokens of a sequence; query i sees all tokens up to its own.
typedef struct vkv_attend_request {
  size_t struct_size;
  vkv_sequence sequence;
  int64_t q_len;        // 1 or more
  const void* q;        // [q_len, q_heads, head_dim]
  void* out;            // [q_len, q_heads, head_dim]
  int32_t ends_window;  // 1 for the last chunk of a prompt, 0 for others and for decode steps
  int32_t reserved;
} vkv_attend_request;

// Errors: VKV_NOT_FOUND; VKV_INVALID_ARGUMENT for layers out of step, roles that differ, values
// that are not finite or overflow 16 bit; VKV_OUT_OF_MEMORY naming the tier and the need.
VKV_API vkv_status vkv_append(vkv_cache* cache, int32_t layer, const vkv_append_request* request);

// The same for several sequences, which on a GPU is one launch for all; requests: [request_count],
// each sequence once. After an error nothing was appended to any.
VKV_API vkv_status vkv_append_batch(vkv_cache* cache, int32_t layer,
                                    const vkv_append_request* requests, int64_t request_count);

// Attention of several sequences in one call; requests: [request_count], each sequence once.
// Errors: as vkv_append's; VKV_IO and VKV_DATA_LOSS naming the sequence.
VKV_API vkv_status vkv_attend(vkv_cache* cache, int32_t layer, const vkv_attend_request* requests,
                              int64_t request_count);

// With options.stream, before results are used: waits for the stream and says what the device
// found wrong with appended values. Otherwise does nothing.
VKV_API vkv_status vkv_settle(vkv_cache* cache);

// ---- Sequences that outlive the process, with options.keep_store; VKV_UNSUPPORTED without. A key
// has VKV_KEY_BYTES bytes: SHA-256 over all that the sequence's K and V depend on.

// Keeps the sequence as it is now; once it returns VKV_OK it survives kill -9 and a power failure.
VKV_API vkv_status vkv_save(vkv_cache* cache, vkv_sequence sequence, const uint8_t* key);

// Errors: VKV_NOT_FOUND; VKV_INVALID_ARGUMENT if saved with other options; VKV_DATA_LOSS.
VKV_API vkv_status vkv_restore(vkv_cache* cache, const uint8_t* key, vkv_sequence* sequence);

VKV_API vkv_status vkv_erase_saved(vkv_cache* cache, const uint8_t* key);

typedef struct vkv_saved_sequence {
  size_t struct_size;
  uint8_t key[VKV_KEY_BYTES];
  uint64_t token_count;
  uint64_t byte_count;   // on disk; what sequences share counts for each
  uint64_t saved_at;     // seconds since 1970
  int32_t fits_options;  // 1: vkv_restore takes it
  int32_t reserved;
} vkv_saved_sequence;

// A list (convention 11), by key.
VKV_API vkv_status vkv_saved(vkv_cache* cache, vkv_saved_sequence* list, int64_t capacity,
                             int64_t* count);

// 64 lower-case digits and a zero; text: [VKV_KEY_HEX_BYTES].
VKV_API vkv_status vkv_key_to_hex(const uint8_t* key, char* text);

// ---- What a cache counted.

typedef struct vkv_tier_stats {
  size_t struct_size;
  uint64_t bytes_used;
  uint64_t bytes_peak;
  uint64_t bytes_max;  // the budget
  uint64_t extent_count;
  uint64_t original_bytes;  // of bytes_used: 16-bit originals
} vkv_tier_stats;

typedef struct vkv_stats {
  size_t struct_size;
  vkv_tier_stats tier[VKV_TIER_COUNT];  // by VKV_TIER_...
  uint64_t sequence_count;
  uint64_t attend_count;
  uint64_t sealed_token_count;  // tokens x layers encoded so far
  uint64_t demoted_bytes;       // hbm -> dram -> nvme, where the budget was reached
  uint64_t nvme_read_bytes;
  uint64_t nvme_written_bytes;
  uint64_t nvme_read_count;       // extents
  uint64_t prefetch_hit_count;    // of them, asked for before they were needed
  uint64_t prefetch_ready_count;  // of them, there when needed
  double nvme_wait_seconds;
  uint64_t host_read_bytes;   // on CUDA, of what steps read in DRAM: by the CPU
  uint64_t link_read_bytes;   // by the GPU, attending
  uint64_t ahead_read_bytes;  // and ahead of that
  double host_read_rate;      // bytes a second, lately
  double link_read_rate;
  double ahead_read_rate;
  double attend_seconds;
  double encode_seconds;
  uint64_t quality_sample_count;  // the quality meter: see vkv/options.h
  uint64_t quality_error_count;
  double quality_error_mean;  // ||out - exact|| / ||exact||
  double quality_error_max;
  uint64_t quality_over_bound_count;
  uint64_t quality_promotion_count;
  uint64_t nvme_payload_bytes;  // of nvme_written_bytes: records and states, not their rounding
  uint64_t nvme_index_written_bytes;  // beside nvme_written_bytes
  uint64_t nvme_write_bytes_left;     // of the day's budget, now; UINT64_MAX: no limit
  uint64_t nvme_refused_save_count;   // by that budget
  uint64_t risen_bytes;               // nvme -> dram -> hbm, where there was room again
} vkv_stats;

// stats->struct_size is set before.
VKV_API vkv_status vkv_get_stats(vkv_cache* cache, vkv_stats* stats);

// Storage of the tokens of one role, summed over layers, KV heads, K and V.
typedef struct vkv_role_stats {
  size_t struct_size;
  uint64_t token_count;  // not times layers
  uint64_t value_count;
  uint64_t stored_bits;  // with headers, padding, tables, means, masks and promoted copies
  uint64_t sealed_value_count;
  uint64_t sealed_stored_bits;
  uint64_t nvme_value_count;
  uint64_t high_value_count;
  uint64_t promoted_value_count;
  uint64_t original_bits;  // a tier's cost, not in stored_bits
} vkv_role_stats;

typedef struct vkv_sequence_stats {
  size_t struct_size;
  uint64_t token_count;
  uint64_t open_token_count;            // of layer 0
  vkv_role_stats role[VKV_ROLE_COUNT];  // by VKV_ROLE_...
} vkv_sequence_stats;

// stats->struct_size is set before. Errors: VKV_NOT_FOUND.
VKV_API vkv_status vkv_get_sequence_stats(vkv_cache* cache, vkv_sequence sequence,
                                          vkv_sequence_stats* stats);

// Tokens of one role, form and codec pair, summed over layers.
typedef struct vkv_form_stats {
  size_t struct_size;
  int32_t role;  // VKV_ROLE_...
  int32_t form;  // VKV_FORM_...
  int32_t k_codec;
  int32_t v_codec;
  uint64_t token_count;  // times layers
  uint64_t byte_count;   // with headers, padding, tables and masks
} vkv_form_stats;

// A list (convention 11) of those that occur. Errors: VKV_NOT_FOUND.
VKV_API vkv_status vkv_sequence_forms(vkv_cache* cache, vkv_sequence sequence, vkv_form_stats* list,
                                      int64_t capacity, int64_t* count);

#ifdef __cplusplus
}  // extern "C"
#endif
