#!/usr/bin/env bash
# The Debian package, installed, run, removed and purged: on a throw-away copy of this machine's filesystem, which no change
# leaves. Needs root, cargo-deb, and a program that is built (profile release, or what the first argument says).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [ "$(id -u)" -ne 0 ] || ! unshare --mount true 2>/dev/null; then
    echo 'SKIPPED the package: only root can make the copy that it is installed on' >&2
    exit 0
fi

package=$(packaging/build-deb.sh "${1:-release}")
package=$(realpath "$package")
dpkg-deb --info "$package"

copy=$(mktemp -d)
trap 'rmdir "$copy"' EXIT
# The copy, and every process in it, end with the shell inside.
unshare --mount --pid --fork --kill-child --propagation private bash -euo pipefail -c '
    copy=$1 package=$2 script=$3
    mount -t tmpfs none "$copy"
    mkdir "$copy"/{new,work,root}
    mount -t overlay none -o lowerdir=/,upperdir="$copy/new",workdir="$copy/work" "$copy/root"
    mount -t proc none "$copy/root/proc"
    mount --rbind /dev "$copy/root/dev"
    # Not booted, as far as the package can see: no daemon of this machine is told anything.
    mount -t tmpfs none "$copy/root/run"
    mount -t tmpfs none "$copy/root/tmp"
    cp "$package" "$copy/root/tmp/package.deb"
    cp "$script" "$copy/root/tmp/inside.sh"
    chroot "$copy/root" bash /tmp/inside.sh
' bash "$copy" "$package" tests/package/inside.sh
