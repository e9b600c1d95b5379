# Sourced by run.sh and test.sh: finds what they need, installs what may be installed, and says what is missing.
# Nothing outside the repository is changed, but for Debian packages, and those only as root.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
target=${CARGO_TARGET_DIR:-$root/target}
waypost=$target/release/waypost
python=$root/.venv/bin/python
export PATH=$root/.venv/bin:$root/.cache/bin:$PATH

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# packages COMMAND=PACKAGE ...: Debian packages for the commands that are not there.
packages() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "Installing ${missing[*]}"
    { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" ||
      { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; }; } >/dev/null ||
      echo "apt-get could not install ${missing[*]}"
  else
    echo "missing: ${missing[*]} (install them with your package manager; parts that need them are left out or fail)"
  fi
}

need_rust() {
  packages cc=build-essential
  command -v cc >/dev/null || die "a C compiler is needed (the TLS library has C in it)"
  command -v cargo >/dev/null || [ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
  command -v cargo >/dev/null || die "Rust is needed, 1.88 or newer: https://rustup.rs"
}

need_python() {
  command -v python3 >/dev/null || packages python3=python3
  command -v python3 >/dev/null || die "Python 3.9 or newer is needed"
  if [ ! -x "$python" ]; then
    say "Making .venv"
    python3 -m venv .venv || { rm -rf .venv; packages python3-venv=python3-venv; python3 -m venv .venv; } || { rm -rf .venv; die "python3 cannot make a virtual environment (Debian: python3-venv)"; }
  fi
  if ! cmp -s requirements.txt .venv/installed; then
    "$python" -m pip install --quiet --disable-pip-version-check -r requirements.txt || die "pip could not install requirements.txt"
    cp requirements.txt .venv/installed
  fi
}
