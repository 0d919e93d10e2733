#!/bin/sh
# Drift on booted hosts: applies a small site, changes six things by hand on the first host, and checks that an
# audit names exactly these, that a changed playbook shows as pending and conflict, that a fix repairs only what
# drifted, and that handlers which are owed are run later, or let go.
#   tests/fleet/drift.sh SETPOINT INVENTORY
set -eu
setpoint=$1
inventory=$2
. "$(dirname "$0")/common.sh"

mkdir -p "$work/files/tree"
printf 'one\n' >"$work/files/tree/one"
printf 'two\n' >"$work/files/tree/two"
printf 'verbatim\n' >"$work/files/verbatim"
cat >"$work/site.yml" <<'SITE'
- hosts: all
  become: true
  gather_facts: false
  vars:
    greeting: hello
  tasks:
    - name: a file
      ansible.builtin.copy:
        content: "{{ greeting }}\n"
        dest: /etc/drift-file
        mode: "0644"
      notify: note it
    - name: a mode
      ansible.builtin.copy:
        content: "mode\n"
        dest: /etc/drift-mode
        mode: "0640"
    - name: a file to lose
      ansible.builtin.copy:
        src: verbatim
        dest: /etc/drift-lost
        mode: "0644"
    - name: a tree
      ansible.builtin.copy:
        src: tree/
        dest: /etc/drift-tree/
        mode: "0644"
    - name: a package
      ansible.builtin.apt:
        name: tree
        update_cache: true
        cache_valid_time: 86400
    - name: a service
      ansible.builtin.service:
        name: cron
        state: started
        enabled: true
    - name: a cron entry
      ansible.builtin.cron:
        name: drift
        minute: "5"
        job: /bin/true
  handlers:
    - name: note it
      ansible.builtin.shell: echo run >> /var/tmp/drift-handler
SITE

first=$("$setpoint" inventory -i "$inventory" --list | sed -n '/"hosts": \[/,/\]/p' | grep -o '"[a-z0-9-]*"' | sed -n 2p | tr -d '"')
on_first() { "$setpoint" exec "$first" -i "$inventory" -b -m shell -a "$1" >/dev/null; }

say "apply the site"
expect 0 "$setpoint" run "$work/site.yml" -i "$inventory"
say "an audit finds nothing"
expect 0 "$setpoint" drift audit -i "$inventory"
expect 0 "$setpoint" drift audit "$work/site.yml" -i "$inventory"

say "six things are changed by hand on $first"
on_first 'echo changed > /etc/drift-file; chmod 0600 /etc/drift-mode; rm /etc/drift-lost; systemctl stop cron;
    apt-get -q -y remove tree; crontab -l | sed "s|/bin/true|/bin/false|" | crontab -'
six='drifted file /etc/drift-file
drifted file /etc/drift-mode
missing file /etc/drift-lost
drifted service cron
missing package tree
drifted cron crontab:'
expect 2 "$setpoint" drift audit -i "$inventory"
same "$six"
expect 2 "$setpoint" drift audit "$work/site.yml" -i "$inventory" -D
same "$six"

say "an entry is added to a tree"
on_first 'echo more > /etc/drift-tree/three'
expect 2 "$setpoint" drift audit -i "$inventory"
grep -q 'added: three' "$work/out" || fail "the added entry is not named"
on_first 'rm /etc/drift-tree/three'

say "the playbook moves on: one pending everywhere else, one conflict"
sed -i 's/greeting: hello/greeting: good day/' "$work/site.yml"
expect 2 "$setpoint" drift audit "$work/site.yml" -i "$inventory"
grep -q '^conflict *file /etc/drift-file' "$work/out" || fail "no conflict"
hosts=$("$setpoint" exec all -i "$inventory" --list-hosts | tail -n +2 | wc -l)
[ "$hosts" = 1 ] || grep -q '^pending *file /etc/drift-file' "$work/out" || fail "no pending"

say "fix, first only looking"
expect 0 "$setpoint" drift fix "$work/site.yml" -i "$inventory" --check
expect 0 "$setpoint" drift fix "$work/site.yml" -i "$inventory"
grep -q 'repaired 5 of 5' "$work/out" || fail "not five were repaired"
expect 2 "$setpoint" drift audit "$work/site.yml" -i "$inventory"
grep -q '^conflict *file /etc/drift-file' "$work/out" || fail "the conflict is gone"

say "rolling out the playbook brings all in sync"
expect 0 "$setpoint" run "$work/site.yml" -i "$inventory"
expect 0 "$setpoint" drift audit "$work/site.yml" -i "$inventory"

say "acknowledged until it changes again"
on_first 'chmod 0600 /etc/drift-mode'
expect 2 "$setpoint" drift audit -i "$inventory"
expect 0 "$setpoint" drift ack /etc/drift-mode --reason "ticket 7" --expires 30d
expect 0 "$setpoint" drift audit -i "$inventory"
on_first 'chmod 0666 /etc/drift-mode'
expect 2 "$setpoint" drift audit -i "$inventory"
say "accepted"
expect 0 "$setpoint" drift accept /etc/drift-mode
expect 0 "$setpoint" drift audit -i "$inventory"

say "adopted into the repository"
on_first 'echo from the host >> /etc/drift-lost'
expect 2 "$setpoint" drift audit -i "$inventory"
expect 0 "$setpoint" drift adopt /etc/drift-lost -i "$inventory" --limit "$first" --write
grep -q 'from the host' "$work/files/verbatim" || fail "it was not written"
expect 0 "$setpoint" run "$work/site.yml" -i "$inventory"
expect 0 "$setpoint" drift audit -i "$inventory"

say "a handler that is owed is run by the next run"
cat >"$work/owed.yml" <<'OWED'
- name: owing
  hosts: all
  become: true
  gather_facts: false
  pre_tasks:
    - ansible.builtin.ping:
  tasks:
    - ansible.builtin.set_fact:
        debt: paid
    - ansible.builtin.copy:
        content: "{{ stamp }}\n"
        dest: /etc/drift-owed
      notify: note the debt
    - ansible.builtin.fail:
        msg: on purpose
      when: broken | default(false) | bool
  handlers:
    - name: note the debt
      ansible.builtin.shell: echo {{ debt }} >> /var/tmp/drift-debt
OWED
expect 2 "$setpoint" run "$work/owed.yml" -i "$inventory" -e stamp=1 -e broken=true
expect 0 "$setpoint" history
grep -q 'note the debt' "$work/out" || fail "history does not tell what is owed"
expect 0 "$setpoint" run "$work/owed.yml" -i "$inventory" -e stamp=1
on_first 'grep -q paid /var/tmp/drift-debt' || fail "the handler was not run"
expect 0 "$setpoint" history
! grep -q 'note the debt' "$work/out" || fail "it is still owed"

say "a handler that is owed and gone from the play is told once, and then forgotten"
expect 2 "$setpoint" run "$work/owed.yml" -i "$inventory" -e stamp=2 -e broken=true
sed -e '/notify:/d' -e '/handlers:/,$d' "$work/owed.yml" >"$work/without" && cat "$work/without" >"$work/owed.yml"
expect 0 "$setpoint" run "$work/owed.yml" -i "$inventory" -e stamp=2
grep -q 'it will not be run' "$work/out" || fail "it is not said that the handler is gone"
expect 0 "$setpoint" run "$work/owed.yml" -i "$inventory" -e stamp=2
! grep -q 'it will not be run' "$work/out" || fail "it is said again"

say "what only a handler has made is repaired by running that; handlers that include are owed no more; one is let go"
printf -- '- ansible.builtin.copy: {content: "included\n", dest: /etc/drift-included}\n' >"$work/included.yml"
cat >"$work/handlers.yml" <<'HANDLERS'
- name: handling
  hosts: all
  become: true
  gather_facts: false
  tasks:
    - ansible.builtin.copy: {content: "{{ stamp }}\n", dest: /etc/drift-stamp}
      notify: [make it, include it]
    - ansible.builtin.fail:
        msg: on purpose
      when: broken | default(false) | bool
  handlers:
    - name: make it
      ansible.builtin.copy: {content: "made\n", dest: /etc/drift-made}
    - name: include it
      ansible.builtin.include_tasks: included.yml
HANDLERS
expect 0 "$setpoint" run "$work/handlers.yml" -i "$inventory" -e stamp=1
expect 0 "$setpoint" history
! grep -q 'include it' "$work/out" || fail "a handler that includes is still owed"
on_first 'rm /etc/drift-made'
expect 2 "$setpoint" drift audit -i "$inventory"
expect 0 "$setpoint" drift fix "$work/handlers.yml" -i "$inventory" -e stamp=1
grep -q 'repaired 1 of 1' "$work/out" || fail "it was not repaired"
expect 0 "$setpoint" drift audit -i "$inventory"
expect 2 "$setpoint" run "$work/handlers.yml" -i "$inventory" -e stamp=2 -e broken=true
expect 3 "$setpoint" drift audit -i "$inventory"
expect 0 "$setpoint" drift ack 'handler:make it' 'handler:include it' --reason "made by hand"
expect 0 "$setpoint" drift audit -i "$inventory"

say "two audits at once"
"$setpoint" drift audit -i "$inventory" >"$work/other" 2>&1 &
other=$!
expect 0 "$setpoint" drift audit -i "$inventory"
wait "$other" || { cat "$work/other"; fail "the other audit failed"; }

say "files that come and go while they are audited"
on_first 'nohup sh -c "for i in \$(seq 2000); do mv /etc/drift-tree/one /etc/drift-tree/away; mv /etc/drift-tree/away /etc/drift-tree/one; done" >/dev/null 2>&1 &'
for round in 1 2 3; do
    status=0
    "$setpoint" drift audit -i "$inventory" >"$work/out" 2>&1 || status=$?
    case $status in 0 | 1 | 2) ;; *) cat "$work/out"; fail "exit $status for files that come and go" ;; esac
done
sleep 3
on_first 'while pgrep -f "mv /etc/drift-[t]ree" >/dev/null; do sleep 1; done; ls /etc/drift-tree'
expect 0 "$setpoint" drift audit -i "$inventory"
on_first 'rm -rf /etc/drift-* /var/tmp/drift-*'
say "all is as it should be"
