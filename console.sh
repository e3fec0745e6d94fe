#!/usr/bin/env bash
# llamakit on this machine: a verb table over the plays. `./console.sh help` explains the verbs.
set -euo pipefail

ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd -P)
cd "$ROOT"
umask 022

# verb # arguments # what it does. help prints it, and the tests hold the docs against it.
VERBS='
install      #                                  # install everything, start nothing
start        # [single|multi] [--model ID]      # install what is missing, start, and prove that it works
stop         #                                  # stop everything
restart      # [SERVICE...]                     # restart what runs, in the mode it runs in
status       # [--json]                         # what runs: state, pid, port, memory
models       # [--json]                         # the models there are, numbered
use          # [ID]                             # switch to another model; asks when no ID is given
add          # [ID]                             # fetch a model now, or all that are missing
start-proxy  #                                  # start the proxy again
stop-proxy   #                                  # stop the proxy, leave the models running
logs         # [SERVICE] [-f]                   # the end of the logs; -f follows
user         # COMMAND ...                      # people and their keys; "user --help" lists the commands
usage        # [--user U] [--by user,model,day] # requests and tokens per user, model and day
verify       #                                  # prove it again: a token from each model, a refusal without a key
doctor       #                                  # look for what could go wrong on this machine
test         # [unit|proxy|cli|all]             # the tests of the kit itself
uninstall    # [--purge] [--yes]                # remove it; --purge also removes models, users and keys
help         #                                  # this text
'

RUNTIME=$ROOT/runtime
CONTROLLER=$RUNTIME/controller

say() { printf '%s\n' "$*"; }
fail() { printf 'console.sh: %s\n' "$*" >&2; exit 1; }
misuse() {
  printf 'console.sh: %s\nSee: ./console.sh help\n' "$*" >&2
  exit 2
}

takes_none() { (($# == 0)) || misuse "this verb takes no arguments, and was given: $*"; }

help() {
  say 'Usage: ./console.sh VERB [arguments]   (-v before the verb shows every step)'
  say
  while IFS='#' read -r verb arguments text; do
    [[ ! $verb ]] || printf '  %s%s%s\n' "$verb" "${arguments# }" "${text# }"
  done <<<"$VERBS"
  say
  say 'Settings: config/models.yaml, config/local.env, group_vars/; docs/configuration.md explains them.'
}

# NAME=value lines of config/local.env, where the environment does not say otherwise.
load_local_settings() {
  local line name
  [[ -f config/local.env ]] || return 0
  while read -r line || [[ $line ]]; do
    name=${line%%=*}
    [[ $line == *=* && $name =~ ^[A-Z][A-Z0-9_]*$ ]] || continue
    [[ -v $name ]] || export "$name=${line#*=}"
  done <config/local.env
}

# A number that is none would silently become 0 on its way through the templates.
check_settings() {
  local name
  for name in $(compgen -e | grep -E '^(LLAMA|POSTGRES_AUTH)_.*(PORT|LIMIT|SECONDS|BYTES|TOKENS)$'); do
    [[ ${!name} =~ ^[0-9]{0,9}$ ]] || misuse "$name is '${!name}'; expected a whole number"
    [[ $name != *_PORT || ! ${!name} ]] || ((10#${!name} >= 1 && 10#${!name} <= 65535)) ||
      misuse "$name is '${!name}'; expected a port, 1 to 65535"
  done
}

# --- what has to be there before Ansible can run -------------------------------------------------

# Through env, because setpriv itself still has root's rights when it looks its program up.
as_stranger() { setpriv --reuid=65534 --regid=65534 --clear-groups env "$@"; }

# Root's services run as a user of their own. Where that user could not reach the checkout (it lies
# below /root, say), everything they use goes to /var/lib, and links in the checkout lead there.
prepare_folders() {
  local name home
  if ((EUID == 0)) && ! as_stranger test -x "$ROOT"; then
    home=/var/lib/llamakit-local/$(printf %s "$ROOT" | sha256sum | cut -c1-6)
    [[ -L runtime ]] || say "The services' user cannot reach $ROOT: keeping their files in $home."
    for name in runtime logs data models; do
      [[ -L $name ]] && continue
      mkdir -p "$home"
      if [[ -d $name ]]; then mv -T "$name" "$home/$name"; else mkdir -p "$home/$name"; fi
      ln -s "$home/$name" "$name"
    done
  fi
  mkdir -p runtime logs data models
}

find_python() {
  local candidate path run=()
  ((EUID != 0)) || run=(as_stranger)
  for candidate in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
    path=$(command -v "$candidate") || continue
    path=$("$path" -c 'import sys, os
if sys.version_info >= (3, 11): print(os.path.realpath(sys.executable))' 2>/dev/null) || continue
    [[ $path ]] || continue
    if "${run[@]}" "$path" -c 'import ensurepip, venv' 2>/dev/null; then
      say "$path"
      return
    fi
  done
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

bootstrap() {
  local wanted python tool
  for tool in setpriv flock; do
    command -v "$tool" >/dev/null || fail "$tool is missing. Install it, as root:  apt-get install util-linux"
  done
  prepare_folders
  wanted=$(sha256sum requirements/controller.txt requirements/collections.txt requirements.yml | sha256sum | cut -c1-16)
  if [[ $(cat "$CONTROLLER/.complete" 2>/dev/null) != "$wanted" ]]; then
    lock
    python=$(find_python)
    say "==> Install the controller: Ansible and the kit's own programs, into runtime/"
    { "$python" -m venv --clear "$CONTROLLER" &&
      "$CONTROLLER/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --require-hashes --no-deps --requirement requirements/controller.txt; } ||
      fail "the controller could not be installed; the reason stands above. It needs 2 GB of room on the disk
(df -h runtime) and a package index (pip config list). Then run the same command again."
    install_collections
    printf %s "$wanted" >"$CONTROLLER/.complete"
  fi
}

# Galaxy first; where it cannot be reached, the same versions out of the PyPI package `ansible`.
install_collections() {
  local wheel
  if "$CONTROLLER/bin/ansible-galaxy" collection install --requirements-file requirements.yml \
    --collections-path "$RUNTIME/collections" --timeout 10 >"$RUNTIME/galaxy.log" 2>&1; then
    return
  fi
  say "  Galaxy cannot be reached (runtime/galaxy.log): taking the collections from PyPI"
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

export ANSIBLE_CONFIG=$ROOT/ansible.cfg ANSIBLE_HOME=$RUNTIME/ansible ANSIBLE_REMOTE_TEMP=$RUNTIME/ansible/tmp
export PIP_CACHE_DIR=${PIP_CACHE_DIR:-$RUNTIME/cache/pip} PIP_ROOT_USER_ACTION=ignore
VERBOSE=()

play() {
  local playbook=$1 callback=llamakit_progress
  shift
  ((${#VERBOSE[@]} == 0)) || callback=default
  ANSIBLE_STDOUT_CALLBACK=$callback "$CONTROLLER/bin/ansible-playbook" --inventory inventory/localhost.yml \
    "${VERBOSE[@]}" "$@" "$playbook" || exit 1
}

kit() { PYTHONPATH=$ROOT/files/kit/src "$CONTROLLER/bin/python" -m llamakit "$@"; }

installed() { [[ -f $RUNTIME/state.json ]] || fail 'nothing is installed here yet. Run: ./console.sh start'; }

# --- the verbs -----------------------------------------------------------------------------------

start() {
  local mode='' model=''
  while (($#)); do
    case $1 in
      single | multi) mode=$1 ;;
      --model) [[ ${2-} ]] || misuse 'start --model needs an ID'; model=$2; shift ;;
      *) misuse "start: unknown argument $1" ;;
    esac
    shift
  done
  bootstrap
  lock
  deploy "$mode" "$model"
}

# A download shows its progress only outside Ansible, so the models come first.
deploy() {
  local choice=() model
  [[ ! $1 ]] || choice+=(--mode "$1")
  [[ ! $2 ]] || choice+=(--model "$2")
  model=$(kit prefetch --state-dir "$RUNTIME" "${choice[@]}")
  play site.yml -e llama_server_fetch=false -e "llama_server_mode=$1" -e "llama_server_selected=$model"
  say
  kit summary --state-dir "$RUNTIME"
}

install_only() {
  takes_none "$@"
  bootstrap
  lock
  play playbooks/install.yml
}

# service TAG [SERVICE...]: the tagged play of playbooks/service.yml, for some services or for all.
service() {
  local tag=$1 names
  shift
  installed
  lock
  printf -v names '"%s",' "$@"
  (($#)) || names=
  play playbooks/service.yml --tags "$tag" -e "{\"service_names\": [${names%,}]}"
}

restart() {
  local name
  for name in "$@"; do [[ $name =~ ^[A-Za-z0-9._-]+$ ]] || misuse "restart: $name is no service's name"; done
  service restart "$@"
}

use() {
  local model
  (($# <= 1)) || misuse 'use takes one ID'
  bootstrap
  model=$(kit select ${1:+--model "$1"}) || exit $?
  lock
  deploy '' "$model"
}

add() {
  (($# <= 1)) || misuse 'add takes one ID'
  bootstrap
  lock
  if (($#)); then kit fetch --model "$1"; else kit fetch --all; fi
}

logs() {
  local name='' follow=() files
  while (($#)); do
    case $1 in
      -f) follow=(--follow=name --retry) ;;
      -*) misuse "logs: unknown option $1" ;;
      *) [[ ! $name ]] || misuse 'logs takes one SERVICE'; name=$1 ;;
    esac
    shift
  done
  installed
  [[ $name != */* ]] || misuse "logs: $name is no service's name"
  if [[ $name && -f logs/$name.log ]]; then files=("logs/$name.log")
  elif [[ $name && -f logs/llama-$name.log ]]; then files=("logs/llama-$name.log")
  elif [[ $name ]]; then
    fail "there is no log of $name. There are logs of: $(cd logs && printf '%s ' *.log | sed 's/[.]log//g')"
  else files=(logs/*.log); fi
  exec tail --lines=60 "${follow[@]}" "${files[@]}"
}

proxy_command() {
  installed
  [[ -x $RUNTIME/llamakit-proxy ]] || fail 'the proxy is not installed yet. Run: ./console.sh start'
  exec "$RUNTIME/llamakit-proxy" "$@"
}

uninstall() {
  local purge='' answer yes=''
  while (($#)); do
    case $1 in
      --purge) purge=1 ;;
      --yes) yes=1 ;;
      *) misuse "uninstall: unknown argument $1" ;;
    esac
    shift
  done
  if [[ $purge && ! $yes ]]; then
    [[ -t 0 ]] || misuse 'uninstall --purge removes models, users and keys; without a terminal it needs --yes'
    read -rp 'This removes the models, the users and their keys. Type yes to go on: ' answer
    [[ $answer == yes ]] || fail 'nothing was removed.'
  fi
  if [[ -f $CONTROLLER/.complete ]]; then
    lock
    play playbooks/uninstall.yml -e "llamakit_purge=${purge:-0}"
  fi
  remove runtime logs
  # What Python has kept beside the sources that it ran.
  find files playbooks -name __pycache__ -prune -exec rm -rf {} +
  if [[ $purge ]]; then remove data models; fi
  say "Removed.${purge:-" The models and the database are still in models/ and data/; --purge removes them too."}" | sed 's/^Removed\.1$/Removed./'
}

# A folder, and what it is a link to.
remove() {
  local name target
  for name in "$@"; do
    target=$(readlink -f "$name")
    rm -rf -- "$name" "$target"
    [[ $target == "$ROOT/$name" ]] || rmdir --ignore-fail-on-non-empty -p "$(dirname "$target")" 2>/dev/null || true
  done
}

run_tests() {
  (($# <= 1)) || misuse 'test takes one of unit, proxy, cli and all'
  [[ ${1:-all} =~ ^(unit|proxy|cli|all)$ ]] || misuse "test: expected unit, proxy, cli or all; found $1"
  bootstrap
  if [[ $LOCK ]]; then exec {LOCK}>&-; fi
  exec tests/run.sh "$@"
}

main() {
  while [[ ${1-} == -v* ]]; do VERBOSE+=("$1"); shift; done
  local verb=${1:-help}
  (($# == 0)) || shift
  load_local_settings
  check_settings
  case $verb in
    install) install_only "$@" ;;
    start | use | add | restart | logs | uninstall) "$verb" "$@" ;;
    stop) takes_none "$@"; service stop ;;
    start-proxy) takes_none "$@"; service start proxy ;;
    stop-proxy) takes_none "$@"; service stop proxy ;;
    status) installed; kit status --state-dir "$RUNTIME" "$@" ;;
    models) bootstrap; kit models "$@" ;;
    doctor) bootstrap; kit doctor --state-dir "$RUNTIME" "$@" ;;
    user | usage | verify) proxy_command "$verb" "$@" ;;
    test) run_tests "$@" ;;
    help | -h | --help) takes_none "$@"; help ;;
    *) misuse "there is no verb $verb" ;;
  esac
}

main "$@"
