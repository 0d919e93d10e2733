#!/bin/sh
[ -e /srv/made ] && printf "%s-%s\n" "$1" "$2" >/srv/scripted
