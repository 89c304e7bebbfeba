# Root folders with the packages of another Debian than the machine's; read by other scripts, not run.
# shellcheck shell=sh

root_possible() {
    for tool in apt-get dpkg unshare chroot; do
        have $tool || { say "$tool is missing: this needs Debian (or a container of it)" && return 1; }
    done
    [ "$(id -u)" -eq 0 ] || { say "this needs root, to run the command in a root folder of its own" && return 1; }
    unshare --mount true || { say "this needs mounts of its own, which are not permitted here" && return 1; }
    case $PWD/ in "$root"/* | "$built"/* | /tmp/*) ;; *) say "run it in the clone or under /tmp: the command sees no other folder" && return 1 ;; esac
}

make_root() { # FOLDER "RELEASE..." PACKAGE...: in FOLDER.new first, so that what was cut off is not taken for whole
    folder=$1 releases=$2
    shift 2
    debian() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | grep -v security | head -n 1; }
    # Images for containers come without lists of packages.
    site=$(debian)
    [ -n "$site" ] || { apt-get update >&2 && site=$(debian); }
    [ -n "$site" ] || { say "apt knows no source of Debian's packages to get $releases from" && return 1; }
    new=$folder.new
    rm -rf "$new"
    mkdir -p "$new/apt/lists/partial" "$new/apt/archives/partial" "$new/root" || return 1
    : >"$new/apt/status"
    for release in $releases; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $release main"
    done >"$new/apt/sources"
    # Root's folder may be closed to apt's own user.
    aptly() {
        apt-get -o Dir::Etc::SourceList="$new/apt/sources" -o Dir::Etc::SourceParts=- -o APT::Sandbox::User=root \
            -o Dir::State::Lists="$new/apt/lists" -o Dir::State::Status="$new/apt/status" -o Dir::Cache="$new/apt" "$@" >&2
    }
    aptly update &&
        aptly install -y --download-only --no-install-recommends libc6 bash coreutils sed grep mawk findutils "$@" || return 1
    for place in bin sbin lib lib64; do
        mkdir -p "$new/root/usr/$place" && ln -s "usr/$place" "$new/root/$place" || return 1
    done
    for package in "$new"/apt/archives/*.deb; do dpkg -x "$package" "$new/root" || return 1; done
    # What the packages would do on being configured.
    ln -s bash "$new/root/usr/bin/sh" && ln -s mawk "$new/root/usr/bin/awk" || return 1
    rm -rf "$new/apt" "$folder"
    mv "$new" "$folder"
}

# Mounts are seen by the command alone and are gone with it. The clone has the same path in there. Takes
# the place of the shell.
enter() { # FOLDER [NAME=VALUE...] COMMAND [ARGUMENT...]; $also is one more folder that it is to see
    inside=$1/root
    shift
    # shellcheck disable=SC2016 # expanded by the inner shell
    exec unshare --mount sh -c '
        inside=$1 clone=$2 built=$3 also=$4 && shift 4
        for place in /proc /dev /sys /tmp "$clone" "$built" ${also:+"$also"}; do
            mkdir -p "$inside$place" && mount --rbind "$place" "$inside$place" || exit 2
        done
        exec chroot "$inside" /usr/bin/env -C "$PWD" PATH=/usr/bin HOME=/tmp TMPDIR=/tmp "$@"
    ' "$speaker" "$inside" "$root" "$built" "${also:-}" "$@"
}
