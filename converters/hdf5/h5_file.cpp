#include "h5_file.hpp"

#include <algorithm>
#include <cstring>

#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>  // where later releases keep H5FD_class_t
#endif

namespace cachecard::hdf5 {

/// A file driver of the library, over our own reads and writes.
struct H5File::Driver {
  struct Info {
    const ByteSource* source;
    RandomSink* sink;
    std::optional<Error>* failure;
  };
  H5FD_t base;  ///< first: the library fills it in
  Info info;
  haddr_t end_of_space;
  haddr_t end_of_file;
  /// After a failed write nothing more is written, and the library is not told: what it cannot flush it never closes, and
  /// trips over as the process ends. written() is where callers hear of it.
  bool failed = false;

  static Driver& of(H5FD_t* file) { return *reinterpret_cast<Driver*>(file); }
  static const Driver& of(const H5FD_t* file) { return *reinterpret_cast<const Driver*>(file); }

  static H5FD_t* open(const char*, unsigned, hid_t access, haddr_t) {
    const auto* info = static_cast<const Info*>(H5Pget_driver_info(access));
    if (info == nullptr) return nullptr;
    const haddr_t end = info->source != nullptr ? info->source->size() : 0;
    return &(new Driver{{}, *info, 0, end, false})->base;
  }
  static herr_t close(H5FD_t* file) {
    delete &of(file);
    return 0;
  }
  static herr_t query(const H5FD_t*, unsigned long* flags) {
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
  }
  static haddr_t get_eoa(const H5FD_t* file, H5FD_mem_t) { return of(file).end_of_space; }
  static herr_t set_eoa(H5FD_t* file, H5FD_mem_t, haddr_t address) {
    of(file).end_of_space = address;
    return 0;
  }
  static haddr_t get_eof(const H5FD_t* file, H5FD_mem_t) { return of(file).end_of_file; }

  herr_t outcome(const Status& status) {
    if (status) return 0;
    if (!*info.failure) *info.failure = status.error();
    return -1;
  }

  /// Behind the end of the file come zeros, as in the library's own driver.
  static herr_t read(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, std::size_t size, void* out) {
    Driver& driver = of(file);
    const haddr_t end = driver.end_of_file;
    const std::size_t inside = address >= end ? 0 : std::min<haddr_t>(size, end - address);
    auto* bytes = static_cast<std::byte*>(out);
    std::fill(bytes + inside, bytes + size, std::byte{0});
    if (inside == 0) return 0;
    const std::span<std::byte> wanted(bytes, inside);
    const Info& info = driver.info;
    const herr_t done = driver.outcome(info.source != nullptr ? info.source->read_at(address, wanted)
                                                              : info.sink->read_at(address, wanted));
    return driver.failed ? 0 : done;
  }
  static herr_t write(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, std::size_t size, const void* in) {
    Driver& driver = of(file);
    if (driver.failed) return 0;
    if (driver.info.sink == nullptr) return -1;
    const Status done = driver.info.sink->write_at(address, {static_cast<const std::byte*>(in), size});
    driver.failed = driver.outcome(done) < 0;
    driver.end_of_file = std::max<haddr_t>(driver.end_of_file, address + size);
    return 0;
  }
  /// The superblock names the end of the space: a file that is shorter counts as truncated.
  static herr_t truncate(H5FD_t* file, hid_t, hbool_t) {
    Driver& driver = of(file);
    if (driver.info.sink == nullptr || driver.end_of_file >= driver.end_of_space) return 0;
    const std::byte zero{};
    return write(file, H5FD_MEM_DEFAULT, H5P_DEFAULT, driver.end_of_space - 1, 1, &zero);
  }

  static hid_t registered() {
    static const hid_t id = [] {
      H5FD_class_t driver;
      std::memset(&driver, 0, sizeof driver);
#if H5_VERSION_GE(1, 13, 0)
      driver.version = H5FD_CLASS_VERSION;
      driver.value = H5_VFD_RESERVED + 77;
#endif
      driver.name = "cachecard";
      driver.maxaddr = static_cast<haddr_t>(INT64_MAX);
      driver.fc_degree = H5F_CLOSE_STRONG;
      driver.fapl_size = sizeof(Info);
      driver.open = open;
      driver.close = close;
      driver.query = query;
      driver.get_eoa = get_eoa;
      driver.set_eoa = set_eoa;
      driver.get_eof = get_eof;
      driver.read = read;
      driver.write = write;
      driver.truncate = truncate;
      const H5FD_mem_t map[] = H5FD_FLMAP_DICHOTOMY;
      std::copy(std::begin(map), std::end(map), std::begin(driver.fl_map));
      return H5FDregister(&driver);
    }();
    return id;
  }

  /// Access properties of a file in source or sink. Old enough for every library since 1.8.
  static Handle access(const Info& info) {
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // it would print
    H5PLset_loading_state(0);                     // filters that a file names load no code
    Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    if (H5Pset_driver(access.get(), registered(), &info) < 0) return {};
    if (H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_LATEST) < 0) return {};
    return access;
  }
};

void leave_files_at_exit() { H5dont_atexit(); }

namespace {

/// The library's description of the innermost failure.
std::string library_words() {
  std::string words;
  const auto take = [](unsigned, const H5E_error2_t* entry, void* out) -> herr_t {
    auto& text = *static_cast<std::string*>(out);
    if (text.empty() && entry->desc != nullptr) text = entry->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take, &words);
  H5Eclear2(H5E_DEFAULT);
  for (char& c : words) c = c >= ' ' && c <= '~' ? c : '?';
  return words.substr(0, 160);
}

}  // namespace

Error H5File::error(ErrorCode code, const std::string& where, const std::string& what) const {
  const std::string words = library_words();
  if (*failure_) return **failure_;
  return {code, kNoOffset, where.empty() ? "/" : where, words.empty() ? what : what + ": " + words};
}

Result<H5File> H5File::open(const ByteSource& source) {
  auto failure = std::make_unique<std::optional<Error>>();
  const Handle access = Driver::access({&source, nullptr, failure.get()});
  H5File file(std::move(failure), {});
  if (access) file.id_ = Handle(H5Fopen("card.h5", H5F_ACC_RDONLY, access.get()), H5Fclose);
  if (!file.id_) return file.error(ErrorCode::kCorrupt, "", "the HDF5 file does not open");
  return file;
}

Result<H5File> H5File::create(RandomSink& sink) {
  auto failure = std::make_unique<std::optional<Error>>();
  const Handle access = Driver::access({nullptr, &sink, failure.get()});
  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.get(), 0);  // equal cards give equal files
  H5File file(std::move(failure), {});
  if (access) file.id_ = Handle(H5Fcreate("card.h5", H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose);
  if (!file.id_) return file.error(ErrorCode::kIo, "", "the HDF5 file cannot be created");
  return file;
}

std::unique_lock<std::mutex> H5File::enter() const {
  std::unique_lock lock(*mutex_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // a thread's own in some builds of the library
  return lock;
}

Status H5File::written() const {
  if (*failure_) return **failure_;
  return {};
}

Status H5File::close() {
  if (id_.close() && !*failure_) return {};
  return error(ErrorCode::kIo, "", "the HDF5 file cannot be finished");
}

}  // namespace cachecard::hdf5
