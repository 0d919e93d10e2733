#!/bin/sh
# The dead man's switch on a booted host: a run that drops all that comes to port 22 is taken back by the host
# itself; also when the controller is killed, and when the host reboots in between. A run that cuts nobody off stays.
#   tests/fleet/confirm.sh SETPOINT INVENTORY HOST [noreboot]
set -eu
setpoint=$1
inventory=$2
host=$3
. "$(dirname "$0")/common.sh"

# What is asked of a host that is just coming back may be cut off once more.
on() {
    for attempt in 1 2 3 4 5; do
        code=0
        SETPOINT_STATE=none "$setpoint" exec "$host" -i "$inventory" -b -m shell -a "$1" || code=$?
        [ "$code" = 4 ] || return "$code"
        sleep 2
    done
    return "$code"
}
reached() { SETPOINT_STATE=none "$setpoint" exec "$host" -i "$inventory" -m ping -T 3 >/dev/null 2>&1; }
# Waits until the host can (or can't) be reached, twice in a row; fails after so many seconds.
await() {
    until_then=$(($(date +%s) + $2))
    last=
    while :; do
        if reached; then state=there; else state=away; fi
        [ "$state$last" != "$1$1" ] || return 0
        last=$state
        [ "$(date +%s)" -lt "$until_then" ] || fail "$host is $state after $2 s"
        sleep 1
    done
}
# Nothing of the run is left.
undone() {
    on 'ls /etc/drift-cut /etc/drift-after 2>/dev/null; iptables -S INPUT | grep -e "--dport 22 " | grep DROP; true' >"$work/left"
    [ "$(grep -c -e drift- -e DROP "$work/left")" = 0 ] || { cat "$work/left"; fail "something of the run is left"; }
    on 'cat /var/lib/setpoint/rollback/*/reverted' >"$work/reverted"
    grep -q Restored "$work/reverted" || fail "the host has not noted what it took back"
    ! grep Left "$work/reverted" || fail "the host could not take all back"
}

cat >"$work/cut.yml" <<CUT
- hosts: $host
  become: true
  gather_facts: false
  tasks:
    - name: a file
      ansible.builtin.copy: {content: "cut\n", dest: /etc/drift-cut, mode: "0644"}
    - name: the host will reboot
      ansible.builtin.command: systemd-run --on-active=6 systemctl reboot
      when: reboots | default(false) | bool
    - name: nobody gets in
      ansible.builtin.iptables: {chain: INPUT, protocol: tcp, destination_port: "22", jump: DROP}
    - name: something long
      ansible.builtin.command: sleep {{ seconds | default(0) }}
    - name: what comes after
      ansible.builtin.copy: {content: "cut\n", dest: /etc/drift-after, mode: "0644"}
CUT
cat >"$work/well.yml" <<WELL
- hosts: $host
  become: true
  gather_facts: false
  tasks:
    - name: a file
      ansible.builtin.copy: {content: "well\n", dest: /etc/drift-well, mode: "0644"}
WELL

say "a run that cuts nobody off stays"
on 'command -v iptables >/dev/null || { apt-get -q update; apt-get -q -y install --no-install-recommends iptables; }' >/dev/null
"$setpoint" run "$work/well.yml" -i "$inventory" --confirm 10s
sleep 12
on 'cat /etc/drift-well' >"$work/out" 2>&1 || true
grep -q '^well' "$work/out" || { cat "$work/out"; fail "it was taken back"; }
on 'rm /etc/drift-well' >/dev/null

say "port 22 is closed: $host takes the run back by itself"
status=0
"$setpoint" run "$work/cut.yml" -i "$inventory" --confirm 15s >"$work/out" 2>&1 || status=$?
cat "$work/out"
[ "$status" = 4 ] || fail "exit $status instead of 4"
grep -q 'not confirmed' "$work/out" || fail "it is not said that the run was not confirmed"
await there 60
undone

say "the same with the controller killed"
"$setpoint" run "$work/cut.yml" -i "$inventory" --confirm 15s -e seconds=40 >"$work/out" 2>&1 &
controller=$!
await away 60
kill -9 "$controller"
wait "$controller" 2>/dev/null || true
await there 90
undone
"$setpoint" history | tee "$work/out"
[ "$(grep -c interrupted "$work/out")" = 1 ] || fail "history does not tell of one interrupted run"

if [ "${4:-}" != noreboot ]; then
    say "the same with a reboot of the host in between"
    before=$(on 'cat /proc/sys/kernel/random/boot_id; systemctl show -p UserspaceTimestampMonotonic --value' | tail -n 1)
    "$setpoint" run "$work/cut.yml" -i "$inventory" --confirm 30s -e seconds=60 -e reboots=true >"$work/out" 2>&1 &
    controller=$!
    await away 60
    kill -9 "$controller"
    wait "$controller" 2>/dev/null || true
    await there 180
    undone
    after=$(on 'cat /proc/sys/kernel/random/boot_id; systemctl show -p UserspaceTimestampMonotonic --value' | tail -n 1)
    [ "$before" != "$after" ] || fail "$host did not reboot: this saw nothing"
fi
say "all is as it should be"
