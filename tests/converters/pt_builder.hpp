#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cachecard/io.hpp"

/// Files of torch.save made by hand, right or wrong, for the tests of converters/torch.
namespace cachecard::pytorch::testing {

using Files = std::vector<std::pair<std::string, std::string>>;

/// A zip of stored files.
std::vector<std::byte> zip_of(const Files& files);

/// A pickle: PROTO 2, body, STOP.
std::string pickle_of(std::string_view body);
/// A .pt whose pickle has this body, beside storages "0", "1", ... of these bytes.
std::vector<std::byte> pt_of(std::string_view body, const std::vector<std::string>& storages = {});

// Pieces of a pickle's body.
std::string text(std::string_view value);  ///< BINUNICODE
std::string number(std::int64_t value);    ///< LONG1 of 8 bytes
std::string global(std::string_view module, std::string_view name);
std::string numbers(const std::vector<std::int64_t>& values);  ///< a tuple
std::string storage(std::string_view type, std::string_view key, std::int64_t count);
struct View {
  std::string type = "HalfStorage";
  std::string key = "0";
  std::int64_t count = 0;  ///< of the storage
  std::int64_t offset = 0;
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> strides;
};
std::string tensor(const View& view);
/// A contiguous tensor that fills its storage.
std::string tensor(std::string_view type, std::string_view key, const std::vector<std::int64_t>& sizes);
std::string tuple(const std::vector<std::string>& members);
std::string dict(const std::vector<std::pair<std::string, std::string>>& items);

}  // namespace cachecard::pytorch::testing
