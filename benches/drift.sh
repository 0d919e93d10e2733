#!/bin/sh
# What drift costs: an audit of 10,000 recorded files on one host against `sha256sum` of the same files there, one of
# 100 hosts with 1,000 each against connecting to them, and what recording adds to a run. Needs root; makes its own hosts.
#   benches/drift.sh [SETPOINT] [RUNS]
exec "$(dirname "$0")/fleet.py" --setpoint "${1:-target/release/setpoint}" --runs "${2:-5}" --hosts 1,10 --rtt 0 --parts audit,recording
