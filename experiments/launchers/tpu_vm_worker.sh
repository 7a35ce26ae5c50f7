#!/bin/sh
# What experiments/launchers/tpu_vm.py tells each worker of a TPU VM to do:
#   install COMMIT PYTHON MOUNT        MOUNT is a shell command, or empty
#   start COMMIT NAME WORKDIR ARGUMENTS...   stdin: lines of `export NAME=VALUE`, kept in memory only
#   follow NAME LINE                   writes the log from that line on, then "exit code N"
#   stop NAME                          has the run save, and waits for it
set -eu

runs=$HOME/lm-runs
patience=3000 # Fifths of a second for a run to save, before it is killed.

install() {
    tree=$HOME/lm-$1
    if [ ! -e "$tree/.venv/is-complete" ]; then
        rm -rf "$tree"
        git init -q "$tree"
        git -C "$tree" fetch -q "$HOME/lm-$1.bundle" HEAD
        git -C "$tree" checkout -q --detach FETCH_HEAD
        PATH=$HOME/.local/bin:$PATH
        command -v uv >/dev/null || python3 -m pip install -q --user uv
        cd "$tree"
        uv venv -q --python "$2" .venv
        uv pip install -q --python .venv/bin/python --no-deps --require-hashes \
            -r requirements.lock -r requirements-tpu.lock
        touch .venv/is-complete
    fi
    cd "$HOME"
    sh -c "$3"
}

is_alive() {
    [ -e "$runs/$1/pid" ] && [ ! -e "$runs/$1/code" ] && kill -0 "$(cat "$runs/$1/pid")" 2>/dev/null
}

start() {
    tree=$HOME/lm-$1 name=$2 workdir=$3
    shift 3
    exports=$(cat)
    for other in "$runs"/*; do
        [ "$other" = "$runs/$name" ] || stop "${other##*/}"
    done
    is_alive "$name" && return
    folder=${workdir%/*}
    mkdir -p "$folder"
    case $(stat -f -c %T "$folder") in
    nfs* | fuse* | lustre | ceph | gpfs | smb* | cifs | beegfs) ;;
    *)
        echo "error: --workdir=$workdir is on a disk of this worker alone, and is lost with it;" \
            "mount what all share by --launcher.mount, and name a folder in it" >&2
        exit 2
        ;;
    esac
    mkdir -p "$runs/$name"
    rm -f "$runs/$name/pid" "$runs/$name/code"
    cd "$tree"
    eval "$exports"
    # Of no session that ends with this connection.
    setsid sh -c '
        folder=$1; shift
        "$@" >"$folder/log" 2>&1 </dev/null &
        echo $! >"$folder/pid"
        code=0; wait $! || code=$?
        echo $code >"$folder/code.tmp"; mv "$folder/code.tmp" "$folder/code"
    ' sh "$runs/$name" .venv/bin/python launch.py "$@" >/dev/null 2>&1 </dev/null &
    until [ -e "$runs/$name/pid" ]; do sleep 0.1; done
}

follow() {
    [ -e "$runs/$1/pid" ] || exit 3
    tail -q -n "+$2" -s 0.2 -f --pid="$(cat "$runs/$1/pid")" "$runs/$1/log"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ -e "$runs/$1/code" ] || sleep 0.3
    done
    echo "exit code $(cat "$runs/$1/code")"
}

stop() {
    is_alive "$1" || return 0
    kill -TERM "$(cat "$runs/$1/pid")"
    waited=0
    while is_alive "$1" && [ $waited -lt $patience ]; do
        sleep 0.2
        waited=$((waited + 1))
    done
    ! is_alive "$1" || kill -KILL "$(cat "$runs/$1/pid")"
}

"$@"
