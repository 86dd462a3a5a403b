#pragma once

#include "token_look.hpp"
#include "topology_file.hpp"

namespace cachecard::cli {

/// How much each token counts for the agents of a topology. Agents that say nothing look as the context
/// itself does.
class AgentLooks {
 public:
  /// Weighs the tokens for some agents. Adds to notes. Errors: those of find_look; of an agent's file, naming
  /// agent and line
  static Result<AgentLooks> find(const TopologyFile& file, std::span<const std::size_t> agents,
                                 const CodecFlags& flags, const CacheSource& source,
                                 const ModelProfile* profile, const ParallelFor& parallel,
                                 std::vector<std::string>& notes);

  /// Who says so: "from coder.npy".
  const std::string& whose(std::size_t agent) const { return whose_.at(agent); }
  /// What all agents would count that say nothing.
  const TokenWeights& context() const { return context_; }
  /// Of readers, by their shares. Needs: find was asked for them
  TokenWeights sum(std::span<const std::size_t> readers) const;

 private:
  explicit AgentLooks(const TopologyFile& file)
      : file_(&file), whose_(file.looks.size()), own_(file.looks.size()) {}

  const TopologyFile* file_;
  std::vector<std::string> whose_;
  std::vector<std::optional<TokenWeights>> own_;  ///< absent: the context's
  TokenWeights context_;
};

/// Bits a value below which entropy has no card.
inline constexpr double kLeastBits = 0.05;

/// What --topology and --link say of a card of source: flags with the link's budget as their own, or with
/// exact codecs where all of the cache passes. Adds to notes. Errors: invalid_argument, io
Result<CodecFlags> link_flags(const CodecFlags& flags, const CacheSource& source, const CardOptions& card,
                              std::vector<std::string>& notes);
/// The link's readers. Errors: as AgentLooks::find
Result<TokenLook> link_look(const CodecFlags& flags, const CacheSource& source, const ModelProfile* profile,
                            const ParallelFor& parallel, std::vector<std::string>& notes);

}  // namespace cachecard::cli
