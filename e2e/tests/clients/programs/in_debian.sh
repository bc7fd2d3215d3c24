# Runs a command in the Debian with the services: in_debian.sh COMMAND. The current directory is /srv there, and $OWN is
# /mnt. To be started in a mount namespace of its own.
set -e
root=$OWN/debian
mkdir "$root"
mount --bind "$CLIENTS/services" "$root"
mount -o remount,bind,ro "$root"
mount -t proc none "$root/proc"
mount --rbind /dev "$root/dev"
for dir in run tmp var/cache var/lib var/log; do
    mount -t tmpfs none "$root/$dir"
done
mount --bind . "$root/srv"
mount --bind "$OWN" "$root/mnt"
exec chroot "$root" /usr/bin/env -i HOME=/tmp PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 sh -ec "cd /srv; $1"
