#!/usr/bin/env bash
# Builds Waypost and runs its demonstration: a waypoint on this machine, with its mesh around it. Arguments go to `waypost demo`.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/tools/setup.sh"
need_rust
cargo build --release --locked --bin waypost
exec "$waypost" demo "$@"
