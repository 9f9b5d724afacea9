# shellcheck shell=bash
# Servers of others on this machine, none of them installed; for scripts.
#
# fetch downloads Debian packages to INTEROP_CACHE and unpacks them, a root for
# each peer.  furnish, in namespaces of our own, lays these roots over /usr, and
# throw-away copies over /etc and /var.

cache=${INTEROP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mailserv-interop}

# Where a package is not called as its peer is.
declare -A package=([ip]=iproute2 [bind]=bind9 [dnsmasq]=dnsmasq-base
    [exim]=exim4-daemon-light [dovecot]=dovecot-pop3d)

# fetch PEER...: what furnish needs of them.
fetch() {
    local peer
    for peer; do
        fetch_one "$peer" "${package[$peer]:-$peer}" ||
            { echo "no package for $peer" >&2; return 1; }
    done
}

# fetch_one PEER PACKAGE: unpack what apt would install for it, and what it
# needs that this machine has not.  A C library other than ours would not start.
fetch_one() {
    local root=$cache/$1 debs deb dir
    [ -e "$root/.done" ] && return
    rm -rf "$root"
    mkdir -p "$root/debs" "$root/usr/lib" || return
    mapfile -t debs < <(apt-get -q -s --no-install-recommends install "$2" |
        sed -n 's/^Inst \([^ ]*\) .*/\1/p' | grep -v '^libc')
    if [ ${#debs[@]} -gt 0 ]; then # else it is installed
        (cd "$root/debs" && apt-get -q download "${debs[@]}") \
            >"$root/log" 2>&1 || { cat "$root/log"; return 1; }
    fi
    for deb in "$root"/debs/*.deb; do
        [ -e "$deb" ] && dpkg -x "$deb" "$root"
    done
    for dir in bin sbin lib; do # where /usr is merged, /lib is /usr/lib
        [ ! -d "$root/$dir" ] || cp -al "$root/$dir/." "$root/usr/$dir/"
    done
    rm -rf "$root/debs"
    touch "$root/.done"
}

# lay_roots FOLDER: the roots over /usr, an empty /run, memory in the folder.
lay_roots() {
    local lower=/usr root
    for root in "$cache"/*/; do lower=$root/usr:$lower; done
    mount -t tmpfs tmpfs "$1" && mount -t tmpfs tmpfs /run &&
        mount -t overlay -o "lowerdir=$lower" overlay /usr &&
        ip link set lo up
}

# furnish FOLDER: the file systems and users that the peers expect, in a mount
# namespace; what is written to them goes to this folder.
furnish() {
    local work=$1 dir host user
    lay_roots "$work" || return
    for dir in etc var; do
        mkdir -p "$work/$dir/up" "$work/$dir/work"
        mount -t overlay overlay "/$dir" -o \
            "lowerdir=/$dir,upperdir=$work/$dir/up,workdir=$work/$dir/work" ||
            return
    done
    for host in 10 11 12 13 21 22 23; do # RFC 5737: nobody's, so ours
        ip address add 192.0.2.$host/32 dev lo || return
    done
    for user in postfix postdrop Debian-exim bind nsd unbound dnsmasq \
        dovecot dovenull; do
        grep -q "^$user:" /etc/group || groupadd -r "$user"
        grep -q "^$user:" /etc/passwd || useradd -r -g "$user" "$user"
    done
    echo 'nameserver 192.0.2.10' >/etc/resolv.conf
    echo '127.0.0.1 localhost' >/etc/hosts
}
