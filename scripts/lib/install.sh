# What scripts that install something before they run a command share. Sourced, not run.
# shellcheck shell=bash

say() { echo "${0##*/}: $*" >&2; }

# Installs packages on a Debian-like Linux, through the command of $1 where the user is not root. What apt-get prints goes to
# standard error: standard output belongs to the command that is run next.
install() {
    local root=(env DEBIAN_FRONTEND=noninteractive) sudo
    read -ra sudo <<<"$1"
    if [ "$(id -u)" -ne 0 ]; then
        root=("${sudo[@]}" "${root[@]}")
    fi
    "${root[@]}" apt-get update -q && "${root[@]}" apt-get install -y -q --no-install-recommends "${@:2}"
} >&2
