// cudnn_attention.cpp: cuDNN's graphs of attention, through a library that is loaded at run time.
// SPDX-License-Identifier: Apache-2.0
//
// The only file that includes cuDNN's frontend, which takes longer to compile than a kernel. CMake
// defines its switches: no JSON, and no link to a library.
#include "kernels/cudnn_attention.h"

#include <cudnn_frontend.h>
#include <dlfcn.h>

#include <algorithm>
#include <exception>
#include <map>
#include <mutex>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/cuda_handles.h"

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // the frontend finds all of cuDNN's functions through this
}

namespace vkv {
namespace {

namespace graph = cudnn_frontend::graph;
using cudnn_frontend::DataType_t;

// Names of a graph's tensors.
enum Tensor : int64_t { kQ = 1, kK, kV, kQueryCount, kTokenCount, kOut, kLse };

constexpr size_t kOldestVersion = 91800;  // that takes shapes when a plan runs

// Its first words: the status becomes part of a name.
Status refused(const std::string& what) {
  return {Code::kUnsupported, "cuDNN: " + what.substr(0, std::min<size_t>(what.find('\n'), 100))};
}

std::string version_text(size_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

// Loads the library once; it stays.
Status load_library() {
  static const Status loaded = [] {
    void* const library = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return Status(Code::kUnsupported, "libcudnn.so.9 not found");
    cudnn_frontend::cudnn_dlhandle = library;
    const size_t version = cudnn_frontend::detail::get_backend_version();
    if (version < kOldestVersion)
      return refused(version_text(version) + " is older than " + version_text(kOldestVersion));
    return Status();
  }();
  return loaded;
}

// What plans differ in; the rest is said when they run.
struct PlanKind {
  bool causal = false;
  bool live = false;    // takes counts from the device
  int query_count = 0;  // at most: the grid is for so many

  auto operator<=>(const PlanKind&) const = default;
};

// Counts and strides of the tensors: batch, heads, rows, channels. cuDNN 9.19 heeds counts that are
// given when a plan runs, but not strides, so those are the same for all.
struct Extents {
  std::vector<int64_t> q, kv, lse;
  std::vector<int64_t> q_strides, kv_strides, lse_strides;
};

Extents extents_of(const CudnnAttentionShape& shape, int64_t queries, int64_t tokens) {
  const int64_t q_heads = shape.q_heads, kv_heads = shape.kv_heads, channels = shape.head_dim;
  const int64_t q_row = q_heads * channels;                   // of a query
  const int64_t kv_plane = shape.token_count_max * channels;  // of a KV head
  const int64_t lse_plane = shape.query_count_max;            // of a query head
  return {.q = {1, q_heads, queries, channels},
          .kv = {1, kv_heads, tokens, channels},
          .lse = {1, q_heads, queries, 1},
          .q_strides = {shape.query_count_max * q_row, channels, q_row, 1},
          .kv_strides = {kv_heads * kv_plane, kv_plane, channels, 1},
          .lse_strides = {q_heads * lse_plane, lse_plane, 1, 1}};
}

std::shared_ptr<graph::Tensor_attributes> tensor(graph::Graph& of, Tensor name, DataType_t type,
                                                 const std::vector<int64_t>& counts,
                                                 const std::vector<int64_t>& strides) {
  return of.tensor(
      graph::Tensor_attributes().set_uid(name).set_data_type(type).set_dim(counts).set_stride(
          strides));
}

struct Plan {
  graph::Graph graph;
  std::mutex mutex;  // of a run
};

// Of the plan for so many queries. Few plans, and few tiles of 128 for nothing.
int plan_queries(const CudnnAttentionShape& shape, int query_count) {
  const int step = query_count <= 512 ? 128 : 256;
  return std::min((query_count + step - 1) / step * step, shape.query_count_max);
}

Result<std::shared_ptr<Plan>> make_plan(const CudnnAttentionShape& shape, const PlanKind& kind,
                                        cudnnHandle_t handle) {
  // A token more than any call has, which fills no tile: the plan then has a kernel for all counts.
  const Extents extents = extents_of(shape, kind.query_count, shape.token_count_max);
  auto plan = std::make_shared<Plan>();
  graph::Graph& made = plan->graph;
  made.set_io_data_type(DataType_t::HALF)
      .set_intermediate_data_type(DataType_t::FLOAT)
      .set_compute_data_type(DataType_t::FLOAT)
      .set_override_shape_enabled(true);
  const auto q = tensor(made, kQ, DataType_t::HALF, extents.q, extents.q_strides);
  const auto k = tensor(made, kK, DataType_t::HALF, extents.kv, extents.kv_strides);
  const auto v = tensor(made, kV, DataType_t::HALF, extents.kv, extents.kv_strides);
  // The other implementation, as of 9.19, has no causal mask and does not heed shapes at run time.
  auto options = graph::SDPA_attributes()
                     .set_implementation(cudnn_frontend::AttentionImplementation_t::COMPOSITE)
                     .set_generate_stats(true)
                     .set_attn_scale(1.0f);
  if (kind.live) {
    const std::vector<int64_t> one = {1, 1, 1, 1};
    options.set_padding_mask(true)
        .set_seq_len_q(tensor(made, kQueryCount, DataType_t::INT32, one, one))
        .set_seq_len_kv(tensor(made, kTokenCount, DataType_t::INT32, one, one));
  }
  if (kind.causal)
    options.set_diagonal_alignment(cudnn_frontend::DiagonalAlignment_t::BOTTOM_RIGHT)
        .set_diagonal_band_right_bound(0);
  const auto [out, lse] = made.sdpa(q, k, v, options);
  out->set_output(true).set_uid(kOut).set_dim(extents.q).set_stride(extents.q_strides);
  lse->set_output(true)
      .set_uid(kLse)
      .set_data_type(DataType_t::FLOAT)
      .set_dim(extents.lse)
      .set_stride(extents.lse_strides);

  auto built = made.build(handle, {cudnn_frontend::HeurMode_t::A});
  if (!built.is_good()) return refused(built.get_message());
  int64_t work_bytes = 0;
  auto sized = made.get_workspace_size(work_bytes);
  if (!sized.is_good()) return refused(sized.get_message());
  if (work_bytes > static_cast<int64_t>(kCudnnWorkBytes))
    return refused("its plan needs " + std::to_string(work_bytes) + " bytes");
  return plan;
}

// Made once a process; refusals too.
Result<std::shared_ptr<Plan>> plan_of(const CudnnAttentionShape& shape, const PlanKind& kind,
                                      cudnnHandle_t handle) {
  using Key = std::tuple<int, CudnnAttentionShape, PlanKind>;
  static std::mutex mutex;
  static auto& known = *new std::map<Key, Result<std::shared_ptr<Plan>>>();
  int device = 0;
  VKV_TRY(cuda_status(cudaGetDevice(&device), "cudaGetDevice"));
  const std::lock_guard lock(mutex);
  const Key key(device, shape, kind);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  return known.emplace(key, make_plan(shape, kind, handle)).first->second;
}

}  // namespace

struct CudnnAttention::State {
  CudnnAttentionShape shape;
  cudnnHandle_t handle = nullptr;
  std::string version;

  ~State() {
    if (handle != nullptr) (void)cudnn_frontend::detail::destroy_handle(handle);
  }
};

CudnnAttention::CudnnAttention(std::unique_ptr<State> state) : state_(std::move(state)) {}
CudnnAttention::CudnnAttention(CudnnAttention&&) noexcept = default;
CudnnAttention& CudnnAttention::operator=(CudnnAttention&&) noexcept = default;
CudnnAttention::~CudnnAttention() = default;

Result<CudnnAttention> CudnnAttention::make(const CudnnAttentionShape& shape) try {
  VKV_TRY(load_library());
  auto state = std::make_unique<State>();
  state->shape = shape;
  const auto created = cudnn_frontend::detail::create_handle(&state->handle);
  if (created != CUDNN_STATUS_SUCCESS)
    return refused(std::string("cudnnCreate: ") +
                   cudnn_frontend::detail::get_error_string(created));
  state->version = version_text(cudnn_frontend::detail::get_backend_version());
  for (const bool causal : {false, true})
    VKV_TRY(plan_of(shape, {.causal = causal, .query_count = shape.query_count_max}, state->handle)
                .status());
  return CudnnAttention(std::move(state));
} catch (const std::exception& error) {  // a function that the library lacks
  return refused(error.what());
}

const std::string& CudnnAttention::version() const { return state_->version; }

Status CudnnAttention::run(const CudnnAttentionCall& call, cudaStream_t stream) try {
  const PlanKind kind = {.causal = call.causal,
                         .live = call.live_counts != nullptr,
                         .query_count = plan_queries(state_->shape, call.query_count)};
  VKV_TRY_ASSIGN(plan, plan_of(state_->shape, kind, state_->handle));
  const auto set = cudnn_frontend::detail::set_stream(state_->handle, stream);
  if (set != CUDNN_STATUS_SUCCESS)
    return {Code::kCuda,
            std::string("cudnnSetStream: ") + cudnn_frontend::detail::get_error_string(set)};
  const auto pointer = [](const auto* values) {  // cuDNN takes inputs as void* too
    return const_cast<void*>(static_cast<const void*>(values));
  };
  std::unordered_map<int64_t, void*> tensors = {{kQ, pointer(call.q)},
                                                {kK, pointer(call.k)},
                                                {kV, pointer(call.v)},
                                                {kOut, call.out},
                                                {kLse, call.lse}};
  if (kind.live) {
    tensors[kQueryCount] = pointer(call.live_counts);
    tensors[kTokenCount] = pointer(call.live_counts + 1);
  }
  const Extents extents = extents_of(state_->shape, call.query_count, call.token_count);
  const std::lock_guard lock(plan->mutex);
  auto run = plan->graph.execute(state_->handle, tensors, call.work, {kQ, kK, kV, kOut, kLse},
                                 {extents.q, extents.kv, extents.kv, extents.q, extents.lse},
                                 {extents.q_strides, extents.kv_strides, extents.kv_strides,
                                  extents.q_strides, extents.lse_strides});
  if (!run.is_good()) return {Code::kCuda, "cuDNN: " + run.get_message()};
  return {};
} catch (const std::exception& error) {
  return {Code::kCuda, std::string("cuDNN: ") + error.what()};
}

}  // namespace vkv
