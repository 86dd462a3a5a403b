// The peer that `inject --ask` is measured against: the server restores its own slot file and
// answers the same request, sent by the same client.
//   plain_restore URL SLOT FILE_NAME BODY.json

#include <cstdio>
#include <fstream>

#include <nlohmann/json.hpp>

#include "llama_server/server_client.hpp"

using namespace cachecard;
using namespace cachecard::llama_server;

namespace {

int fail(const Error& error) {
  std::fprintf(stderr, "plain_restore: %s\n", error.message().c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: plain_restore URL SLOT FILE_NAME BODY.json\n");
    return 2;
  }
  const auto slot = static_cast<std::uint32_t>(std::stoul(argv[2]));
  nlohmann::json body = nlohmann::json::parse(std::ifstream(argv[4]));
  body["id_slot"] = slot;
  body["cache_prompt"] = true;
  ClientOptions options;
  options.url = argv[1];
  auto client = ServerClient::create(options);
  if (!client) return fail(client.error());
  auto restored = client->restore(slot, argv[3], std::chrono::seconds(60));
  if (!restored) return fail(restored.error());
  auto reply = client->completion(body);
  if (!reply) return fail(reply.error());
  std::printf("{\"restored\": %llu, \"cache_n\": %llu}\n", static_cast<unsigned long long>(restored->tokens),
              static_cast<unsigned long long>(reply->cache_count));
  return 0;
}
