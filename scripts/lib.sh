# What setup, test and demo share; sourced by them (bash), from any directory.
# shellcheck shell=bash disable=SC2034
set -eu
umask 022  # QEMU runs as another user, who must be able to read what is made here.

sourceDir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
buildDir=${VIRT_HANDOVER_BUILD:-$sourceDir/build}

if [ -n "${VIRT_HANDOVER_CACHE-}" ]; then
    cacheDir=$VIRT_HANDOVER_CACHE
elif [ "$(id -u)" = 0 ]; then
    cacheDir=/var/cache/virt-handover
else
    cacheDir=${XDG_CACHE_HOME:-$HOME/.cache}/virt-handover
fi
case "$cacheDir" in
    /*) ;;
    *) cacheDir=$PWD/$cacheDir ;;
esac
export VIRT_HANDOVER_CACHE=$cacheDir  # For what is started from another directory.

# Where the tests and the demo find the QEMUs and the guest. The oldest one knows nothing of CPR.
export VH_QEMU_OLDEST=$cacheDir/bin/qemu-7.2
export VH_QEMU_OLD=$cacheDir/bin/qemu-10.0
export VH_QEMU_NEW=$cacheDir/bin/qemu-11.1
export VH_GUEST_KERNEL=$cacheDir/guest/vmlinuz
export VH_GUEST_INITRAMFS=$cacheDir/guest/initramfs.gz

say() { printf '%s: %s\n' "${0##*/}" "$*"; }
fail() { printf '%s: error: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# The comment at the top of the script, to the first empty line, is its help.
printHelp() { sed -n '2,/^$/{s/^# \{0,1\}//;p;}' "$0"; }

# configureAndBuild DIRECTORY [FILE...]: all, or only these files of the build directory. meson reconfigures an existing build directory
# by itself. Eight files are compiled as one, for most of a file's time goes to the headers that it shares with its neighbours;
# scripts/clang-check --each looks at each alone.
configureAndBuild() {
    local directory=$1
    shift
    if [ ! -f "$directory/build.ninja" ]; then
        endingWithUs meson setup -Dunity=on -Dunity_size=8 "$directory" "$sourceDir" || return
    fi
    # Not `meson compile`, which would leave its ninja when it is ended. Where even ninja is killed, compilers finish their file.
    endingWithUs ninja -C "$directory" "$@"
}

# endingWithUs COMMAND...: does not outlive us, whatever ends us. On SIGINT and SIGTERM it has ten seconds to clean up, and then
# whenInterrupted STATUS ends us.
whenInterrupted() { exit "$1"; }
endingWithUs() {
    local child status=0
    # What a shell starts in the background ignores SIGINT, and so would every test.
    setpriv --pdeathsig KILL -- env --default-signal=INT,QUIT "$@" </dev/null &
    child=$!
    trap 'stopChild "$child"; whenInterrupted 130' INT
    trap 'stopChild "$child"; whenInterrupted 143' TERM HUP
    wait "$child" || status=$?
    trap - INT TERM HUP
    return "$status"
}
stopChild() {
    local tenths
    kill -TERM "$1" 2>/dev/null || return 0
    for ((tenths = 0; tenths < 100; tenths++)); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
}
