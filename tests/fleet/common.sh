# shellcheck shell=sh
# What the scripts of tests/fleet share: `. common.sh` after `setpoint` and `inventory` are set. `$work` is a directory
# of their own with the state store in it, `$work/out` what the last `expect` printed.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SETPOINT_STATE="$work/state.db" ANSIBLE_NOCOLOR=1 ANSIBLE_HOST_KEY_CHECKING=False

say() { printf '\n== %s\n' "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}
# expect STATUS COMMAND…: it ends with this status.
expect() {
    wanted=$1
    shift
    status=0
    "$@" >"$work/out" 2>&1 || status=$?
    cat "$work/out"
    [ "$status" = "$wanted" ] || fail "exit $status instead of $wanted: $*"
}
# same LINES: the audit names exactly these, each as verdict, kind, name.
same() {
    printf '%s\n' "$1" | sort >"$work/expected"
    grep -E '^(drifted|missing|pending|conflict|adopted|orphan|never_applied|uncertain) ' "$work/out" |
        awk '{print $1, $2, $3}' | sort >"$work/named"
    diff -u "$work/expected" "$work/named" || fail "the audit names other things"
}
