// http_client.h: a client of plain sockets, so that tests can send what is torn, and go away.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "vkv/status.h"

namespace vkv {

struct HttpResponse {
  int status = 0;    // 0: none came
  std::string head;  // with the status line
  std::string body;  // chunks put together

  nlohmann::json json() const { return nlohmann::json::parse(body, nullptr, false); }
};

// A connection to 127.0.0.1 for one request.
class HttpClient {
 public:
  explicit HttpClient(int port) : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval time = {.tv_sec = 60, .tv_usec = 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
    connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~HttpClient() { leave(); }
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  bool connected() const { return connected_; }

  void leave() {
    if (socket_ >= 0) close(std::exchange(socket_, -1));
  }

  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t count = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(count));
    }
    return true;
  }

  // Reads until `words` have come, or the end. Returns what came so far.
  const std::string& read_until(const std::string& words) {
    char buffer[4096];
    while (received_.find(words) == std::string::npos) {
      const ssize_t count = recv(socket_, buffer, sizeof(buffer), 0);
      if (count <= 0) break;
      received_.append(buffer, static_cast<size_t>(count));
    }
    return received_;
  }

  // All of the response; the request asked for the connection to be closed behind it.
  HttpResponse read() {
    read_until(std::string(1, '\0') + "never");
    HttpResponse response;
    const size_t split = received_.find("\r\n\r\n");
    if (split == std::string::npos || received_.size() < 12) return response;
    response.status = std::atoi(received_.c_str() + 9);
    response.head = received_.substr(0, split);
    response.body = received_.substr(split + 4);
    if (response.head.find("chunked") == std::string::npos) return response;
    std::string whole;
    for (size_t at = 0; at < response.body.size();) {
      const size_t line = response.body.find("\r\n", at);
      const size_t count = std::strtoul(response.body.c_str() + at, nullptr, 16);
      if (line == std::string::npos || count == 0) break;
      whole += response.body.substr(line + 2, count);
      at = line + 2 + count + 2;
    }
    response.body = whole;
    return response;
  }

 private:
  int socket_;
  bool connected_ = false;
  std::string received_;
};

inline std::string http_post(const std::string& path, const std::string& body,
                             const std::string& type = "application/json") {
  return "POST " + path + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: " + type +
         "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

inline std::string http_get(const std::string& path) {
  return "GET " + path + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
}

inline HttpResponse http_ask(int port, const std::string& request) {
  HttpClient client(port);
  if (!client.connected() || !client.send(request)) return client.read();
  return client.read();
}

// The texts of a stream's events, put together.
inline std::string streamed_text(const std::string& events) {
  std::string text;
  for (size_t at = events.find("data: {"); at != std::string::npos;
       at = events.find("data: {", at + 1)) {
    const std::string line = events.substr(at + 6, events.find('\n', at) - at - 6);
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_discarded() || !json.contains("choices") || json["choices"].empty()) continue;
    text += json["choices"][0]["delta"].value("content", "");
  }
  return text;
}

}  // namespace vkv
