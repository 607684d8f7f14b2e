// activity_trace.cpp: records of CUPTI to spans.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/activity_trace.h"

#include <cuda_runtime_api.h>
#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>

#include "kernels/cuda_handles.h"

namespace vkv {
namespace {

constexpr size_t kBufferBytes = size_t{4} << 20;
constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                         CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MARKER};

// CUPTI's functions, from the library found when a trace was asked for.
struct Cupti {
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityDisable) disable = nullptr;
  decltype(&cuptiActivityFlushAll) flush_all = nullptr;
  decltype(&cuptiActivityGetNextRecord) next_record = nullptr;
  decltype(&cuptiGetResultString) result_string = nullptr;
  bool ready = false;

  Status check(CUptiResult result, const char* call) const {
    if (result == CUPTI_SUCCESS) return {};
    const char* words = "unknown error";
    (void)result_string(result, &words);
    return {Code::kCuda, std::string(call) + ": " + words};
  }
};

// CUPTI's callbacks have no pointer of ours, so what they write is the process's.
struct Recorder {
  Cupti cupti;
  std::mutex mutex;  // guards what follows; CUPTI hands buffers back from a thread of its own
  std::vector<ActivitySpan> spans;
  std::map<uint32_t, ActivitySpan> open;  // ranges that have begun, by CUPTI's number
  bool under_way = false;
};

Recorder& recorder() {
  static Recorder instance;
  return instance;
}

// "void vkv::(anonymous namespace)::attend<8, 128>(Arguments)" -> "attend<8, 128>".
std::string short_name(const char* mangled) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> plain(
      abi::__cxa_demangle(mangled, nullptr, nullptr, &status), &std::free);
  std::string name = status == 0 ? plain.get() : mangled;
  constexpr std::string_view kNobody = "(anonymous namespace)::";
  while (name.find(kNobody) != std::string::npos) name.erase(name.find(kNobody), kNobody.size());
  name.resize(std::min(name.size(), name.find('(')));
  const std::string head = name.substr(0, name.find('<'));
  const size_t begin =
      std::max(head.rfind(' ') + 1, head.rfind("::") + 1);  // 0 where there is none
  return name.substr(name[begin] == ':' ? begin + 1 : begin);
}

void add(Recorder& to, const CUpti_Activity* record) {
  switch (record->kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
      const auto& kernel = *reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      to.spans.push_back({ActivitySpan::Place::kKernel, kernel.streamId, short_name(kernel.name),
                          kernel.start, kernel.end, 0});
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMCPY: {
      const auto& copy = *reinterpret_cast<const CUpti_ActivityMemcpy6*>(record);
      const char* const name = copy.copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD   ? "to HBM"
                               : copy.copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH ? "to DRAM"
                                                                                  : "copy";
      to.spans.push_back(
          {ActivitySpan::Place::kCopy, copy.streamId, name, copy.start, copy.end, copy.bytes});
      break;
    }
    case CUPTI_ACTIVITY_KIND_MARKER: {
      const auto& marker = *reinterpret_cast<const CUpti_ActivityMarker2*>(record);
      if (marker.flags & CUPTI_ACTIVITY_FLAG_MARKER_START) {
        to.open[marker.id] = {ActivitySpan::Place::kHost,
                              marker.objectId.pt.threadId,
                              marker.name ? marker.name : "",
                              marker.timestamp,
                              0,
                              0};
      } else if (const auto found = to.open.find(marker.id); found != to.open.end()) {
        found->second.end_ns = marker.timestamp;
        to.spans.push_back(std::move(found->second));
        to.open.erase(found);
      }
      break;
    }
    default:
      break;
  }
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* record_count_max) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *size = *buffer ? kBufferBytes : 0;
  *record_count_max = 0;  // as many as fit
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  Recorder& to = recorder();
  const std::lock_guard lock(to.mutex);
  CUpti_Activity* record = nullptr;
  while (to.cupti.next_record(buffer, valid, &record) == CUPTI_SUCCESS) add(to, record);
  std::free(buffer);
}

}  // namespace

Status ActivityTrace::prepare() {
  Cupti& cupti = recorder().cupti;
  if (cupti.ready) return {};
  const std::string library = "libcupti.so." + std::to_string(CUDART_VERSION / 1000);
  void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr)
    return {Code::kUnsupported, "a trace needs " + library +
                                    " of the CUDA toolkit, in LD_LIBRARY_PATH where the loader "
                                    "does not find it: " +
                                    dlerror()};
  bool all = true;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
    all = all && function != nullptr;
  };
  find(cupti.register_callbacks, "cuptiActivityRegisterCallbacks");
  find(cupti.enable, "cuptiActivityEnable");
  find(cupti.disable, "cuptiActivityDisable");
  find(cupti.flush_all, "cuptiActivityFlushAll");
  find(cupti.next_record, "cuptiActivityGetNextRecord");
  find(cupti.result_string, "cuptiGetResultString");
  Dl_info where = {};
  if (!all || dladdr(reinterpret_cast<void*>(cupti.enable), &where) == 0)
    return {Code::kUnsupported, library + " is not as this build knows it"};
  setenv("NVTX_INJECTION64_PATH", where.dli_fname, 0);  // of NVTX, read at its first call
  VKV_TRY(cupti.check(cupti.register_callbacks(give_buffer, take_buffer),
                      "cuptiActivityRegisterCallbacks"));
  cupti.ready = true;
  return {};
}

Result<std::unique_ptr<ActivityTrace>> ActivityTrace::begin() {
  Recorder& to = recorder();
  if (!to.cupti.ready) return Status(Code::kInvalidArgument, "a trace was not prepared");
  VKV_TRY(cuda_status(cudaDeviceSynchronize(), "cudaDeviceSynchronize"));
  {
    const std::lock_guard lock(to.mutex);
    if (to.under_way) return Status(Code::kInvalidArgument, "a trace is under way");
    to.under_way = true;
    to.spans.clear();
    to.open.clear();
  }
  std::unique_ptr<ActivityTrace> trace(new ActivityTrace);
  for (const CUpti_ActivityKind kind : kKinds)
    VKV_TRY(to.cupti.check(to.cupti.enable(kind), "cuptiActivityEnable"));
  return trace;
}

Result<std::vector<ActivitySpan>> ActivityTrace::end() {
  Recorder& to = recorder();
  ended_ = true;
  VKV_TRY(cuda_status(cudaDeviceSynchronize(), "cudaDeviceSynchronize"));
  for (const CUpti_ActivityKind kind : kKinds)
    VKV_TRY(to.cupti.check(to.cupti.disable(kind), "cuptiActivityDisable"));
  VKV_TRY(to.cupti.check(to.cupti.flush_all(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED),
                         "cuptiActivityFlushAll"));
  const std::lock_guard lock(to.mutex);
  to.under_way = false;
  std::vector<ActivitySpan> spans = std::move(to.spans);
  std::ranges::stable_sort(spans, {}, &ActivitySpan::begin_ns);
  return spans;
}

ActivityTrace::~ActivityTrace() {
  if (!ended_) (void)end();
}

}  // namespace vkv
