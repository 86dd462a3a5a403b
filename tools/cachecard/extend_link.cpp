#include "extend_link.hpp"

#include "output_file.hpp"
#include "span_file.hpp"
#include "table.hpp"
#include "topology_file.hpp"

namespace cachecard::cli {
namespace {

constexpr int kMostTries = 3;
constexpr double kAim = 0.99;  ///< bits are hit within a percent

Result<ExtendReport> rehearse(const CardReader& base, const CacheSource& state,
                              const ExtendOptions& options) {
  auto nowhere = open_output("-", true);
  if (!nowhere) return nowhere.error();
  return extend_card(base, state, **nowhere, options);
}

}  // namespace

Status fit_link(const CodecFlags& flags, const CardReader& base, const CacheSource& state,
                ExtendOptions& options, std::vector<std::string>& notes) {
  auto file = read_topology(flags.topology);
  if (!file) return file.error();
  auto number = file->find_link(flags.link);
  if (!number) return number.error();
  const std::uint64_t budget = link_budget(file->topology.links[*number]);
  const auto too_small = [&](std::string_view what, std::uint64_t bytes) {
    return usage_error(fmt::format("--link {}: it lets {} bytes pass, {} {}", flags.link, grouped(budget),
                                   what, grouped(bytes)));
  };
  auto tried = rehearse(base, state, options);
  if (!tried) return tried.error();
  double bits = 0.0;
  for (int round = 0; tried->written.file_size > budget; ++round) {
    const std::uint64_t kept = tried->written.file_size - tried->added_bytes;
    if (kept >= budget || tried->added_values == 0) return too_small("what is kept of BASE takes", kept);
    if (round == kMostTries)
      return too_small("the smallest card that was tried has", tried->written.file_size);
    const double left = 8.0 * static_cast<double>(budget - kept) / static_cast<double>(tried->added_values);
    // Where the last try missed, what it took says more than what it was asked for.
    const double took =
        8.0 * static_cast<double>(tried->added_bytes) / static_cast<double>(tried->added_values);
    bits = round == 0 ? kAim * left : bits * kAim * left / took;
    options.bits_of_base = false;
    options.card.entropy->bits = bits;
    tried = rehearse(base, state, options);
    if (!tried) return tried.error();
  }
  if (bits > 0.0) {
    notes.push_back(
        fmt::format("BASE's steps would take more than link {} lets pass: new tokens get {:.2f} bits a value",
                    file->link_name(*number), bits));
  }
  return {};
}

}  // namespace cachecard::cli
