#!/bin/sh
# Records what ansible-playbook (2.19) prints for the playbooks here, and the events behind it. The tests feed the
# events to our reports and compare byte for byte. Usage: record.sh /path/to/ansible-playbook [NAME…]
set -eu
cd "$(dirname "$0")"
play=$1
shift
export ANSIBLE_CALLBACKS_ENABLED=recorder ANSIBLE_CALLBACK_PLUGINS=$PWD/callback_plugins
export ANSIBLE_LOCALHOST_WARNING=0 ANSIBLE_PYTHON_INTERPRETER=/usr/bin/python3 ANSIBLE_DEPRECATION_WARNINGS=0
wanted=" $* "
record() {
    name=$1
    shift
    case "$wanted" in "  " | *" $name "*) ;; *) return 0 ;; esac
    rm -rf /tmp/setpoint-record
    mkdir -p /tmp/setpoint-record
    cp ./*.yml hosts.ini /tmp/setpoint-record
    RECORD_TO=$PWD/$name.events.jsonl "$play" -i /tmp/setpoint-record/hosts.ini "$@" >"$name.out" 2>/dev/null || true
    rm -rf /tmp/setpoint-record
    # What is said before the first banner is about the installation.
    case $name in minimal | oneline) ;; *) sed -i '0,/^$/{/^$/!d}' "$name.out" ;; esac
}
record plain /tmp/setpoint-record/plain.yml
record verbose /tmp/setpoint-record/plain.yml -v
record loud /tmp/setpoint-record/short.yml -vv
record check /tmp/setpoint-record/plain.yml --check --diff
ANSIBLE_FORCE_COLOR=1 record color /tmp/setpoint-record/plain.yml --diff
ANSIBLE_DISPLAY_SKIPPED_HOSTS=0 ANSIBLE_DISPLAY_OK_HOSTS=0 record filtered /tmp/setpoint-record/plain.yml
ANSIBLE_CHECK_MODE_MARKERS=1 record markers /tmp/setpoint-record/short.yml --check
ANSIBLE_CALLBACK_RESULT_FORMAT=yaml record yaml /tmp/setpoint-record/plain.yml -v
ANSIBLE_STDOUT_CALLBACK=minimal record minimal /tmp/setpoint-record/plain.yml
ANSIBLE_STDOUT_CALLBACK=oneline record oneline /tmp/setpoint-record/short.yml
