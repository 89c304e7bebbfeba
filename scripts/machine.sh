# What `x` and `scripts/pass` both need to know of a machine; read by them, not run.
# shellcheck shell=sh

bold='' plain=''
if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); fi
# GL drivers look for a display through this and complain where a machine has none.
[ -n "${XDG_RUNTIME_DIR:-}" ] || export XDG_RUNTIME_DIR="${TMPDIR:-/tmp}"

say() { printf '%s%s:%s %s\n' "$bold" "$speaker" "$plain" "$*" >&2; }
# A command to copy stands alone on its line.
show() { printf '\n    %s\n\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

unpack_loaders() { # FOLDER of Debian packages, into $private: those of another release can break /
    for package in "$1"/*.deb; do
        dpkg -x "$package" "$private" || say "could not unpack $package"
    done
    for folder in "$private"/usr/lib/*-linux-gnu* "$private"/lib/*-linux-gnu* "$private"/usr/lib "$private"/usr/lib64; do
        [ -d "$folder" ] && LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    done
    export LD_LIBRARY_PATH
}

find_drivers() { # tell the loaders of driver manifests outside /usr/share
    private=${private:-/nonexistent}
    data=${XDG_DATA_DIRS:-/usr/local/share:/usr/share}
    vendors=${__EGL_VENDOR_LIBRARY_DIRS:-/etc/glvnd/egl_vendor.d:/usr/share/glvnd/egl_vendor.d}
    # Container hosts such as GKE mount the NVIDIA driver at /usr/local/nvidia.
    for folder in "$private/usr/share" /usr/local/nvidia/share; do
        [ -d "$folder/vulkan" ] && data=$data:$folder
        [ -d "$folder/glvnd/egl_vendor.d" ] && vendors=$vendors:$folder/glvnd/egl_vendor.d
    done
    export XDG_DATA_DIRS="$data" __EGL_VENDOR_LIBRARY_DIRS="$vendors"
}

has_adapter() { # asks the program itself; it lists the host CPU too, as another runner
    devices=$("$bin" devices --native --json 2>/dev/null </dev/null)
    code=$?
    case $devices in *'"runner": "wgpu"'* | *'"runner":"wgpu"'*) return 0 ;; esac
    return 1
}
