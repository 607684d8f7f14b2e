// http_server_absent.cpp: stands in for http_server.cpp in builds without cpp-httplib.
// SPDX-License-Identifier: Apache-2.0
#include "tools/server/http_server.h"

namespace vkv {

Result<std::unique_ptr<HttpServer>> HttpServer::open(ChatService*, const HttpOptions&) {
  return Status(Code::kUnsupported,
                "this vkv was built without cpp-httplib (Debian: libcpp-httplib-dev): install it "
                "and build again to serve");
}

}  // namespace vkv
