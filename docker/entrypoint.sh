#!/bin/sh
# What a container runs: `serve` (the default), `torchserve …`, `tritonserver …`, `jitney …`, or any other command.
# The server replaces this shell, so that the container's signals reach it: SIGTERM drains.
set -eu
here=$(dirname "$(readlink -f "$0")")

writable() {
    mkdir -p "$1" 2>/dev/null && [ -w "$1" ]
}

say() {
    echo "jitney: $*" >&2
}

# A read-only root file system: what is written goes where it can.
if [ -z "${TMPDIR:-}" ] && ! writable "${TEMP:-/tmp}" && ! writable /tmp && writable /dev/shm; then
    export TMPDIR=/dev/shm
    say "no temporary folder can be written to, so archives are unpacked in /dev/shm; --tmpfs /tmp gives one"
fi
if ! writable "${LOG_LOCATION:-logs}"; then
    folder=${TMPDIR:-/tmp}/logs
    export LOG_LOCATION="$folder"
    say "${PWD}/logs cannot be written to: log files are in $folder"
fi
if ! writable "${METRICS_LOCATION:-logs}"; then
    export METRICS_LOCATION="${LOG_LOCATION:-logs}"
fi

[ $# -gt 0 ] || set -- serve
case $1 in
    serve)
        shift
        : "${JITNEY_DEFAULTS:=$here/defaults/open.properties}"
        export JITNEY_DEFAULTS
        exec "$here/bin/torchserve" --start --foreground --ts-config /home/model-server/config.properties "$@"
        ;;
    torchserve | "torchserve "*)
        # TorchServe's entrypoint evaluates its arguments: images and pods rely on "$VARIABLE" and on one long string.
        eval "set -- $*"
        exec "$@" --foreground
        ;;
    jitney)
        # The image's own config.properties is for `serve` and `torchserve`; one of the user's is read as ever.
        if [ "${2:-}" = serve ] && cmp -s config.properties "$here/config.properties"; then
            shift 2
            set -- jitney serve --config "$here/defaults/none.properties" "$@"
        fi
        exec "$@"
        ;;
    *) exec "$@" ;;
esac
