#include "kernel/planes.hpp"

namespace cachecard::kernel {

const PlanesKernels& planes_kernels() { return planes_scalar(); }

}  // namespace cachecard::kernel
