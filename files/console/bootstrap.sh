# shellcheck shell=bash
# What has to be there before Ansible can run; console.sh reads it.

# Through env, because setpriv itself still has root's rights when it looks its program up.
as_stranger() { setpriv --reuid=65534 --regid=65534 --clear-groups env "$@"; }

# What a verb answers is on stdout, and may be somebody's to read.
progress() { say "$*" >&2; }

# Root's services run as a user of their own. Where that user could not reach the checkout (it lies
# below /root, say), everything they use goes to /var/lib, and links in the checkout lead there.
prepare_folders() {
  local name home
  if ((EUID == 0)) && ! as_stranger test -x "$ROOT"; then
    home=/var/lib/llamakit-local/$(printf %s "$ROOT" | sha256sum | cut -c1-6)
    [[ -L runtime ]] || progress "The services' user cannot reach $ROOT: keeping their files in $home."
    for name in runtime logs data models; do
      [[ -L $name ]] && continue
      mkdir -p "$home"
      if [[ -d $name ]]; then mv -T "$name" "$home/$name"; else mkdir -p "$home/$name"; fi
      ln -s "$home/$name" "$name"
    done
  fi
  mkdir -p runtime logs data models
  # An uninstall has kept it there.
  if [[ -f data/mode.json ]]; then mv data/mode.json runtime/; fi
}

# An unpacked bundle brings everything that otherwise comes from the internet, which then is not asked.
BUNDLE=
if [[ -f bundle/manifest.json ]]; then
  BUNDLE=bundle
  export HF_HUB_OFFLINE=${HF_HUB_OFFLINE-1}
fi

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

find_python() {
  local candidate path needed='import ensurepip, venv' run=()
  [[ ! $BUNDLE ]] || needed='import venv'
  ((EUID != 0)) || run=(as_stranger)
  for candidate in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
    path=$(command -v "$candidate") || continue
    path=$("$path" -c 'import sys, os
if sys.version_info >= (3, 11): print(os.path.realpath(sys.executable))' 2>/dev/null) || continue
    [[ $path ]] || continue
    [[ ! $BUNDLE || -f $BUNDLE/python/$(version_of "$path")/controller.tar ]] || continue
    if "${run[@]}" "$path" -c "$needed" 2>/dev/null; then
      say "$path"
      return
    fi
  done
  [[ ! $BUNDLE ]] || fail "no usable Python: found $(python3 --version 2>&1 || true); expected one of $(cd bundle/python && echo *), which the
bundle has packages for. Install one, or make the bundle again with --python VERSION"
  fail "no usable Python: found $(command -v python3 >/dev/null && python3 --version 2>&1 || echo none); expected 3.11 or newer with its venv module,
that every user may run. Install it, as root:  apt-get install python3 python3-venv"
}

# One run at a time may change things; a second one says so instead of waiting. The lock ends with
# the process.
LOCK=
lock() {
  [[ ! $LOCK ]] || return 0
  exec {LOCK}>"$RUNTIME/console.lock"
  flock --nonblock "$LOCK" || fail 'another ./console.sh is at work in this checkout. Wait for it to end, then try again.'
}

# What the controller is made from. Its Python is a link to the system's, which may have become
# another version since, or be gone.
controller_stamp() {
  sha256sum requirements/controller.txt requirements/collections.txt requirements.yml | sha256sum | cut -c1-16
  version_of "$CONTROLLER/bin/python" 2>/dev/null || say none
}

# Units, supervisord's files, the first lines of scripts and PYTHONPATH read these as something else.
check_place() {
  [[ $ROOT != *[[:space:]:%\$\"\'\`\\*?[]* ]] || fail "the path of this checkout is $ROOT; expected one without spaces and without any of : % \$ \" ' \` \\ * ? [
Nothing was changed. Move the checkout, for example:  mv $(printf %q "$ROOT") ~/llamakit"
}

bootstrap() {
  local python tool
  check_place
  for tool in setpriv flock; do
    command -v "$tool" >/dev/null || fail "$tool is missing. Install it, as root:  apt-get install util-linux"
  done
  prepare_folders
  if [[ $(cat "$CONTROLLER/.complete" 2>/dev/null) != "$(controller_stamp)" ]]; then
    lock
    python=$(find_python)
    progress "==> Install the controller: Ansible and the kit's own programs, into runtime/"
    if [[ $BUNDLE ]]; then from_bundle "$python"; else from_index "$python"; fi
    controller_stamp >"$CONTROLLER/.complete"
  fi
}

from_index() {
  { "$1" -m venv --clear "$CONTROLLER" &&
    "$CONTROLLER/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
      --require-hashes --no-deps --requirement requirements/controller.txt; } ||
    fail "the controller could not be installed; the reason stands above. It needs 2 GB of room on the disk
(df -h runtime) and a package index (pip config list). Then run the same command again."
  install_collections
}

# The bundle's pip installs, because a bare system's Python has none.
from_bundle() {
  local from=$RUNTIME/packages
  PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$ROOT/files/kit/src "$1" -m llamakit unpack-bundle || exit 1
  rm -rf "$from" "$RUNTIME/collections"
  mkdir "$from"
  { tar --extract --file "$BUNDLE/python/$(version_of "$1")/controller.tar" --directory "$from" &&
    "$1" -m venv --without-pip --clear "$CONTROLLER" &&
    PYTHONPATH=$from/pip.zip "$CONTROLLER/bin/python" -m pip install --quiet --no-input --no-index \
      --disable-pip-version-check --find-links "$from/wheels" --require-hashes --no-deps --no-cache-dir \
      --requirement requirements/controller.txt &&
    tar --extract --file "$BUNDLE/collections.tar" --directory "$RUNTIME"; } ||
    fail "the controller could not be installed; the reason stands above. It needs 1 GB of room on the disk
(df -h runtime). Then run the same command again."
  rm -r "$from"
}

# Galaxy first; where it cannot be reached, the same versions out of the PyPI package `ansible`.
install_collections() {
  local wheel
  if "$CONTROLLER/bin/ansible-galaxy" collection install --requirements-file requirements.yml \
    --collections-path "$RUNTIME/collections" --timeout 10 >"$RUNTIME/galaxy.log" 2>&1; then
    return
  fi
  progress "  Galaxy cannot be reached (runtime/galaxy.log): taking the collections from PyPI"
  wheel=$(mktemp -d -p "$RUNTIME")
  "$CONTROLLER/bin/python" -m pip download --quiet --no-input --disable-pip-version-check \
    --require-hashes --no-deps --only-binary :all: --dest "$wheel" --requirement requirements/collections.txt
  "$CONTROLLER/bin/python" - "$wheel"/*.whl "$RUNTIME/collections" <<'PYTHON'
import sys, zipfile
wheel, target = sys.argv[1:]
wanted = ("ansible_collections/community/postgresql/", "ansible_collections/containers/podman/")
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(target, [n for n in archive.namelist() if n.startswith(wanted)])
PYTHON
  rm -r "$wheel"
}
