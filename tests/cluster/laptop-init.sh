#!/bin/bash
# PID 1 of laptop $1, started by laptop.sh inside the laptop's namespaces, with resolver $2 (plain, resolved
# or the machine's own) and $3 as its `kvpn`. Its root is the machine's, under an overlay that is thrown away.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
NAME=$1 RESOLVER=$2 PROGRAM=$3 D=$STATE/$1
CHECKOUT=$(cd "$HERE/../.." && pwd)
hostname "$NAME"
[ "$RESOLVER" != machine ] || MACHINE_RESOLV_CONF=$(cat /etc/resolv.conf)
mount --make-rprivate /

mkdir -p "$D/disk"
mount -t tmpfs -o mode=755 laptop "$D/disk"
mkdir "$D"/disk/{upper,work,root}
# In the upper layer and not as a lower one: the kit lies under /, and overlapping layers are refused.
[ "$RESOLVER" != resolved ] || cp -a "$KIT/laptop/." "$D/disk/upper/"
r=$D/disk/root
mount -t overlay -o "lowerdir=/,upperdir=$D/disk/upper,workdir=$D/disk/work" laptop "$r"
mkdir -p "$r"/{proc,sys,run,tmp,dev}
mount -t proc proc "$r/proc"
mount -t sysfs sysfs "$r/sys"
mount -t tmpfs -o mode=755 run "$r/run"
mount -t tmpfs -o mode=1777 tmp "$r/tmp"
# Other file systems do not shine through the overlay; the checkout and the cache may lie on one, or below /tmp.
for d in "$CHECKOUT" "$CACHE"; do mkdir -p "$r$d"; mount --rbind "$d" "$r$d"; done
mount -t tmpfs -o mode=755 dev "$r/dev"
for n in null zero full random urandom tty; do touch "$r/dev/$n"; mount --bind "/dev/$n" "$r/dev/$n"; done
mkdir -p "$r"/dev/{net,pts,shm}
mknod -m 666 "$r/dev/net/tun" c 10 200
mount -t devpts -o newinstance,ptmxmode=666 devpts "$r/dev/pts"
ln -s pts/ptmx "$r/dev/ptmx"
ln -s /proc/self/fd "$r/dev/fd"
for n in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${n%:*}" "$r/dev/${n#*:}"; done
mkdir "$r/.old"
cd "$r"
pivot_root . .old
cd /
umount -l /.old
rmdir /.old

echo "127.0.1.1 $NAME" >>/etc/hosts
# A user without rights, as the person at the laptop is.
id dev >/dev/null 2>&1 || useradd --create-home --uid 61000 --shell /bin/bash dev
if [ -e /etc/sudoers.d ]; then echo 'dev ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/dev; fi
if [ -n "$PROGRAM" ]; then
  touch /usr/local/bin/kvpn
  mount --bind "$PROGRAM" /usr/local/bin/kvpn
fi

case $RESOLVER in
machine)
  rm -f /etc/resolv.conf
  echo "$MACHINE_RESOLV_CONF" >/etc/resolv.conf ;;
plain)
  rm -f /etc/resolv.conf
  echo "nameserver $PUBLIC_DNS" >/etc/resolv.conf
  sed -i 's/^hosts:.*/hosts: files dns/' /etc/nsswitch.conf ;;
resolved)
  id systemd-resolve >/dev/null 2>&1 || useradd --system --no-create-home systemd-resolve
  id messagebus >/dev/null 2>&1 || useradd --system --no-create-home messagebus
  sed -i 's/^hosts:.*/hosts: files resolve [!UNAVAIL=return] dns/' /etc/nsswitch.conf
  ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
  mkdir -p /run/dbus /run/systemd/resolve /etc/systemd
  printf '[Resolve]\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\nFallbackDNS=\n' >/etc/systemd/resolved.conf
  chown systemd-resolve: /run/systemd/resolve
  dbus-daemon --system --fork --nopidfile --print-address=3 3>/dev/null
  /usr/lib/systemd/systemd-resolved >/run/resolved.log 2>&1 &
  wait_for 10 systemd-resolved resolvectl status
  resolvectl dns eth0 $PUBLIC_DNS
  resolvectl domain eth0 '~.'
  resolvectl default-route eth0 yes ;;
esac
touch "$D/started"
# As PID 1 bash also reaps what others leave.
sleep infinity &
while :; do wait || true; done
