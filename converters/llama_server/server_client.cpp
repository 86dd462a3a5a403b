#include "llama_server/server_client.hpp"

#include <httplib.h>

#include <algorithm>

#include "llama_server/completion_events.hpp"
#include "llama_server/server_json.hpp"

namespace cachecard::llama_server {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

/// The answer has another shape than llama-server's.
Error shape_error(const std::string& call, const std::string& what) {
  return {ErrorCode::kTargetUnavailable, kNoOffset, call, "the answer is not llama-server's: " + what};
}

std::string dump(const json& body) { return body.dump(-1, ' ', false, json::error_handler_t::replace); }

/// Splits http://host:port/prefix. Returns an empty origin for anything else.
struct SplitUrl {
  std::string origin;
  std::string prefix;
};
SplitUrl split_url(std::string url) {
  while (!url.empty() && url.back() == '/') url.pop_back();
  const std::size_t scheme = url.find("://");
  if (scheme == std::string::npos) return {};
  const std::string name = url.substr(0, scheme);
  if ((name != "http" && name != "https") || scheme + 3 == url.size()) return {};
  const std::size_t slash = url.find('/', scheme + 3);
  return {url.substr(0, slash), slash == std::string::npos ? std::string() : url.substr(slash)};
}

struct Reply {
  int status = 0;
  json body;
  std::string text;
};

}  // namespace

struct ServerClient::State {
  State(ClientOptions given, const SplitUrl& split)
      : options(std::move(given)), prefix(split.prefix), http(split.origin) {
    http.set_keep_alive(true);
    http.set_tcp_nodelay(true);
    http.set_connection_timeout(options.connect_timeout);
    http.set_write_timeout(options.read_timeout);
    headers.emplace("Accept", "application/json");
    if (!options.api_key.empty()) headers.emplace("Authorization", "Bearer " + options.api_key);
  }

  /// Sends a request; the answer whatever its status. `body` null: GET.
  Result<Reply> call(const std::string& path, const json* body, milliseconds timeout) {
    const std::string name = (body == nullptr ? "GET " : "POST ") + path;
    http.set_read_timeout(timeout);
    const auto started = Clock::now();
    answered = false;
    const httplib::Result got = body == nullptr
                                    ? http.Get(prefix + path, headers)
                                    : http.Post(prefix + path, headers, dump(*body), "application/json");
    if (!got) return transport_error(name, got.error(), Clock::now() - started >= timeout);
    answered = true;
    Reply reply{got->status, json::parse(got->body, nullptr, false), {}};
    if (reply.status != 200 || reply.body.is_discarded()) reply.text = got->body;
    return reply;
  }

  /// The JSON of an answer with status 200.
  Result<json> ask(const std::string& path, const json* body, milliseconds timeout) {
    const std::string name = (body == nullptr ? "GET " : "POST ") + path;
    auto reply = call(path, body, timeout);
    if (!reply) return reply.error();
    if (reply->status != 200) return status_error(name, reply->status, reply->body, reply->text);
    if (reply->body.is_discarded()) return shape_error(name, quoted_line(reply->text));
    return std::move(reply->body);
  }

  Error transport_error(const std::string& name, httplib::Error error, bool late) const {
    using httplib::Error;
    if (error == Error::Connection || error == Error::ConnectionTimeout || error == Error::SSLConnection ||
        error == Error::SSLServerVerification) {
      return {ErrorCode::kTargetUnavailable, kNoOffset, name, "nothing answers there"};
    }
    if (late) return {ErrorCode::kTargetBusy, kNoOffset, name, "no answer in time"};
    return {ErrorCode::kTargetUnavailable, kNoOffset, name, "the connection broke before the answer came"};
  }

  Result<SlotReply> act(std::uint32_t slot, const char* action, const json& body, milliseconds timeout,
                        const char* tokens_key, const char* bytes_key) {
    const std::string path = "/slots/" + std::to_string(slot) + "?action=" + action;
    auto reply = ask(path, &body, timeout);
    if (!reply) return reply.error();
    if (!integer_of(*reply, tokens_key) || integer_of(*reply, "id_slot") != std::int64_t{slot}) {
      return shape_error("POST " + path, std::string(tokens_key) + " or id_slot is missing");
    }
    return SlotReply{count_of(*reply, tokens_key), count_of(*reply, bytes_key)};
  }

  ClientOptions options;
  std::string prefix;
  httplib::Client http;
  httplib::Headers headers;
  bool answered = false;
};

ServerClient::ServerClient(std::unique_ptr<State> state) : state_(std::move(state)) {}
ServerClient::ServerClient(ServerClient&&) noexcept = default;
ServerClient& ServerClient::operator=(ServerClient&&) noexcept = default;
ServerClient::~ServerClient() = default;

Result<ServerClient> ServerClient::create(const ClientOptions& options) {
  const SplitUrl split = split_url(options.url);
  if (split.origin.empty()) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "url",
                 "\"" + quoted_line(options.url) + "\" is not http://host:port"};
  }
  return ServerClient(std::make_unique<State>(options, split));
}

const std::string& ServerClient::url() const { return state_->options.url; }

bool ServerClient::answered() const { return state_->answered; }

Result<ServerFacts> ServerClient::props() {
  auto reply = state_->ask("/props", nullptr, state_->options.read_timeout);
  if (!reply) return reply.error();
  const json& body = *reply;
  ServerFacts facts;
  facts.model_path = text_of(body, "model_path");
  facts.build_info = text_of(body, "build_info");
  facts.chat_template = text_of(body, "chat_template");
  facts.bos_token = text_of(body, "bos_token");
  facts.instance = text_of(body, "media_marker");
  const auto slots = integer_of(body, "total_slots");
  if (!slots || *slots < 1) return shape_error("GET /props", "total_slots is missing");
  facts.total_slots = static_cast<std::uint32_t>(*slots);
  return facts;
}

Result<std::optional<std::vector<SlotInfo>>> ServerClient::slots() {
  auto reply = state_->call("/slots", nullptr, state_->options.read_timeout);
  if (!reply) return reply.error();
  if (reply->status == 501) return std::optional<std::vector<SlotInfo>>{};
  if (reply->status != 200) {
    return status_error("GET /slots", reply->status, reply->body, reply->text);
  }
  if (!reply->body.is_array()) return shape_error("GET /slots", "no list of slots");
  std::vector<SlotInfo> slots;
  for (const json& entry : reply->body) {
    SlotInfo info;
    info.id = static_cast<std::uint32_t>(count_of(entry, "id"));
    info.context = count_of(entry, "n_ctx");
    info.busy = flag_of(entry, "is_processing");
    info.task = integer_of(entry, "id_task");
    if (integer_of(entry, "n_prompt_tokens")) info.tokens = count_of(entry, "n_prompt_tokens");
    slots.push_back(info);
  }
  return std::optional(std::move(slots));
}

Result<std::optional<std::string>> ServerClient::adapters() {
  auto reply = state_->call("/lora-adapters", nullptr, state_->options.read_timeout);
  if (!reply) return reply.error();
  if (reply->status != 200 || !reply->body.is_array()) return std::optional<std::string>{};
  std::vector<std::string> names;
  for (const json& entry : reply->body) {
    const json scale = entry.is_object() ? entry.value("scale", json(1.0)) : json(1.0);
    if (scale.is_number() && scale.get<double>() == 0.0) continue;
    const std::string path = text_of(entry, "path");
    names.push_back(path.substr(path.find_last_of("/\\") + 1) + "@" + scale.dump());
  }
  if (names.empty()) return std::optional<std::string>("none");
  std::sort(names.begin(), names.end());
  std::string line;
  for (const std::string& name : names) line += (line.empty() ? "" : ",") + name;
  return std::optional(line);
}

Result<SlotReply> ServerClient::save(std::uint32_t slot, const std::string& file_name, milliseconds timeout) {
  return state_->act(slot, "save", {{"filename", file_name}}, timeout, "n_saved", "n_written");
}

Result<SlotReply> ServerClient::restore(std::uint32_t slot, const std::string& file_name,
                                        milliseconds timeout) {
  return state_->act(slot, "restore", {{"filename", file_name}}, timeout, "n_restored", "n_read");
}

Status ServerClient::erase(std::uint32_t slot, milliseconds timeout) {
  auto reply = state_->act(slot, "erase", json::object(), timeout, "n_erased", "n_erased");
  if (!reply) return reply.error();
  return {};
}

Result<std::vector<std::int32_t>> ServerClient::tokenize(std::string_view text, bool add_special) {
  const json body{{"content", text}, {"add_special", add_special}, {"parse_special", true}};
  auto reply = state_->ask("/tokenize", &body, state_->options.read_timeout);
  if (!reply) return reply.error();
  const json tokens = reply->is_object() ? reply->value("tokens", json()) : json();
  if (!tokens.is_array()) return shape_error("POST /tokenize", "no tokens");
  std::vector<std::int32_t> ids;
  for (const json& token : tokens) {
    if (!token.is_number_integer()) return shape_error("POST /tokenize", "a token is no number");
    ids.push_back(token.get<std::int32_t>());
  }
  return ids;
}

Result<std::string> ServerClient::detokenize(const std::vector<std::int32_t>& tokens) {
  const json body{{"tokens", tokens}};
  auto reply = state_->ask("/detokenize", &body, state_->options.read_timeout);
  if (!reply) return reply.error();
  return text_of(*reply, "content");
}

Result<std::string> ServerClient::apply_template(const json& request) {
  auto reply = state_->ask("/apply-template", &request, state_->options.read_timeout);
  if (!reply) return reply.error();
  if (text_of(*reply, "prompt").empty()) return shape_error("POST /apply-template", "no prompt");
  return text_of(*reply, "prompt");
}

Result<CompletionReply> ServerClient::completion(json body,
                                                 const std::function<bool(std::string_view)>& on_text) {
  const std::string name = "POST /completion";
  body["stream"] = true;
  CompletionEvents events(on_text);
  httplib::Request request;
  request.method = "POST";
  request.path = state_->prefix + "/completion";
  request.headers = state_->headers;
  request.set_header("Content-Type", "application/json");
  request.body = dump(body);
  request.content_receiver = [&](const char* data, std::size_t size, std::uint64_t, std::uint64_t) {
    return events.take({data, size});
  };
  state_->http.set_read_timeout(state_->options.read_timeout);
  const auto started = Clock::now();
  const httplib::Result got = state_->http.send(request);
  state_->http.stop();  // the server closes after a stream: the next call must not race with that
  state_->answered = bool(got);
  if (events.stopped()) return Error{ErrorCode::kInterrupted, kNoOffset, name, ""};
  if (!got) {
    const bool late = Clock::now() - started >= state_->options.read_timeout;
    return state_->transport_error(name, got.error(), late);
  }
  events.finish();
  if (got->status != 200) return status_error(name, got->status, events.error(), "");
  if (!events.error().is_null()) {
    const int status = static_cast<int>(count_of(events.error()["error"], "code"));
    return status_error(name, status, events.error(), "");
  }
  if (!events.ended()) return shape_error(name, "the stream has no last event");
  return std::move(events.reply());
}

}  // namespace cachecard::llama_server
