// http_server.cpp: the HTTP side, on cpp-httplib. Nothing else includes its header.
// SPDX-License-Identifier: Apache-2.0
#include "tools/server/http_server.h"

#include <fmt/format.h>
#include <httplib.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <new>
#include <thread>
#include <utility>

#include "runtime/base/stopwatch.h"
#include "tools/server/connection.h"

namespace vkv {
namespace {

constexpr const char* kChatPath = "/v1/chat/completions";
constexpr const char* kJson = "application/json";
constexpr auto kLookInterval = std::chrono::milliseconds(100);  // for a client that went away
constexpr int kClientGone = 499;      // nginx's number: nobody reads the response
constexpr int kKeepAliveSeconds = 2;  // an idle connection holds a thread
constexpr size_t kKeepAliveRequestsMax = 1000;
constexpr uint64_t kDiscardFactor = 4;  // of the longest body, read and thrown away at most

void refuse(httplib::Response& response, int http_status, std::string_view message) {
  response.status = http_status;
  response.set_content(error_json(http_status, message), kJson);
}

// An answer on its way to a client.
struct Delivery {
  ChatStart start;
  Connection connection;
  std::string text;  // not sent yet
  std::optional<ReplyEnd> end;
  bool is_gone = false;

  // Waits a little for more. A client that went away cancels.
  void wait() {
    Reply::News news = start.reply->wait(kLookInterval);
    text += news.text;
    if (news.end) end = std::move(news.end);
    if (end || is_gone || !connection.is_closed()) return;
    is_gone = true;
    start.reply->cancel();
  }
};

class HttpLibServer final : public HttpServer {
 public:
  HttpLibServer(ChatService* service, const HttpOptions& options)
      : service_(service), options_(options) {}

  ~HttpLibServer() override {
    // Answers that are complete go out first.
    const Stopwatch since_stop;
    while (active_.load() > 0 && since_stop.seconds() < kKeepAliveSeconds)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    server_.stop();
    if (thread_.joinable()) thread_.join();
  }

  Status listen() {
    add_routes();
    set_limits();
    if (!server_.is_valid()) return {Code::kInternal, "cpp-httplib refuses to serve"};
    port_ = options_.port == 0 ? server_.bind_to_any_port(options_.host) : options_.port;
    if (port_ <= 0 || (options_.port != 0 && !server_.bind_to_port(options_.host, options_.port)))
      return {Code::kIo, fmt::format("cannot listen on {} port {}: it is taken, or no address of "
                                     "this machine",
                                     options_.host, options_.port)};
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return {};
  }

  int port() const override { return port_; }
  void drain() override { draining_ = true; }

 private:
  void set_limits() {
    server_.new_task_queue = [this] {
      return new httplib::ThreadPool(static_cast<size_t>(options_.connections_max));
    };
    server_.set_payload_max_length(options_.body_bytes_max);
    server_.set_keep_alive_timeout(kKeepAliveSeconds);
    server_.set_keep_alive_max_count(kKeepAliveRequestsMax);
    server_.set_tcp_nodelay(true);
    // Not SO_REUSEPORT, the library's choice: two servers would share a port.
    server_.set_socket_options([](socket_t socket) {
      const int yes = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
  }

  void add_routes() {
    server_.Get("/health", [this](const httplib::Request&, httplib::Response& response) {
      response.status = draining_ ? 503 : 200;
      response.set_content(draining_ ? R"({"status":"stopping"})" : R"({"status":"ok"})", kJson);
    });
    server_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(service_->engine().metrics_text(),
                           "text/plain; version=0.0.4; charset=utf-8");
    });
    server_.Get("/v1/models", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(service_->models_text(), kJson);
    });
    server_.Post(kChatPath,
                 [this](const httplib::Request& request, httplib::Response& response,
                        const httplib::ContentReader& reader) { chat(request, response, reader); });
    server_.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
      if (!response.body.empty()) return;
      const int status = response.status;
      refuse(response, status,
             status == 404
                 ? fmt::format("there is no {} {}; there are POST {}, GET /v1/models, GET /health "
                               "and GET /metrics",
                               request.method, request.path, kChatPath)
                 : fmt::format("the request is not understood (HTTP status {})", status));
    });
    server_.set_exception_handler(
        [](const httplib::Request&, httplib::Response& response, std::exception_ptr error) {
          try {
            std::rethrow_exception(error);
          } catch (const std::bad_alloc&) {
            refuse(response, 503, "the server is out of memory");
          } catch (const std::exception& exception) {
            spdlog::error("a request failed: {}", exception.what());
            refuse(response, 500, "the server failed; its log says why");
          }
        });
    server_.set_logger([this](const httplib::Request& request, const httplib::Response& response) {
      done(request, response);
    });
  }

  // False: the response says why there is none.
  bool read_body(const httplib::Request& request, httplib::Response& response,
                 const httplib::ContentReader& reader, std::string& body) const {
    const Stopwatch since_start;
    uint64_t byte_count = 0;
    // What is too long is read to its end, if that is not too far, so that the client comes to
    // read the response.
    const bool whole = reader([&](const char* data, size_t count) {
      byte_count += count;
      if (byte_count <= options_.body_bytes_max) body.append(data, count);
      return byte_count <= kDiscardFactor * options_.body_bytes_max &&
             since_start.seconds() <= options_.body_seconds_max;
    });
    const bool too_long = response.status == 413 || byte_count > options_.body_bytes_max;
    if (!whole) response.set_header("Connection", "close");
    if (too_long)
      refuse(response, 413,
             fmt::format("the body is longer than {} bytes, the server's limit",
                         options_.body_bytes_max));
    else if (!whole)
      refuse(response, 400, "the body did not arrive whole, or not in time");
    else if (!request.get_header_value("Content-Type").starts_with(kJson))
      refuse(response, 415, "the Content-Type must be application/json");
    else
      return true;
    return false;
  }

  // After a response is out.
  void done(const httplib::Request& request, const httplib::Response& response) const {
    if (request.path == kChatPath) service_->engine().metrics().count_request(response.status);
    // The rest of a body is no request.
    if (response.get_header_value("Connection") == "close") connection_of(request).stop_reading();
  }

  static Connection connection_of(const httplib::Request& request) {
    return {request.remote_addr, request.remote_port, request.local_port};
  }

  void chat(const httplib::Request& request, httplib::Response& response,
            const httplib::ContentReader& reader) {
    std::string body;
    if (!read_body(request, response, reader, body)) return;
    auto delivery =
        std::make_shared<Delivery>(Delivery{service_->start(body), connection_of(request), {}, {}});
    body = {};
    const ChatStart& start = delivery->start;
    if (start.reply == nullptr) {
      response.status = start.http_status;
      if (start.http_status == 429)
        response.set_header("Retry-After", std::to_string(start.retry_after_seconds));
      response.set_content(start.error, kJson);
      return;
    }
    ++active_;
    // Errors before the first words still have a status of their own.
    while (!delivery->end && (delivery->text.empty() || !start.stream)) delivery->wait();
    if (delivery->end && (!start.stream || !delivery->end->status.ok())) {
      finish(*delivery, response);
      --active_;
      return;
    }
    stream(std::move(delivery), response);
  }

  static void finish(const Delivery& delivery, httplib::Response& response) {
    const ReplyEnd& end = *delivery.end;
    if (delivery.is_gone) return refuse(response, kClientGone, "the client went away");
    if (!end.status.ok()) return refuse(response, engine_status(end.status), end.status.message());
    response.status = 200;
    response.set_content(completion_json(delivery.start.label, delivery.text, end), kJson);
  }

  void stream(std::shared_ptr<Delivery> delivery, httplib::Response& response) {
    response.status = 200;
    response.set_header("Cache-Control", "no-cache");
    response.set_chunked_content_provider(
        "text/event-stream",
        [delivery, begun = false](size_t, httplib::DataSink& sink) mutable {
          const ChatLabel& label = delivery->start.label;
          std::string events = std::exchange(begun, true) ? "" : first_event(label);
          if (delivery->text.empty() && !delivery->end) delivery->wait();
          if (!delivery->text.empty())
            events += text_event(label, std::exchange(delivery->text, {}));
          if (delivery->end)
            events += end_events(label, *delivery->end, delivery->start.include_usage);
          if (delivery->is_gone || (!events.empty() && !sink.write(events.data(), events.size())))
            return false;
          if (delivery->end) sink.done();
          return true;
        },
        [this, delivery](bool) {
          // Whoever left in the middle wants no more of it.
          if (!delivery->end) delivery->start.reply->cancel();
          --active_;
        });
  }

  ChatService* service_;
  const HttpOptions options_;
  httplib::Server server_;
  std::thread thread_;
  int port_ = 0;
  std::atomic<bool> draining_ = false;
  std::atomic<int> active_ = 0;  // answers on their way
};

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::open(ChatService* service,
                                                     const HttpOptions& options) {
  auto server = std::make_unique<HttpLibServer>(service, options);
  VKV_TRY(server->listen());
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace vkv
