#!/usr/bin/env bash
# On a machine with an NVIDIA GPU and nvcc: build, test against float64, measure.
#
#   bench/gpu.sh            writes gpu.jsonl, simulator-gpu.jsonl and simulator-gpu-graphs.jsonl to
#                           ${OUT:-bench/results} and prints their tables
#
# Uses the Python that is on the path, its torch (built for CUDA) and the build tools it finds;
# nothing is installed: the build goes to a temporary directory that PYTHONPATH names. Peers
# (open_clip_torch, inf-cl, liger-kernel) are measured where they are installed.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
out=${OUT:-bench/results}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/site"

if "$python" -c 'import scikit_build_core, pybind11' 2>/dev/null; then
    "$python" -m pip install --quiet --no-build-isolation --no-deps --target "$work/site" \
        -C build-dir="$work/build" -C cmake.define.FEDSYN_CUDA=ON .
else
    # Without scikit-build-core, CMake alone lays out the same package.
    cmake -S . -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DFEDSYN_CUDA=ON \
        -DPython_EXECUTABLE="$(command -v "$python")" -DPYBIND11_FINDPYTHON=ON \
        -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)"
    cmake --build "$work/build" --parallel
    cp -r fedsyn "$work/site/fedsyn"
    cp -r kernels "$work/site/fedsyn/kernels"
    cmake --install "$work/build" --prefix "$work/site"
fi

# -P keeps the checkout, whose fedsyn has no compiled module, off the path.
export PYTHONPATH="$work/site:$PWD/bench${PYTHONPATH:+:$PYTHONPATH}"
"$python" -P -m pytest -m gpu -q tests/kernels tests/ops
"$python" -P bench/gpu.py --out "$out/gpu.jsonl"

# A round of a hundred clients beside the same algorithm, one client after another, on the same card;
# then with training steps as CUDA graphs.
simulate() {
    "$python" -P -m simulator --device cuda --clients 100 --rounds 4 --workloads local,synthesis "$@"
}
simulate --systems fedsyn,loop --out "$out/simulator-gpu.jsonl"
simulate --systems fedsyn --fedsyn engine.graphs=true --out "$out/simulator-gpu-graphs.jsonl"
