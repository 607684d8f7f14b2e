// cublas_products_test.cpp: products on the GPU are those in double precision, but for the rounding
// of their results, with and without bias and sum, of any number of rows.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/cuda/cublas_products.h"

#include <gtest/gtest.h>

#include "kernels/gpu_devices.h"
#include "tests/device_values.h"

namespace vkv {
namespace {

struct Types {
  template <class In, class Out>
  struct Pair {
    using in = In;
    using out = Out;
  };
};

template <class T>
class cublas_products : public testing::Test {
 protected:
  void SetUp() override {
    const auto devices = list_gpu_devices();
    if (!devices.ok() || devices.value().empty()) GTEST_SKIP() << "no GPU";
  }
};
using Pairs = testing::Types<Types::Pair<float, float>, Types::Pair<__nv_bfloat16, float>,
                             Types::Pair<__nv_bfloat16, __nv_bfloat16>>;
TYPED_TEST_SUITE(cublas_products, Pairs);

struct ProductCase {
  int64_t rows;
  int outputs, inputs;
  int64_t offset = 0;  // values that x and y begin behind a multiple of 256 bytes
};

TYPED_TEST(cublas_products, equal_those_in_double_precision) {
  using In = typename TypeParam::in;
  using Out = typename TypeParam::out;
  auto stream = make_stream();
  ASSERT_TRUE(stream.ok());
  auto made = CublasProducts::make(stream.value().get());
  ASSERT_TRUE(made.ok()) << made.status().message();
  CublasProducts& products = made.value();

  for (const ProductCase& of :
       {ProductCase{1, 64, 48}, ProductCase{1, 512, 256}, ProductCase{2, 96, 64},
        ProductCase{7, 48, 588}, ProductCase{33, 72, 80}, ProductCase{300, 144, 128},
        ProductCase{257, 384, 768}, ProductCase{1025, 24, 64}, ProductCase{5, 64, 48, 8},
        ProductCase{3, 96, 64, 2}, ProductCase{4, 50, 2056}, ProductCase{1, 9, 18944}})
    for (const bool with_bias : {false, true})
      for (const bool add : {false, true}) {
        if (add && !std::is_same_v<Out, float>) continue;
        SCOPED_TRACE(testing::Message() << of.rows << " x " << of.inputs << " x " << of.outputs
                                        << (with_bias ? ", bias" : "") << (add ? ", add" : "")
                                        << ", offset " << of.offset);
        const auto x = rounded<In>(random_floats(of.rows * of.inputs + of.offset, 1));
        const auto weight = rounded<In>(random_floats(int64_t{of.outputs} * of.inputs, 2, 0.1f));
        const auto bias = rounded<Out>(random_floats(of.outputs, 3));
        const auto before = rounded<Out>(random_floats(of.rows * of.outputs + of.offset, 4));
        auto expected = before;
        for (int64_t row = 0; row < of.rows; ++row)
          for (int64_t output = 0; output < of.outputs; ++output) {
            float& target = expected[static_cast<size_t>(of.offset + row * of.outputs + output)];
            double sum = with_bias ? bias[static_cast<size_t>(output)] : 0.0;
            if (add) sum += target;
            for (int64_t i = 0; i < of.inputs; ++i)
              sum += double{x[static_cast<size_t>(of.offset + row * of.inputs + i)]} *
                     weight[static_cast<size_t>(output * of.inputs + i)];
            target = static_cast<float>(sum);
          }
        const DeviceValues<In> device_x(x), device_weight(weight);
        const DeviceValues<Out> device_bias(bias), y(before);
        ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
        const Status status =
            products.run(Product<In, Out>{.x = device_x.data() + of.offset,
                                          .weight = device_weight.data(),
                                          .bias = with_bias ? device_bias.data() : nullptr,
                                          .y = y.data() + of.offset,
                                          .rows = of.rows,
                                          .outputs = of.outputs,
                                          .inputs = of.inputs,
                                          .add = add});
        ASSERT_TRUE(status.ok()) << status.message();
        expect_near<Out>(y.read(), expected, 1e-5f);
      }
}

}  // namespace
}  // namespace vkv
