# Starts the runner on a host. Prints one word on a line of its own: RUN just before the runner begins,
# NEED when it has to be sent, FAIL when it cannot be started.
#
# RUNNERS: sha256 of each program that would do. FIRST: bytes of standard input that are meant for the
# runner and arrive before we know whether it is here. KIB: its size. CACHE: 0 if the cache must not be used.
RUNNERS='@RUNNERS@'
FIRST=@FIRST@
KIB=@KIB@
CACHE=@CACHE@

start=$PWD
home=$HOME
# Somebody else's home (su without -) is no place for us.
if [ ! -O "${home:-/nonexistent}" ]; then
  home=$(eval "echo ~$(id -un 2>/dev/null)" 2>/dev/null)
  [ -n "$home" ] && [ -O "$home" ] || home=
fi
cache=$home/.cache/setpoint

# The directory is entered before it is looked at: what is checked is what is used.
if [ "$CACHE" = 1 ] && [ -n "$home" ] && cd -P "$cache" 2>/dev/null && [ -O . ]; then
  for sum in $RUNNERS; do
    if [ -f "./runner-$sum" ] && [ -O "./runner-$sum" ]; then
      case $(LC_ALL=C ls -ldn . "./runner-$sum" 2>/dev/null) in
        drwx------*-rwx------*) echo RUN; exec "./runner-$sum" --cwd "$start";;
      esac
    fi
  done
fi

mask=$(umask)
umask 077

take() { head -c "$1" 2>/dev/null || dd bs=1 count="$1" 2>/dev/null; }

# A place is fit if it is ours alone, has room, and programs may be run from it.
fit() {
  cd -P "$1" 2>/dev/null && [ -O . ] || return 1
  case $(LC_ALL=C ls -ldn . 2>/dev/null) in drwx------*) ;; *) return 1;; esac
  new=./new-$$
  dd if=/dev/zero of="$new" bs=65536 count=$((KIB / 64 + 1)) 2>/dev/null && printf '#!/bin/sh\nexit 0\n' >"$new.try" 2>/dev/null &&
    chmod 700 "$new.try" && "$new.try" 2>/dev/null </dev/null
  fits=$?
  rm -f "$new" "$new.try"
  return "$fits"
}

fail() { [ -z "$own" ] || { cd /; rm -rf "$own"; }; echo "FAIL $*"; exit 1; }

[ "$FIRST" -eq 0 ] || take "$FIRST" >/dev/null
own=
place=
if [ "$CACHE" = 1 ] && [ -n "$home" ]; then
  mkdir -p "$cache" 2>/dev/null
  fit "$cache" && place=$cache
fi
if [ -z "$place" ]; then
  for base in "$TMPDIR" /tmp /var/tmp /dev/shm "$XDG_RUNTIME_DIR"; do
    [ -n "$base" ] && [ -d "$base" ] || continue
    own=$(mktemp -d "$base/.setpoint-XXXXXXXXXX" 2>/dev/null) || {
      own=$base/.setpoint-$$-$(date +%s)
      mkdir -m 700 "$own" 2>/dev/null || { own=; continue; }
    }
    fit "$own" && place=$own && break
    cd /
    rm -rf "$own"
    own=
  done
fi
[ -n "$place" ] || fail "no directory for the runner: it needs $KIB KiB in ~/.cache, /tmp, /var/tmp or /dev/shm, on a file system that lets programs run"

if command -v gzip >/dev/null 2>&1; then packing=gzip; else packing=plain; fi
echo "NEED $(uname -m) $packing"
read -r bytes sum size sent || fail "the connection ended"
new=./new-$$
if [ "$sent" = gzip ]; then take "$bytes" | gzip -dc >"$new"; else take "$bytes" >"$new"; fi
[ "$(wc -c <"$new")" -eq "$size" ] || { rm -f "$new"; fail "the runner did not arrive whole"; }
# What is compressed carries a sum of its own; what could have been came over a link that has one.
if [ "$packing" = plain ] && command -v sha256sum >/dev/null 2>&1; then
  case $(sha256sum "$new") in "$sum "*) ;; *) rm -f "$new"; fail "the runner did not arrive as it was sent";; esac
fi
chmod 700 "$new" && mv -f "$new" "./runner-$sum" || fail "the runner could not be stored in $place"
umask "$mask"
echo RUN
if [ -n "$own" ]; then exec "./runner-$sum" --cwd "$start" --remove "$own"; fi
exec "./runner-$sum" --cwd "$start"
