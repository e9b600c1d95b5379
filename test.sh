#!/usr/bin/env bash
# Every check of the house, from formatting to the comparison with the real Envoy; installs what it lacks, ends with one line for each.
#
#   ./test.sh              all of them (about half an hour on two cores from a fresh clone)
#   ./test.sh fmt clippy   those named: fmt clippy unit build configs parity recorded xds updates mesh
#                          badinput h2spec memory spread concurrent bench soak
#
# With CI=true there are no colours and no progress bars, and a part that has to be left out fails the run, unless it says why it may.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/tools/setup.sh"
started=$SECONDS
whole=4800 # seconds for everything
ci=${CI:-false}
if [ "$ci" = true ]; then export CARGO_TERM_COLOR=never CARGO_TERM_PROGRESS_WHEN=never; fi
export PYTHONDONTWRITEBYTECODE=1

results=() failed=0 built=
selected=("$@")
for name in "$@"; do
  case $name in fmt|clippy|unit|build|configs|parity|recorded|xds|updates|mesh|badinput|h2spec|memory|spread|concurrent|bench|soak) ;; *) die "no part named $name" ;; esac
done

wanted() { [ ${#selected[@]} -eq 0 ] || [[ " ${selected[*]} " == *" $1 "* ]]; }

# part NAME SECONDS COMMAND...: runs one part, bounded in time, and keeps its result.
part() {
  local name=$1 limit=$2 from=$SECONDS status
  shift 2
  wanted "$name" || return 0
  if ((limit > started + whole - SECONDS)); then limit=$((started + whole - SECONDS)); fi
  if ((limit < 1)); then
    results+=("FAILED   $name: the time is over")
    failed=1
    return 1
  fi
  say "$name: $*"
  timeout --kill-after=10 "$limit" "$@"
  status=$?
  if [ $status -eq 0 ]; then
    results+=("ok       $name ($((SECONDS - from)) s)")
  elif [ $status -eq 77 ]; then
    results+=("left out $name: it said why")
  else
    [ $status -ne 124 ] || echo "$name took longer than $limit s"
    results+=("FAILED   $name ($((SECONDS - from)) s, status $status)")
    failed=1
    return 1
  fi
}

# left_out NAME WHY [allowed]: a part that cannot run here.
left_out() {
  wanted "$1" || return 0
  say "$1: left out, $2"
  results+=("left out $1: $2")
  if [ "$ci" = true ] && [ "${3:-}" != allowed ]; then failed=1; fi
}

need_rust
need_python
packages openssl=openssl curl=curl wrk=wrk h2load=nghttp2-client

part fmt 120 cargo fmt --all --check
part clippy 1800 cargo clippy --workspace --all-targets --locked -- -D warnings
part unit 1800 cargo test --workspace --locked --no-fail-fast

# What follows needs the binary, whether or not `build` was asked for.
if [ ${#selected[@]} -eq 0 ] || [[ " ${selected[*]} " =~ " "(build|configs|parity|recorded|xds|updates|mesh|badinput|h2spec|memory|spread|concurrent|bench|soak)" " ]]; then
  say "build: cargo build --release"
  from=$SECONDS
  if timeout --kill-after=10 1800 cargo build --release --locked --bin waypost; then
    built=yes
    results+=("ok       build ($((SECONDS - from)) s)")
  else
    results+=("FAILED   build ($((SECONDS - from)) s)")
    failed=1
  fi
fi

if [ -n "$built" ]; then
  part configs 300 "$python" tests/configs/check.py --waypost "$waypost" --require envoy,waypost,tools

  if [ -f tests/parity/run.py ]; then
    part parity 1200 "$python" tests/parity/run.py --b "$waypost" --result ''
  else
    left_out parity "tests/parity/run.py is not there"
  fi

  recordings=${WAYPOST_SHARED:-$root/../shared}/fixtures/istio
  if [ -d "$recordings" ]; then
    part recorded 300 "$python" tests/recorded/run.py --bin "$waypost"
  else
    left_out recorded "what istiod pushed is not recorded in $recordings" allowed
  fi
  part xds 600 "$python" tests/xds/run.py --bin "$waypost"
  # What a loaded machine makes of latency says nothing: `tests/xds/updates.py` by itself holds it to its limit.
  part updates 300 "$python" tests/xds/updates.py --bin "$waypost" --seconds 10 --restarts 5 --only-errors
  part mesh 480 "$python" tests/mesh/run.py --bin "$waypost"
  part badinput 420 "$python" tests/badinput/run.py --bin "$waypost"

  if wanted h2spec && [ ! -x .cache/bin/h2spec ] && command -v go >/dev/null; then
    say "h2spec: installing"
    GOBIN=$root/.cache/bin timeout 300 go install github.com/summerwind/h2spec/cmd/h2spec@latest || true
  fi
  if [ -x .cache/bin/h2spec ]; then
    part h2spec 600 "$python" tests/h2spec/run.py --bin "$waypost"
  else
    left_out h2spec "it is built with Go, which is not here or could not fetch it" allowed
  fi

  if command -v wrk >/dev/null && command -v h2load >/dev/null; then
    part bench 300 "$python" benches/side-by-side.py --quick --waypost "$waypost"
  else
    left_out bench "wrk or h2load (nghttp2-client) is not installed" allowed
  fi

  part memory 120 "$python" tests/hbone/memory.py --bin "$waypost"
  if [ "$(nproc)" -gt 1 ]; then
    part spread 60 "$python" tests/hbone/spread.py --bin "$waypost"
  else
    left_out spread "one core cannot show that two workers share" allowed
  fi
  part concurrent 180 "$python" tests/hbone/concurrent.py --bin "$waypost"

  part soak 300 "$python" tests/soak/abort.py --bin "$waypost" --count 20000
fi

say "Result after $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"
printf '%s\n' "${results[@]}"
if [ $failed -eq 0 ]; then echo "ALL GOOD"; else echo "NOT GOOD"; fi
exit $failed
