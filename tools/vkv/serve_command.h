// serve_command.h: `vkv serve`: answers over HTTP.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tools/server/engine.h"
#include "tools/server/http_server.h"
#include "tools/vkv/run_arguments.h"

namespace vkv {

struct ServeArguments {
  RunArguments host;  // of it, what add_host_flags() fills
  HttpOptions http;
  EngineOptions engine;
  ChatLimits limits;
  std::string name;  // of the model; empty: that of its folder or file
  std::string media_root;
  std::string body_bytes = "96M";
  std::string media_bytes = "64M";
  std::string pixel_bytes = "4G";
  int window_tokens = 2048;
  double grace_seconds = 30;
};

void add_serve_flags(CLI::App& command, ServeArguments& arguments);

// Serves until SIGINT or SIGTERM. Returns the exit status (exit_code.h): kExitDone after a stop.
int serve_command(const ServeArguments& arguments);

}  // namespace vkv
