#include "llama_server/slot_template.hpp"

#include <unistd.h>

#include <nlohmann/json.hpp>

namespace cachecard::llama_server {
namespace {

using nlohmann::json;

std::uint32_t stream_count(const llama_cpp::StateFile& state) {
  return state.caches.empty() ? 1 : state.caches.front().n_stream;
}

/// A cache of several streams holds slot N in stream N; of one stream, all slots share it.
SlotTemplate for_slot(llama_cpp::StateTemplate layout, std::uint32_t slot, std::string from) {
  const bool several = !layout.caches.empty() && layout.caches.front().n_stream > 1;
  layout.stream_index = several ? slot : 0;
  return {std::move(layout), std::move(from), false};
}

Result<SlotTemplate> from_file(const SlotAccess& access, const TemplateQuestion& question) {
  auto like = read_slot_file(question.like, question.model);
  if (!like) return like.error();
  const std::uint32_t wanted = stream_count(question.old_slot.state);
  const std::uint32_t found = stream_count(like->state);
  if (found != wanted) {
    return Error{ErrorCode::kGeometryMismatch, kNoOffset, "like",
                 "the file has " + std::to_string(found) + " streams, the server's cache has " +
                     std::to_string(wanted)};
  }
  auto layout = llama_cpp::template_of(like->state);
  if (!layout) return layout.error();
  return for_slot(std::move(*layout), access.slot, "--like");
}

/// What is known of another slot without touching it.
enum class Neighbour : std::uint8_t { kEmpty, kIdle, kBusy };
Neighbour neighbour(const SlotView& view, std::uint32_t slot) {
  for (const SlotInfo& info : view.all) {
    if (info.id != slot) continue;
    if (info.busy) return Neighbour::kBusy;
    // One that never worked says nothing, and may still hold a restored file.
    return info.tokens && *info.tokens == 0 ? Neighbour::kEmpty : Neighbour::kIdle;
  }
  return Neighbour::kIdle;
}

Result<SlotTemplate> from_probe(ServerClient& client, const SlotAccess& access,
                                const TemplateQuestion& question) {
  if (Status s = question.before_probe(); !s) return s.error();
  const json body{{"prompt", json::array({kProbeToken})},
                  {"n_predict", 0},
                  {"id_slot", access.slot},
                  {"cache_prompt", false},
                  {"temperature", 0.0}};
  if (auto reply = client.completion(body); !reply) return reply.error();
  auto saved = save_slot(client, access, access.slot, question.sample_name, question.model,
                         action_time(access, question.view.shown));
  if (!saved) return saved.error();
  if (saved->token_count != 1) {
    return Error{ErrorCode::kTargetBusy,
                 kNoOffset,
                 {},
                 "another request came into slot " + std::to_string(access.slot)};
  }
  auto layout = llama_cpp::template_of(saved->state);
  if (!layout) return layout.error();
  SlotTemplate found =
      for_slot(std::move(*layout), access.slot, "one token in slot " + std::to_string(access.slot));
  found.probed = true;
  return found;
}

}  // namespace

Result<SlotTemplate> find_template(ServerClient& client, const SlotAccess& access,
                                   const TemplateQuestion& question) {
  if (!question.like.empty()) return from_file(access, question);
  if (question.old_slot.token_count > 0) {
    auto layout = llama_cpp::template_of(question.old_slot.state);
    if (!layout) return layout.error();
    return for_slot(std::move(*layout), access.slot, "slot " + std::to_string(access.slot));
  }
  bool others_at_work = false;
  for (std::uint32_t other = 0; other < question.total_slots; ++other) {
    if (other == access.slot) continue;
    const Neighbour state = neighbour(question.view, other);
    if (state == Neighbour::kBusy) others_at_work = true;
    if (state != Neighbour::kIdle) continue;
    auto saved = save_slot(client, access, other, question.sample_name, question.model,
                           action_time(access, question.view.shown));
    if (!saved) return saved.error();
    ::unlink(access.path(question.sample_name).c_str());
    if (saved->token_count == 0) continue;
    auto layout = llama_cpp::template_of(saved->state);
    if (!layout) return layout.error();
    return for_slot(std::move(*layout), access.slot, "slot " + std::to_string(other));
  }
  // Any completion empties the idle slots of a shared cache, and slows down those at work.
  if (others_at_work && stream_count(question.old_slot.state) == 1) {
    return Error{ErrorCode::kTargetBusy,
                 kNoOffset,
                 {},
                 "slot " + std::to_string(access.slot) +
                     " is empty, others are at work, and a probe could empty them: --like takes a "
                     "slot file that this server saved before"};
  }
  return from_probe(client, access, question);
}

}  // namespace cachecard::llama_server
