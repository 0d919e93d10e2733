#!/bin/sh
# How fast an audit is: 10,000 recorded files on one host against `sha256sum` of the same files there, both with
# a warm cache, alternating. Prints both ratios: of the host's work alone, and of the whole command.
#   benches/drift.sh SETPOINT INVENTORY HOST [FILES] [ROUNDS]
set -eu
setpoint=$1
inventory=$2
host=$3
files=${4:-10000}
rounds=${5:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SETPOINT_STATE="$work/state.db" ANSIBLE_NOCOLOR=1 ANSIBLE_HOST_KEY_CHECKING=False
mkdir -p "$work/files/many"
python3 - "$work/files/many" "$files" <<'PYTHON'
import pathlib, random, sys
directory, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
random.seed(1)
for number in range(count):
    part = directory / f"{number // 500:03}"
    part.mkdir(exist_ok=True)
    (part / f"file-{number:05}").write_bytes(random.randbytes(random.randint(200, 20_000)))
PYTHON
cat >"$work/many.yml" <<SITE
- hosts: $host
  gather_facts: false
  become: true
  tasks:
    - ansible.builtin.copy: {src: many/, dest: /var/tmp/drift-bench/, mode: "0644"}
SITE
"$setpoint" run "$work/many.yml" -i "$inventory" >"$work/log" || { cat "$work/log"; exit 1; }
millis() { date +%s%3N; }
hashing='start=$(date +%s%3N); find /var/tmp/drift-bench -type f -print0 | xargs -0 sha256sum >/dev/null; echo $(($(date +%s%3N) - start))'
"$setpoint" drift audit -i "$inventory" --limit "$host" >/dev/null
for round in $(seq "$rounds"); do
    "$setpoint" exec "$host" -i "$inventory" -b -m raw -a "$hashing" | grep -E '^[0-9]+$' >>"$work/sha256sum"
    start=$(millis)
    "$setpoint" drift audit -i "$inventory" --limit "$host" >/dev/null
    echo $(($(millis) - start)) >>"$work/audit"
    start=$(millis)
    "$setpoint" exec "$host" -i "$inventory" -b -m ping >/dev/null
    echo $(($(millis) - start)) >>"$work/connecting"
done
python3 - "$work" "$files" <<'PYTHON'
import pathlib, statistics, sys
work = pathlib.Path(sys.argv[1])
median = {name: statistics.median(map(int, (work / name).read_text().split())) for name in ("sha256sum", "audit", "connecting")}
own = median["audit"] - median["connecting"]
print(f"{sys.argv[2]} files: sha256sum {median['sha256sum']} ms, audit {median['audit']} ms, connecting {median['connecting']} ms")
print(f"audit without connecting / sha256sum: {own / median['sha256sum']:.2f}")
print(f"whole audit / sha256sum: {median['audit'] / median['sha256sum']:.2f}")
PYTHON
"$setpoint" exec "$host" -i "$inventory" -b -m file -a "path=/var/tmp/drift-bench state=absent" >/dev/null
