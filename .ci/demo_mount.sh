# Sourced by ./demo: the directory mounted on this machine, which needs root.
# shellcheck shell=bash

mount_heading="events that inotifywait printed from the mount"

mount_needs() {
    need inotifywait inotify-tools
    [[ -n ${FARWATCH_BIN:-} ]] || need_build_tools
}

mount_builds() {
    build_farwatch
    [[ $(id -u) != 0 ]] || return 0
    ((${#as_root[@]})) || die "mounting needs root, and there is no sudo"
    exec sudo env "PATH=$PATH" "FARWATCH_BIN=$(realpath "$FARWATCH_BIN")" "$(realpath "$0")"
}

# Mounts $src, and lets inotifywait write to $events.
mount_starts() {
    mnt=$dir/mnt
    mkdir "$mnt"
    mkfifo "$dir/mounted"
    "$FARWATCH_BIN" mount "$src" "$mnt" >"$dir/mounted" &
    pids+=($!)
    exec {mounted}<"$dir/mounted"
    next_line "$mounted" "the mount"
    echo "$line"

    (cd "$mnt" && exec "${inotifywait[@]}" >"$dir/events" 2>&1) &
    pids+=($!)
    exec {events}<"$dir/events"
    echo "inotifywait -m -r $mnt"
}

mount_cleans() {
    if [[ -n ${mnt:-} ]] && mountpoint -q "$mnt"; then umount -l "$mnt"; fi
}
