// c_api.cpp: the calls of vkv.h on caches: checks, one call of the C++ API, results as C structs.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "runtime/c_call.h"
#include "runtime/c_handles.h"
#include "runtime/c_structs.h"

namespace vkv {
namespace {

using Use = CacheHandles::Use;

constexpr int64_t kTokensMax = int64_t{1} << 30;  // of a sequence, so of a call
constexpr int64_t kRequestsMax = int64_t{1} << 20;
constexpr int64_t kListMax = std::numeric_limits<int64_t>::max();

Result<Use> use(vkv_cache* cache) { return CacheHandles::all().use(cache); }

Status not_null(const char* argument, const void* pointer) {
  return check_pointer(argument, pointer, 1);
}

// Writes `made` to *target, which the caller had prepared with its struct_size.
template <class T>
Status write_struct(const char* argument, T* target, const T& made) {
  VKV_TRY(check_struct(argument, target));
  *target = made;
  return {};
}

// Convention 11; a `Source` is made a struct of the list by `in_c`.
template <class T, class Source>
Status write_list(const std::vector<Source>& all, T (*in_c)(const Source&), T* list,
                  int64_t capacity, int64_t* count) {
  const size_t filled = std::min(all.size(), static_cast<size_t>(capacity));
  for (size_t i = 0; i < filled; ++i) list[i] = in_c(all[i]);
  *count = static_cast<int64_t>(all.size());
  return {};
}

template <class T>
Status check_list(const T* list, int64_t capacity, const int64_t* count) {
  VKV_TRY(check_pointer("count", count, alignof(int64_t)));
  VKV_TRY(check_range("capacity", capacity, 0, kListMax));
  return capacity == 0 ? Status() : check_struct("list[0]", list);
}

Result<SequenceKey> read_key(const uint8_t* key) {
  VKV_TRY(not_null("key", key));
  SequenceKey read;
  std::copy(key, key + VKV_KEY_BYTES, read.bytes.begin());
  return read;
}

Status write_sequence(const Result<SequenceId>& made, vkv_sequence* target) {
  VKV_TRY(made.status());
  *target = static_cast<vkv_sequence>(made.value());
  return {};
}

Status check_sequence_out(const char* argument, const vkv_sequence* target) {
  return check_pointer(argument, target, alignof(vkv_sequence));
}

Result<AppendRequest> read_append(const std::string& where, const vkv_append_request* given,
                                  ElementType element) {
  VKV_TRY(check_struct(where, given));
  VKV_TRY(check_range(where + ".token_count", given->token_count, 1, kTokensMax));
  VKV_TRY(check_pointer(where + ".k", given->k, bytes_of(element)));
  VKV_TRY(check_pointer(where + ".v", given->v, bytes_of(element)));
  VKV_TRY(check_pointer(where + ".roles", given->roles, 1));
  return AppendRequest{.sequence = SequenceId{given->sequence},
                       .token_count = static_cast<int>(given->token_count),
                       .k = given->k,
                       .v = given->v,
                       .roles = {reinterpret_cast<const Role*>(given->roles),
                                 static_cast<size_t>(given->token_count)}};
}

Result<std::vector<AttendRequest>> read_attends(const vkv_attend_request* given, int64_t count,
                                                ElementType element) {
  VKV_TRY(check_range("request_count", count, 1, kRequestsMax));
  VKV_TRY(check_pointer("requests", given, alignof(vkv_attend_request)));
  std::vector<AttendRequest> requests;
  for (int64_t i = 0; i < count; ++i) {
    const vkv_attend_request& one = given[i];
    const std::string where = "requests[" + std::to_string(i) + "]";
    VKV_TRY(check_struct_size(where, one.struct_size, sizeof(one)));
    VKV_TRY(check_range(where + ".q_len", one.q_len, 1, kTokensMax));
    VKV_TRY(check_pointer(where + ".q", one.q, bytes_of(element)));
    VKV_TRY(check_pointer(where + ".out", one.out, bytes_of(element)));
    VKV_TRY(check_range(where + ".reserved", one.reserved, 0, 0));
    AttendRequest request{.sequence = SequenceId{one.sequence},
                          .q_len = static_cast<int>(one.q_len),
                          .q = one.q,
                          .out = one.out};
    VKV_TRY(read_bool(where + ".ends_window", one.ends_window, request.ends_window));
    requests.push_back(request);
  }
  return requests;
}

}  // namespace
}  // namespace vkv

using namespace vkv;

vkv_status vkv_open(const vkv_options* options, vkv_cache** cache) {
  return c_call([&]() -> Status {
    VKV_TRY(check_pointer("cache", cache, alignof(vkv_cache*)));
    CacheOptions read;
    VKV_TRY(read_options(options, read));
    VKV_TRY_ASSIGN(opened, Cache::open(read));
    *cache = CacheHandles::all().add(std::move(opened));
    return {};
  });
}

vkv_status vkv_close(vkv_cache* cache) {
  return c_call([&] { return cache ? CacheHandles::all().close(cache) : Status(); });
}

vkv_status vkv_get_options(vkv_cache* cache, vkv_options* options) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    return write_struct("options", options, used.opened().options.get());
  });
}

vkv_status vkv_get_engine(vkv_cache* cache, const char** name) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    VKV_TRY(check_pointer("name", name, alignof(const char*)));
    *name = used.opened().engine.c_str();
    return {};
  });
}

vkv_status vkv_get_io_engine(vkv_cache* cache, const char** name) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    VKV_TRY(check_pointer("name", name, alignof(const char*)));
    *name = used.opened().io_engine.c_str();
    return {};
  });
}

vkv_status vkv_create_sequence(vkv_cache* cache, vkv_sequence* sequence) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    VKV_TRY(check_sequence_out("sequence", sequence));
    return write_sequence(used->create_sequence(), sequence);
  });
}

vkv_status vkv_fork(vkv_cache* cache, vkv_sequence parent, vkv_sequence* child) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    VKV_TRY(check_sequence_out("child", child));
    return write_sequence(used->fork(SequenceId{parent}), child);
  });
}

vkv_status vkv_erase(vkv_cache* cache, vkv_sequence sequence) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    return used->erase(SequenceId{sequence});
  });
}

vkv_status vkv_truncate(vkv_cache* cache, vkv_sequence sequence, int64_t token_count) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    VKV_TRY(check_range("token_count", token_count, 0, kTokensMax));
    return used->truncate(SequenceId{sequence}, static_cast<int>(token_count));
  });
}

vkv_status vkv_append(vkv_cache* cache, int32_t layer, const vkv_append_request* request) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    VKV_TRY_ASSIGN(read, read_append("request", request, used->options().element));
    return used->append(layer, read);
  });
}

vkv_status vkv_append_batch(vkv_cache* cache, int32_t layer, const vkv_append_request* requests,
                            int64_t request_count) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    VKV_TRY(check_range("request_count", request_count, 1, kRequestsMax));
    VKV_TRY(check_pointer("requests", requests, alignof(vkv_append_request)));
    std::vector<AppendRequest> read;
    for (int64_t i = 0; i < request_count; ++i) {
      const std::string where = "requests[" + std::to_string(i) + "]";
      VKV_TRY_ASSIGN(one, read_append(where, requests + i, used->options().element));
      read.push_back(one);
    }
    return used->append(layer, read);
  });
}

vkv_status vkv_attend(vkv_cache* cache, int32_t layer, const vkv_attend_request* requests,
                      int64_t request_count) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    VKV_TRY_ASSIGN(read, read_attends(requests, request_count, used->options().element));
    return used->attend(layer, read);
  });
}

vkv_status vkv_settle(vkv_cache* cache) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    return used->settle();
  });
}

vkv_status vkv_save(vkv_cache* cache, vkv_sequence sequence, const uint8_t* key) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    VKV_TRY_ASSIGN(read, read_key(key));
    return used->save(SequenceId{sequence}, read);
  });
}

vkv_status vkv_restore(vkv_cache* cache, const uint8_t* key, vkv_sequence* sequence) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    VKV_TRY_ASSIGN(read, read_key(key));
    VKV_TRY(check_sequence_out("sequence", sequence));
    return write_sequence(used->restore(read), sequence);
  });
}

vkv_status vkv_erase_saved(vkv_cache* cache, const uint8_t* key) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    VKV_TRY_ASSIGN(read, read_key(key));
    return used->erase_saved(read);
  });
}

vkv_status vkv_saved(vkv_cache* cache, vkv_saved_sequence* list, int64_t capacity, int64_t* count) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    VKV_TRY(check_list(list, capacity, count));
    VKV_TRY_ASSIGN(all, used->saved());
    return write_list(all, saved_in_c, list, capacity, count);
  });
}

vkv_status vkv_key_to_hex(const uint8_t* key, char* text) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(read, read_key(key));
    VKV_TRY(not_null("text", text));
    std::memcpy(text, to_hex(read).c_str(), VKV_KEY_HEX_BYTES);
    return {};
  });
}

vkv_status vkv_get_stats(vkv_cache* cache, vkv_stats* stats) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    return write_struct("stats", stats, stats_in_c(used->stats()));
  });
}

vkv_status vkv_get_sequence_stats(vkv_cache* cache, vkv_sequence sequence,
                                  vkv_sequence_stats* stats) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    VKV_TRY_ASSIGN(made, used->sequence_stats(SequenceId{sequence}));
    return write_struct("stats", stats, sequence_stats_in_c(made));
  });
}

vkv_status vkv_sequence_forms(vkv_cache* cache, vkv_sequence sequence, vkv_form_stats* list,
                              int64_t capacity, int64_t* count) {
  return c_call([&]() -> Status {
    VKV_TRY_ASSIGN(used, use(cache));
    VKV_TRY(check_list(list, capacity, count));
    VKV_TRY_ASSIGN(made, used->sequence_stats(SequenceId{sequence}));
    return write_list(made.forms, form_in_c, list, capacity, count);
  });
}
