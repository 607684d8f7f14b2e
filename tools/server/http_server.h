// http_server.h: the HTTP side; http_server.cpp or, without cpp-httplib, http_server_absent.cpp.
// SPDX-License-Identifier: Apache-2.0
//
//   POST /v1/chat/completions   chat_request.h
//   GET  /v1/models             the one model
//   GET  /health                200, or 503 while it stops
//   GET  /metrics               Prometheus text
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tools/server/chat_service.h"
#include "vkv/status.h"

namespace vkv {

struct HttpOptions {
  std::string host = "127.0.0.1";  // an address of this machine
  int port = 8080;                 // 0: any that is free
  uint64_t body_bytes_max = uint64_t{96} << 20;
  int connections_max = 96;      // served at once, a thread each; others wait
  double body_seconds_max = 60;  // for a body to arrive
};

class HttpServer {
 public:
  // Listens when it returns. The service outlives it. Errors: kIo where the address is taken or
  // not of this machine; kUnsupported in a build without cpp-httplib.
  static Result<std::unique_ptr<HttpServer>> open(ChatService* service, const HttpOptions& options);
  virtual ~HttpServer() = default;  // closes all connections

  virtual int port() const = 0;

  // /health says from now on that the server is stopping.
  virtual void drain() = 0;
};

}  // namespace vkv
