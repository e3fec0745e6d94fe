# shellcheck shell=bash
# The verbs for hosts, `./console.sh -l HOST VERB`; console.sh reads it.

# What the hosts answer, without the progress of the play around it.
ask() { LLAMAKIT_ANSWERS_ONLY=1 play "$@"; }

# That there are such hosts, and that somebody has put in where they are.
check_hosts() {
  local found example='"ansible_host": "(192[.]0[.]2[.][0-9]+)"'
  found=$("$CONTROLLER/bin/ansible-inventory" --inventory "$INVENTORY" --limit "$HOSTS" --list 2>/dev/null) || return 0
  [[ $found == *'"hosts": ['* ]] || fail "there is no host or group $HOSTS with hosts in $INVENTORY. See what there is:
  runtime/controller/bin/ansible-inventory --inventory $INVENTORY --graph"
  [[ ! $found =~ $example ]] || fail "$INVENTORY still has ${BASH_REMATCH[1]}, the address of the example; expected your host's. Put it there."
}

# A list, or one text, as the JSON that -e takes; the words are people's and may hold anything.
json_list() { "$CONTROLLER/bin/python" -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@"; }
json_text() { "$CONTROLLER/bin/python" -c 'import json, sys; print(json.dumps(sys.argv[1]))' "$1"; }

there() {
  local verb=$1
  shift
  # A host has no folder of this name, and a user there may not be able to make it.
  unset ANSIBLE_REMOTE_TEMP
  # OpenSSH's sockets have short names: one below a checkout is soon too long.
  export ANSIBLE_SSH_CONTROL_PATH_DIR=${ANSIBLE_SSH_CONTROL_PATH_DIR:-~/.ansible/cp}
  [[ $INVENTORY != "$HERE" ]] || INVENTORY=inventory/hosts.yml
  [[ -e $INVENTORY ]] || fail "there is no inventory $INVENTORY. List your hosts in inventory/hosts.yml, or name another with -i"
  case $verb in
    help | -h | --help) help; return ;;
  esac
  bootstrap
  case $verb in
    setup) setup "$@" ;;
    install) takes_none "$@"; play playbooks/install.yml ;;
    start) start_there "$@" ;;
    use) (($# == 1)) || misuse 'use needs an ID on a host'; start_there --model "$1" ;;
    stop) takes_none "$@"; service_play stop ;;
    start-proxy) takes_none "$@"; service_play start proxy ;;
    stop-proxy) takes_none "$@"; service_play stop proxy ;;
    restart) service_play restart "$@" ;;
    status) ask playbooks/service.yml --tags status -e "{\"service_status_options\": $(json_list "$@")}" ;;
    logs) logs_there "$@" ;;
    user | usage) ask playbooks/user.yml -e "{\"llamakit_user_command\": $(json_list "$verb" "$@")}" ;;
    backup | rollback | upgrade) takes_none "$@"; play "playbooks/$verb.yml" ;;
    backups) ask playbooks/backups.yml -e "{\"llamakit_backups_options\": $(json_list "$@")}" ;;
    restore) restore_there "$@" ;;
    verify) takes_none "$@"; play playbooks/verify.yml -e '{"auth_proxy_proof": ""}' ;;
    uninstall) uninstall_there "$@" ;;
    models | add | doctor | bundle | test) misuse "$verb acts on this machine alone; leave out -l $HOSTS" ;;
    *) misuse "there is no verb $verb" ;;
  esac
}

start_there() {
  local mode='' model='' check=() words=() word
  for word in "$@"; do
    if [[ $word == --check ]]; then check=(--check --diff); else words+=("$word"); fi
  done
  read_start "${words[@]}"
  chosen "$mode" "$model"
  play site.yml "${check[@]}" "${CHOSEN[@]}"
}

logs_there() {
  local service=''
  while (($#)); do
    case $1 in
      -f) misuse "logs -f cannot follow a host from here; on it: journalctl -f -u 'llamakit-*'" ;;
      -*) misuse "logs: unknown option $1" ;;
      *) [[ ! $service && $1 =~ ^[A-Za-z0-9._-]+$ ]] || misuse 'logs takes one SERVICE'; service=$1 ;;
    esac
    shift
  done
  ask playbooks/logs.yml -e "llamakit_logs_of=${service:-*}"
}

restore_there() {
  local file='' yes=''
  read_restore "$@"
  [[ $file ]] || misuse "restore needs a FILE of the host, or latest; ./console.sh -l $HOSTS backups lists them"
  confirm "$yes" "This puts the users, keys and usage of the backup in the place of those on $HOSTS." restore
  play playbooks/restore.yml -e "{\"backup\": $(json_text "$file")}" -e llamakit_confirm=restore
}

uninstall_there() {
  local purge='' yes=''
  read_uninstall "$@"
  [[ ! $purge ]] || confirm "$yes" "This removes the models, the users and their keys from $HOSTS." 'uninstall --purge'
  play playbooks/uninstall.yml -e "llamakit_purge=${purge:-0}"
}
