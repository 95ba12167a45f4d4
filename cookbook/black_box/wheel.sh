#!/usr/bin/env bash
# Builds the wheel of llama-cpp-python for CPU once, and prints where it is.
#
# Of llama.cpp only its library is compiled: neither its tools nor its command-line helpers.
set -euo pipefail

python=${1:-python3}
version=0.3.36
wheels=${W2S_CACHE:-$HOME/.cache/w2s_chains}/wheels

find_wheel() { find "$wheels" -name "llama_cpp_python-$version-*.whl" -print -quit 2>/dev/null; }

if [ -z "$(find_wheel)" ]; then
    if ! command -v c++ >/dev/null; then
        echo "no C++ compiler: installing g++" >&2
        apt-get install --quiet --yes g++ >&2 || { apt-get update >&2; apt-get install --yes g++ >&2; }
    fi
    mkdir -p "$wheels"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    "$python" -m pip download --quiet --no-deps --no-binary llama-cpp-python \
        --dest "$work" "llama-cpp-python==$version" >&2
    tar -xzf "$work/llama_cpp_python-$version.tar.gz" -C "$work"
    source=$work/llama_cpp_python-$version
    sed -i 's/set(LLAMA_BUILD_COMMON ON/set(LLAMA_BUILD_COMMON OFF/' "$source/CMakeLists.txt"
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAVA_BUILD=OFF -DCMAKE_CXX_FLAGS_RELEASE=-O2" \
        CMAKE_BUILD_PARALLEL_LEVEL=$(getconf _NPROCESSORS_ONLN) \
        nice -n 19 "$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/built" "$source" >&2
    mv "$work"/built/*.whl "$wheels"
fi
find_wheel
