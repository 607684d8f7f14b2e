/* The C ABI's layout does not move: sizes and places of members, and the numbers of its enums. What
 * this file says may only be added to while VKV_VERSION keeps its first numbers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/c_tests.h"
#include "vkv/vkv.h"

#define SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " has another size")
#define FIRST(type) \
  _Static_assert(offsetof(type, struct_size) == 0, #type " does not begin with struct_size")
#define AT(type, member, offset) \
  _Static_assert(offsetof(type, member) == (offset), #type "." #member " has moved")
#define NUMBER(name, number) _Static_assert((int)(name) == (number), #name " has another number")

SIZE(vkv_sequence, 8);
SIZE(vkv_status, 4);

SIZE(vkv_codec_pair, 32);
FIRST(vkv_codec_pair);
AT(vkv_codec_pair, k_codec, 8);
AT(vkv_codec_pair, v_codec, 12);
AT(vkv_codec_pair, k_rotated, 16);
AT(vkv_codec_pair, v_per_token, 20);
AT(vkv_codec_pair, k_spread, 24);
AT(vkv_codec_pair, v_spread, 28);

SIZE(vkv_layer_precision, 80);
FIRST(vkv_layer_precision);
AT(vkv_layer_precision, layer, 8);
AT(vkv_layer_precision, reserved, 12);
AT(vkv_layer_precision, high, 16);
AT(vkv_layer_precision, low, 48);

SIZE(vkv_policy, 128);
FIRST(vkv_policy);
AT(vkv_policy, name, 8);
AT(vkv_policy, high, 16);
AT(vkv_policy, low, 48);
AT(vkv_policy, high_fraction, 80);
AT(vkv_policy, visual_high_fraction_max, 88);
AT(vkv_policy, sink_sigmas, 96);
AT(vkv_policy, sink_tokens, 104);
AT(vkv_policy, segment_headers, 108);
AT(vkv_policy, layers, 112);
AT(vkv_policy, layer_count, 120);

SIZE(vkv_options, 200);
FIRST(vkv_options);
AT(vkv_options, layers, 8);
AT(vkv_options, q_heads, 12);
AT(vkv_options, kv_heads, 16);
AT(vkv_options, head_dim, 20);
AT(vkv_options, element, 24);
AT(vkv_options, open_codec, 28);
AT(vkv_options, score_scale, 32);
AT(vkv_options, device, 36);
AT(vkv_options, device_index, 40);
AT(vkv_options, reserved, 44);
AT(vkv_options, stream, 48);
AT(vkv_options, preset, 56);
AT(vkv_options, policy, 64);
AT(vkv_options, keep_original, 72);
AT(vkv_options, recent_tokens, 76);
AT(vkv_options, quality_sample_fraction, 80);
AT(vkv_options, quality_error_bound, 88);
AT(vkv_options, quality_action, 96);
AT(vkv_options, keep_store, 100);
AT(vkv_options, hbm_bytes_max, 104);
AT(vkv_options, hbm_block_bytes_max, 112);
AT(vkv_options, hbm_ahead_bytes, 120);
AT(vkv_options, dram_bytes_max, 128);
AT(vkv_options, dram_block_bytes_max, 136);
AT(vkv_options, nvme_bytes_max, 144);
AT(vkv_options, store_path, 152);
AT(vkv_options, extent_bytes_max, 160);
AT(vkv_options, prefetch_extents, 168);
AT(vkv_options, io_backend, 172);
AT(vkv_options, host_share, 176);
AT(vkv_options, threads, 184);
AT(vkv_options, reserved_2, 188);
AT(vkv_options, nvme_write_bytes_per_day, 192);

SIZE(vkv_append_request, 48);
FIRST(vkv_append_request);
AT(vkv_append_request, sequence, 8);
AT(vkv_append_request, token_count, 16);
AT(vkv_append_request, k, 24);
AT(vkv_append_request, v, 32);
AT(vkv_append_request, roles, 40);

SIZE(vkv_attend_request, 48);
FIRST(vkv_attend_request);
AT(vkv_attend_request, sequence, 8);
AT(vkv_attend_request, q_len, 16);
AT(vkv_attend_request, q, 24);
AT(vkv_attend_request, out, 32);
AT(vkv_attend_request, ends_window, 40);
AT(vkv_attend_request, reserved, 44);

SIZE(vkv_saved_sequence, 72);
FIRST(vkv_saved_sequence);
AT(vkv_saved_sequence, key, 8);
AT(vkv_saved_sequence, token_count, 40);
AT(vkv_saved_sequence, byte_count, 48);
AT(vkv_saved_sequence, saved_at, 56);
AT(vkv_saved_sequence, fits_options, 64);
AT(vkv_saved_sequence, reserved, 68);

SIZE(vkv_tier_stats, 48);
FIRST(vkv_tier_stats);
AT(vkv_tier_stats, bytes_used, 8);
AT(vkv_tier_stats, bytes_peak, 16);
AT(vkv_tier_stats, bytes_max, 24);
AT(vkv_tier_stats, extent_count, 32);
AT(vkv_tier_stats, original_bytes, 40);

SIZE(vkv_stats, 384);
FIRST(vkv_stats);
AT(vkv_stats, tier, 8);
AT(vkv_stats, sequence_count, 152);
AT(vkv_stats, attend_count, 160);
AT(vkv_stats, sealed_token_count, 168);
AT(vkv_stats, demoted_bytes, 176);
AT(vkv_stats, nvme_read_bytes, 184);
AT(vkv_stats, nvme_written_bytes, 192);
AT(vkv_stats, nvme_read_count, 200);
AT(vkv_stats, prefetch_hit_count, 208);
AT(vkv_stats, prefetch_ready_count, 216);
AT(vkv_stats, nvme_wait_seconds, 224);
AT(vkv_stats, host_read_bytes, 232);
AT(vkv_stats, link_read_bytes, 240);
AT(vkv_stats, ahead_read_bytes, 248);
AT(vkv_stats, host_read_rate, 256);
AT(vkv_stats, link_read_rate, 264);
AT(vkv_stats, ahead_read_rate, 272);
AT(vkv_stats, attend_seconds, 280);
AT(vkv_stats, encode_seconds, 288);
AT(vkv_stats, quality_sample_count, 296);
AT(vkv_stats, quality_error_count, 304);
AT(vkv_stats, quality_error_mean, 312);
AT(vkv_stats, quality_error_max, 320);
AT(vkv_stats, quality_over_bound_count, 328);
AT(vkv_stats, quality_promotion_count, 336);
AT(vkv_stats, nvme_payload_bytes, 344);
AT(vkv_stats, nvme_index_written_bytes, 352);
AT(vkv_stats, nvme_write_bytes_left, 360);
AT(vkv_stats, nvme_refused_save_count, 368);
AT(vkv_stats, risen_bytes, 376);

SIZE(vkv_role_stats, 80);
FIRST(vkv_role_stats);
AT(vkv_role_stats, token_count, 8);
AT(vkv_role_stats, value_count, 16);
AT(vkv_role_stats, stored_bits, 24);
AT(vkv_role_stats, sealed_value_count, 32);
AT(vkv_role_stats, sealed_stored_bits, 40);
AT(vkv_role_stats, nvme_value_count, 48);
AT(vkv_role_stats, high_value_count, 56);
AT(vkv_role_stats, promoted_value_count, 64);
AT(vkv_role_stats, original_bits, 72);

SIZE(vkv_sequence_stats, 344);
FIRST(vkv_sequence_stats);
AT(vkv_sequence_stats, token_count, 8);
AT(vkv_sequence_stats, open_token_count, 16);
AT(vkv_sequence_stats, role, 24);

SIZE(vkv_form_stats, 40);
FIRST(vkv_form_stats);
AT(vkv_form_stats, role, 8);
AT(vkv_form_stats, form, 12);
AT(vkv_form_stats, k_codec, 16);
AT(vkv_form_stats, v_codec, 20);
AT(vkv_form_stats, token_count, 24);
AT(vkv_form_stats, byte_count, 32);

NUMBER(VKV_OK, 0);
NUMBER(VKV_INVALID_ARGUMENT, 1);
NUMBER(VKV_UNSUPPORTED, 2);
NUMBER(VKV_OUT_OF_MEMORY, 3);
NUMBER(VKV_IO, 4);
NUMBER(VKV_CUDA, 5);
NUMBER(VKV_NOT_FOUND, 6);
NUMBER(VKV_DATA_LOSS, 7);
NUMBER(VKV_CANCELLED, 8);
NUMBER(VKV_INTERNAL, 9);
NUMBER(VKV_KEY_BYTES, 32);
NUMBER(VKV_KEY_HEX_BYTES, 65);

/* The rest of the numbers, through the words that the library has for them. */
void numbers_have_the_words_of_the_library(void) {
  CHECK_TEXT(vkv_status_name(VKV_OK), "ok");
  CHECK_TEXT(vkv_status_name(VKV_DATA_LOSS), "data loss");
  CHECK_TEXT(vkv_status_name(VKV_INTERNAL), "internal");
  CHECK_TEXT(vkv_status_name(10), "unknown");
  CHECK_TEXT(vkv_status_name(-1), "unknown");
  CHECK_TEXT(vkv_role_name(VKV_ROLE_TEXT), "text");
  CHECK_TEXT(vkv_role_name(VKV_ROLE_VISUAL), "visual");
  CHECK_TEXT(vkv_role_name(VKV_ROLE_CONTROL), "control");
  CHECK_TEXT(vkv_role_name(VKV_ROLE_SINK), "sink");
  CHECK_TEXT(vkv_role_name(VKV_ROLE_COUNT), "unknown");
  CHECK_TEXT(vkv_tier_name(VKV_TIER_HBM), "hbm");
  CHECK_TEXT(vkv_tier_name(VKV_TIER_DRAM), "dram");
  CHECK_TEXT(vkv_tier_name(VKV_TIER_NVME), "nvme");
  CHECK_TEXT(vkv_codec_name(VKV_CODEC_F16), "f16");
  CHECK_TEXT(vkv_codec_name(VKV_CODEC_BF16), "bf16");
  CHECK_TEXT(vkv_codec_name(VKV_CODEC_I8), "i8");
  CHECK_TEXT(vkv_codec_name(VKV_CODEC_I4), "i4");
  CHECK_TEXT(vkv_codec_name(VKV_CODEC_I2), "i2");
  CHECK_TEXT(vkv_codec_name(VKV_CODEC_I1), "i1");
  CHECK(vkv_codec_bits(VKV_CODEC_I2) == 2);
  CHECK(vkv_codec_bits(VKV_CODEC_BF16) == 16);
  CHECK(vkv_codec_bits(99) == 0);
  CHECK_TEXT(vkv_keep_original_name(VKV_KEEP_ORIGINAL_NVME), "nvme");
  CHECK_TEXT(vkv_form_name(VKV_FORM_OPEN), "open");
  CHECK_TEXT(vkv_form_name(VKV_FORM_ORIGINAL), "original");
}

void headers_and_library_are_of_one_version(void) {
  CHECK_TEXT(vkv_version_text(), VKV_VERSION);
  CHECK(vkv_version() == VKV_VERSION_MAJOR * 10000 + VKV_VERSION_MINOR * 100 + VKV_VERSION_PATCH);
}
