#!/bin/sh
# Builds jitney's image, with the flags of TorchServe's build_image.sh that have a meaning here.
set -eu

CUDA_BUILDS="cu126 cu128 cu130"
usage() {
    cat <<TEXT
usage: build_image.sh [options]
  -h,  --help                 this text
  -g,  --gpu                  for NVIDIA GPUs; without it for CPU
  -cv, --cudaversion VERSION  PyTorch's build: one of $CUDA_BUILDS (cu128)
  -py, --pythonversion X.Y    3.11, 3.12, 3.13 or 3.14 (3.12); python:X.Y-slim-bookworm is the base
  -bi, --baseimage IMAGE      another base, in place of -py
  -t,  --tag TAG              name of the image (jitney:latest-cpu, jitney:latest-gpu)
  -bt, --buildtype production the only one
  --extras LIST               jitney's extras (torch,onnx,grpc,tls,otel; with -g gpu,grpc,tls,otel)
  --pip-options OPTIONS       for pip, e.g. --no-index where docker/wheelhouse has all wheels
  --dry-run                   print the command only
DOCKER in the environment names the program (docker).
TEXT
}
fail() {
    echo "build_image.sh: $*" >&2
    exit 1
}

machine=cpu cuda='' python=3.12 base='' tag='' extras='' pip_options='' run=''
while [ $# -gt 0 ]; do
    option=$1
    shift
    case $option in
        -h | --help) usage; exit 0 ;;
        -g | --gpu) machine=gpu; continue ;;
        --dry-run) run="echo"; continue ;;
        -cv | --cudaversion | -py | --pythonversion | -bi | --baseimage | -t | --tag | -bt | --buildtype | --extras | --pip-options)
            [ $# -gt 0 ] || fail "$option needs a value" ;;
        -b | --branch_name | -r | --repo | -s | --source | -n | --nightly | -lf | --use-local-serve-folder)
            fail "$option chooses a source of TorchServe; here the checkout that this script lies in is built" ;;
        -ipex | --build-with-ipex | -cpp | --build-cpp) fail "$option: neither Intel's extension nor a C++ backend is used here" ;;
        *) fail "unknown option $option; --help lists them" ;;
    esac
    case $option in
        -cv | --cudaversion) cuda=$1 ;;
        -py | --pythonversion) python=$1 ;;
        -bi | --baseimage) base=$1 ;;
        -t | --tag) tag=$1 ;;
        -bt | --buildtype) [ "$1" = production ] || fail "build type '$1': there is production only" ;;
        --extras) extras=$1 ;;
        --pip-options) pip_options=$1 ;;
    esac
    shift
done

case $python in
    3.11 | 3.12 | 3.13 | 3.14) ;;
    *) fail "Python $python: expected 3.11, 3.12, 3.13 or 3.14" ;;
esac
if [ $machine = gpu ]; then
    cuda=${cuda:-cu128}
    case " $CUDA_BUILDS " in
        *" $cuda "*) ;;
        *) fail "CUDA version $cuda: PyTorch is built for $CUDA_BUILDS" ;;
    esac
elif [ -n "$cuda" ]; then
    fail "-cv $cuda is for GPUs: give -g too"
fi

cd "$(dirname "$0")/.."
default_extras=torch,onnx,grpc,tls,otel constraint=''
[ $machine = cpu ] || default_extras=gpu,grpc,tls,otel
index=https://download.pytorch.org/whl/${cuda:-cpu}
case $pip_options in *--no-index*) index='' ;; esac
case $cuda in cu12*) constraint='onnxruntime-gpu<1.27' ;; esac
$run "${DOCKER:-docker}" build --file docker/Dockerfile \
    --build-arg "BASE_IMAGE=${base:-python:$python-slim-bookworm}" --build-arg "CUDA_VERSION=$cuda" \
    --build-arg "EXTRAS=${extras:-$default_extras}" --build-arg "TORCH_INDEX=$index" --build-arg "PIP_OPTIONS=$pip_options" \
    --build-arg "CONSTRAINT=$constraint" \
    -t "${tag:-jitney:latest-$machine}" .
