#!/usr/bin/env bash
# Installs what the Makefile's targets need, into .venv: `install.sh runtime | dev | system | lock`.
# Versions are pinned by constraints.txt; the machine's own package index settings are used as they are.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
venv=.venv
extras="server,aws,postgresql,viz,demo"
all="all,demo"

say() { printf '\033[2m%s\033[0m\n' "$*" >&2; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
    echo "Please run as root: $*" >&2
    exit 1
  fi
}

apt_install() {
  say "Installing Debian packages: $*"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Packages of npm that the tests read and nobody executes: fetch_npm NAME VERSION FILES...
fetch_npm() {
  local name=$1 version=$2 target=.cache/$1
  shift 2
  [ "$(cat "$target/.version" 2>/dev/null)" = "$version" ] && return
  say "Fetching @$name $version"
  rm -rf "$target"
  mkdir -p "$target"
  npm pack --silent --ignore-scripts --prefer-offline --no-update-notifier --pack-destination "$target" "@$name@$version" >/dev/null
  tar -xzf "$target"/*.tgz -C "$target" --strip-components=1 "$@"
  rm "$target"/*.tgz
  echo "$version" >"$target/.version"
}

make_venv() {
  [ -x "$venv/bin/uv" ] && return
  command -v "$python" >/dev/null || { echo "Python 3.11 or newer is needed: $python was not found." >&2; exit 1; }
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; $python is $("$python" -V). Name another one: make PYTHON=python3.12 …" >&2
    exit 1
  }
  say "Making $venv"
  "$python" -c 'import venv, ensurepip' 2>/dev/null || apt_install python3-venv
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt uv
}

# Byte code is made now: where PYTHONDONTWRITEBYTECODE is set, every process would compile every module again.
pip_install() {
  VIRTUAL_ENV=$venv "$venv/bin/uv" pip install -q --compile-bytecode -c constraints.txt "$@"
  "$venv/bin/python" -m compileall -q sdk agents control_plane
}

case "${1:-}" in
  runtime)
    make_venv
    say "Installing heliograph"
    pip_install -e ".[$extras]"
    touch "$venv/.runtime"
    ;;
  dev)
    make_venv
    say "Installing the tools for tests and checks"
    pip_install -e ".[$all]" --group dev
    touch "$venv/.dev"
    ;;
  system)
    # Real parts that come from Debian. Each one is a failure, not a skip, when it is missing on Debian.
    missing=()
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
    [ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
    command -v git >/dev/null || missing+=(git)
    command -v setpriv >/dev/null || missing+=(util-linux)
    PATH=$PATH:/usr/sbin command -v dockerd >/dev/null || missing+=(docker.io)
    command -v docker-registry >/dev/null || missing+=(docker-registry)
    PATH=$PATH:/usr/sbin command -v nginx >/dev/null || missing+=(nginx-light) # Git over HTTP
    PATH=$PATH:/usr/sbin command -v fcgiwrap >/dev/null || missing+=(fcgiwrap)
    PATH=$PATH:/usr/sbin command -v sshd >/dev/null || missing+=(openssh-server) # Git and Docker by ssh
    command -v busybox >/dev/null || missing+=(busybox-static)
    PATH=$PATH:/usr/sbin command -v ip >/dev/null || missing+=(iproute2)
    command -v cc >/dev/null || missing+=(gcc libc6-dev) # failing disks are a library that the tests compile
    command -v npm >/dev/null || missing+=(nodejs npm) # Azurite, and what GitHub says of its API
    if [ ${#missing[@]} -gt 0 ]; then
      if command -v apt-get >/dev/null; then
        # The tests start sshd themselves: the machine is not to become a server that people log in to.
        guarded=
        [[ " ${missing[*]} " == *" openssh-server "* && -d /run/systemd/system ]] && guarded=1
        [ -z "$guarded" ] || as_root systemctl mask --quiet --runtime ssh.service ssh.socket
        apt_install "${missing[@]}"
        [ -z "$guarded" ] || as_root systemctl unmask --quiet --runtime ssh.service ssh.socket
        [ -z "$guarded" ] || as_root systemctl disable --quiet ssh.service ssh.socket
      else
        echo "The tests need: ${missing[*]}. Install them with this system's package manager." >&2
        exit 1
      fi
    fi
    # What Docker by ssh runs where the engine is: newer Debians have it in a package of its own.
    command -v docker >/dev/null || ! command -v apt-get >/dev/null || apt_install docker-cli
    fetch_npm octokit/openapi 23.0.2 package/LICENSE package/generated/api.github.com.json
    fetch_npm octokit/fixtures 23.1.2 package/LICENSE.md package/scenarios
    # Azure's storage for tests comes from npm, pinned here; the newest ones need a newer Node.js than Debian has.
    [ -d $venv/azurite/node_modules/azurite ] || {
      say "Installing Azurite"
      npm install --prefix $venv/azurite --no-audit --no-fund --omit=optional --ignore-scripts --loglevel=error \
        azurite@3.33.0 >/dev/null
    }
    ;;
  lock)
    make_venv
    VIRTUAL_ENV=$venv "$venv/bin/uv" pip compile -q --upgrade --universal --python-version 3.11 \
      --extra all --extra demo --group dev pyproject.toml \
      --no-header --no-annotate --no-emit-index-url --no-emit-find-links -o constraints.txt
    echo "uv==$("$venv/bin/uv" --version | cut -d' ' -f2)" >>constraints.txt
    ;;
  *)
    echo "usage: tools/install.sh runtime | dev | system | lock" >&2
    exit 2
    ;;
esac
