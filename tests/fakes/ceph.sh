#!/usr/bin/env bash
# Starts a Ceph with its S3 gateway on this machine, in memory: a second opinion on what a service
# of S3 does (CONTRIBUTING.md). It goes on until the processes in FOLDER/pids are ended.
#
#     apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-mgr
#     tests/fakes/ceph.sh FOLDER PORT      # the key: a-key, with the secret a-word
set -euo pipefail
folder=$1 port=$2
mkdir -p "$folder"/{mon,osd,mgr,run}
cluster=$(cat /proc/sys/kernel/random/uuid) osd=$(cat /proc/sys/kernel/random/uuid)
cat > "$folder/ceph.conf" <<E
[global]
fsid = $cluster
mon host = 127.0.0.1:16789
keyring = $folder/keyring
run dir = $folder/run
admin socket = $folder/run/\$name.asok
pid file = $folder/run/\$name.pid
log file = $folder/\$name.log
mon data = $folder/mon
osd data = $folder/osd
mgr data = $folder/mgr
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
ms bind ipv6 = false
mon allow pool size one = true
mon data avail crit = 1
mon max pg per osd = 1000
osd objectstore = memstore
memstore device bytes = 4294967296
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
rgw frontends = beast endpoint=127.0.0.1:$port
E
ceph() { command ceph --conf "$folder/ceph.conf" "$@"; }
start() { "$@" --conf "$folder/ceph.conf" -f > "$folder/$1.out" 2>&1 & echo $! >> "$folder/pids"; }
key() { ceph-authtool --create-keyring --gen-key "$folder/keyring.new" -n "$@" > /dev/null
    cat "$folder/keyring.new" >> "$folder/keyring"; rm "$folder/keyring.new"; }
key mon. --cap mon 'allow *'
key client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
key mgr.x --cap mon 'allow profile mgr' --cap osd 'allow *'
key osd.0 --cap mon 'allow profile osd' --cap osd 'allow *' --cap mgr 'allow profile osd'
key client.rgw --cap mon 'allow *' --cap osd 'allow *'
monmaptool --create --add a 127.0.0.1:16789 --fsid "$cluster" "$folder/monmap" > /dev/null
ceph-mon --conf "$folder/ceph.conf" -i a --mkfs --monmap "$folder/monmap" --keyring "$folder/keyring"
start ceph-mon -i a
ceph osd new "$osd" > /dev/null  # waits for the monitor
start ceph-mgr -i x
ceph-osd --conf "$folder/ceph.conf" -i 0 --mkfs --osd-uuid "$osd" > /dev/null 2>&1
ceph osd crush add osd.0 1.0 root=default host=localhost
start ceph-osd -i 0
radosgw-admin --conf "$folder/ceph.conf" user create --uid=us --display-name=us \
    --access-key=a-key --secret=a-word > /dev/null
start radosgw -n client.rgw
until curl -s -o /dev/null "http://127.0.0.1:$port"; do sleep 0.5; done
