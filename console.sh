#!/usr/bin/env bash
# llamakit's verbs: a table over the plays. `./console.sh help` explains them.
set -euo pipefail

STARTED_IN=$PWD
ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd -P)
cd "$ROOT"
umask 022

# verb # arguments # what it does. help prints it, and the tests hold the docs against it. A verb that
# also acts on hosts, after -l, has a star.
VERBS='
setup        #                                  # *prepare Ansible under runtime/, and nothing else
install      #                                  # *install everything, start nothing
start        # [single|multi] [--model ID]      # *install what is missing, start, and prove that it works
stop         #                                  # *stop everything
restart      # [SERVICE...]                     # *restart what runs, in the mode it runs in
status       # [--json]                         # *what runs: state, pid, port, memory
models       # [--json]                         # the models there are, numbered
use          # [ID]                             # *switch to another model; asks when no ID is given
add          # [ID]                             # fetch a model now, or all that are missing
start-proxy  #                                  # *start the proxy again
stop-proxy   #                                  # *stop the proxy, leave the models running
logs         # [SERVICE] [-f]                   # *the end of the logs; -f follows
user         # COMMAND ...                      # *people and their keys; "user --help" lists the commands
usage        # [--user U] [--by user,model,day] # *requests and tokens per user, model and day
backup       #                                  # *save the users, keys and usage to a file
backups      # [--json]                         # *the backups there are
restore      # FILE|latest [--yes]              # *put a backup in the place of what is there
rollback     #                                  # *go back to the release of the proxy before this one
upgrade      #                                  # *a backup, then start: for a new checkout
verify       #                                  # *prove it again: a token from each model, a refusal without a key
doctor       #                                  # look for what could go wrong on this machine
bundle       # [--model M --python V --out F]   # one archive to deploy from without internet
test         # [LAYER]                          # tests of the kit: unit, plays, proxy, cli, e2e, molecule, all; or setup
uninstall    # [--purge] [--yes]                # *remove it; --purge also removes models, users and keys
help         #                                  # this text
'

RUNTIME=$ROOT/runtime
CONTROLLER=$RUNTIME/controller
HERE=inventory/localhost.yml
INVENTORY=$HERE
HOSTS=
VERBOSE=()

say() { printf '%s\n' "$*"; }
fail() { printf 'console.sh: %s\n' "$*" >&2; exit 1; }
misuse() {
  printf 'console.sh: %s\nSee: ./console.sh help\n' "$*" >&2
  exit 2
}

# Ctrl-C: whatever was at work has ended by then, and has said its own.
interrupted() {
  printf '\nconsole.sh: interrupted. Nothing is lost by it: run the same command again, and it goes on from there.\n' >&2
  exit 130
}
trap interrupted INT

takes_none() { (($# == 0)) || misuse "this verb takes no arguments, and was given: $*"; }

# What start, restore and uninstall are given, here and on hosts: it goes into the caller's variables.
read_start() {
  while (($#)); do
    case $1 in
      single | multi) mode=$1 ;;
      --model) [[ ${2-} && $2 != -* ]] || misuse 'start --model needs an ID'; model=$2; shift ;;
      *) misuse "start: unknown argument $1" ;;
    esac
    shift
  done
}

# chosen MODE MODEL: -e for them in CHOSEN. That beats the inventory, so nothing stands in for what was not asked for.
chosen() {
  CHOSEN=()
  [[ ! $1 ]] || CHOSEN+=(-e "llama_server_mode=$1")
  [[ ! $2 ]] || CHOSEN+=(-e "{\"llama_server_selected\": $(json_text "$2")}")
}

read_restore() {
  while (($#)); do
    case $1 in
      --yes) yes=1 ;;
      -*) misuse "restore: unknown option $1" ;;
      *) [[ ! $file ]] || misuse 'restore takes one FILE'; file=$1 ;;
    esac
    shift
  done
}

read_uninstall() {
  while (($#)); do
    case $1 in
      --purge) purge=1 ;;
      --yes) yes=1 ;;
      *) misuse "uninstall: unknown argument $1" ;;
    esac
    shift
  done
}

# confirm YES WARNING VERB: asks on a terminal, unless --yes was given.
confirm() {
  local answer
  [[ ! $1 ]] || return 0
  [[ -t 0 ]] || misuse "$3: $2 Without a terminal it needs --yes"
  read -rp "$2 Type yes to go on: " answer
  [[ $answer == yes ]] || fail 'nothing was changed.'
}

help() {
  say 'Usage: ./console.sh [-l HOST] VERB [arguments]   (-v before the verb shows every step)'
  say
  while IFS='#' read -r verb arguments text; do
    [[ ! $verb ]] || printf '  %s%s%s\n' "$verb" "${arguments# }" "${text# }"
  done <<<"$VERBS"
  say
  say 'Verbs with a * also act on hosts of inventory/hosts.yml: -l gpu01, -l gpu (a group), -l all.'
  say 'Settings: config/models.yaml, config/local.env, group_vars/; docs/configuration.md explains them.'
}

# What the table has of one verb.
verb_help() {
  local verb arguments text
  while IFS='#' read -r verb arguments text; do
    [[ $verb && ${verb%% *} == "$1" ]] || continue
    read -r arguments <<<"$arguments"
    text=${text# }
    say "Usage: ./console.sh $1${arguments:+ $arguments}"
    say
    say "  ${text#\*}"
    [[ $text != \** ]] || say "  Also on hosts of inventory/hosts.yml: ./console.sh -l HOST $1"
    [[ ! $1 =~ ^(user|usage)$ ]] || say "  docs/users.md explains it; once ./console.sh start has run, $1 --help shows all options."
    return
  done <<<"$VERBS"
  misuse "there is no verb $1"
}

# Whether --help is among the arguments and no program is there that has more to say about the verb.
asks_help() {
  local verb=$1
  shift
  [[ " $* " =~ \ (-h|--help)\  ]] || return 1
  [[ $verb =~ ^(user|usage)$ ]] || return 0
  if [[ $HOSTS ]]; then [[ ! -f $CONTROLLER/.complete ]]; else [[ ! -x $RUNTIME/llamakit-users ]]; fi
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
  for name in $(compgen -e | grep -E '^(LLAMA|POSTGRES_AUTH)_.*(PORT|LIMIT|SECONDS|BYTES|TOKENS|CONCURRENT|BUDGET|DAYS)$'); do
    [[ ${!name} =~ ^[0-9]{0,16}$ ]] || misuse "$name is '${!name}'; expected a whole number"
    [[ $name != *_PORT || ! ${!name} ]] || ((10#${!name} >= 1 && 10#${!name} <= 65535)) ||
      misuse "$name is '${!name}'; expected a port, 1 to 65535"
  done
}

export ANSIBLE_CONFIG=$ROOT/ansible.cfg ANSIBLE_HOME=$RUNTIME/ansible ANSIBLE_REMOTE_TEMP=$RUNTIME/ansible/tmp
export PIP_CACHE_DIR=${PIP_CACHE_DIR:-$RUNTIME/cache/pip} PIP_ROOT_USER_ACTION=ignore

# An installation that was cut short leaves no controller.
need_controller() {
  [[ -f $CONTROLLER/.complete ]] || fail 'the controller in runtime/ is missing, or was installed only in part. Run: ./console.sh setup'
}

play() {
  local playbook=$1 callback=llamakit_progress
  shift
  need_controller
  [[ ! $HOSTS ]] || check_hosts
  ((${#VERBOSE[@]} == 0)) || callback=default
  ANSIBLE_STDOUT_CALLBACK=$callback "$CONTROLLER/bin/ansible-playbook" --inventory "$INVENTORY" \
    ${HOSTS:+--limit "$HOSTS"} "${VERBOSE[@]}" "$@" "$playbook" || exit 1
}

# service_play TAG [SERVICE...]: a tagged play of playbooks/service.yml, for some services or for all.
service_play() {
  local tag=$1 names
  shift
  for names in "$@"; do [[ $names =~ ^[A-Za-z0-9._][A-Za-z0-9._-]*$ ]] || misuse "$tag: $names is no service's name"; done
  printf -v names '"%s",' "$@"
  (($#)) || names=
  play playbooks/service.yml --tags "$tag" -e "{\"service_names\": [${names%,}]}"
}

kit() {
  need_controller
  LLAMAKIT_PROGRAM=./console.sh PYTHONPATH=$ROOT/files/kit/src "$CONTROLLER/bin/python" -m llamakit "$@"
}

installed() { [[ -f $RUNTIME/state.json ]] || fail 'nothing is installed here yet. Run: ./console.sh start'; }

status() {
  if ! (installed); then
    [[ " $* " != *' --json '* ]] || say '{"overall": "stopped", "mode": null, "model": null, "services": []}'
    exit 3
  fi
  kit status --state-dir "$RUNTIME" "$@"
}

setup() {
  takes_none "$@"
  bootstrap
  say "Ansible is in runtime/controller/bin. For its own commands: . runtime/controller/bin/activate"
}

bundle() { bootstrap; lock; kit bundle --checkout "$ROOT" --from "$STARTED_IN" "$@"; }

run_tests() {
  (($# <= 1)) || misuse 'test takes one of unit, plays, proxy, cli, e2e, molecule, all and setup'
  [[ ${1:-all} =~ ^(unit|plays|proxy|cli|e2e|molecule|all|setup)$ ]] ||
    misuse "test: expected unit, plays, proxy, cli, e2e, molecule, all or setup; found $1"
  bootstrap
  if [[ $LOCK ]]; then exec {LOCK}>&-; fi
  exec tests/run.sh "$@"
}

# shellcheck source=files/console/bootstrap.sh
source files/console/bootstrap.sh
# shellcheck source=files/console/local.sh
source files/console/local.sh
# shellcheck source=files/console/hosts.sh
source files/console/hosts.sh

# The verbs of this machine.
here() {
  local verb=$1
  shift
  load_local_settings
  check_settings
  case $verb in
    install) install_only "$@" ;;
    setup | start | use | add | restart | logs | backup | restore | rollback | upgrade | bundle | uninstall) "$verb" "$@" ;;
    stop) takes_none "$@"; service stop ;;
    start-proxy) takes_none "$@"; service start proxy ;;
    stop-proxy) takes_none "$@"; service stop proxy ;;
    status) status "$@" ;;
    models) bootstrap; kit models --state-dir "$RUNTIME" "$@" ;;
    doctor) bootstrap; kit doctor --state-dir "$RUNTIME" "$@" ;;
    user | usage | verify) proxy_command "$verb" "$@" ;;
    backups) database backups "$@" ;;
    test) run_tests "$@" ;;
    help | -h | --help) takes_none "$@"; help ;;
    *) misuse "there is no verb $verb" ;;
  esac
}

main() {
  while [[ ${1-} == -[vli]* ]]; do
    case $1 in
      -v*) VERBOSE+=("$1") ;;
      -l) HOSTS=${2-}; shift; [[ $HOSTS ]] || misuse '-l needs a HOST or a group of inventory/hosts.yml' ;;
      -i) INVENTORY=${2-}; shift; [[ $INVENTORY ]] || misuse '-i needs an inventory'
          [[ $INVENTORY == /* ]] || INVENTORY=$STARTED_IN/$INVENTORY ;;
      *) misuse "there is no option $1" ;;
    esac
    shift
  done
  local verb=${1:-help}
  (($# == 0)) || shift
  [[ $HOSTS || $INVENTORY == "$HERE" ]] || misuse "-i $INVENTORY needs -l HOST too; -l all means every host of it"
  if asks_help "$verb" "$@"; then verb_help "$verb"; return; fi
  if [[ $HOSTS ]]; then there "$verb" "$@"; else here "$verb" "$@"; fi
}

main "$@"
