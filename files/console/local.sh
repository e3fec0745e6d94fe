# shellcheck shell=bash
# The verbs for the machine you sit at; console.sh reads it.

start() {
  local mode='' model=''
  read_start "$@"
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
  chosen "$1" "$model"
  play site.yml -e llama_server_fetch=false "${CHOSEN[@]}"
  say
  kit summary --state-dir "$RUNTIME"
}

install_only() {
  takes_none "$@"
  bootstrap
  lock
  # Told here, where it is read; the play has no part in it.
  kit read-config --settings config/local.env >/dev/null
  play playbooks/install.yml
}

service() {
  installed
  lock
  service_play "$@"
}

restart() { service restart "$@"; }

use() {
  local model
  [[ $# -le 1 && ${1-} != -* ]] || misuse "use takes one ID, and was given: $*"
  bootstrap
  model=$(kit select --state-dir "$RUNTIME" ${1:+--model "$1"}) || exit $?
  lock
  deploy '' "$model"
}

add() {
  [[ $# -le 1 && ${1-} != -* ]] || misuse "add takes one ID, and was given: $*"
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
  [[ -x $RUNTIME/llamakit-users ]] || fail 'the proxy is not installed yet. Run: ./console.sh start'
  LLAMAKIT_PROGRAM=./console.sh exec "$RUNTIME/llamakit-users" "$@"
}

# The database's own programs and addresses stand in a file that the deployment writes.
database() {
  installed
  [[ -f $RUNTIME/database.json ]] ||
    fail 'the database is not installed here, or someone else runs it (docs/operations.md). Run: ./console.sh start'
  kit "$@" --settings "$RUNTIME/database.json"
}

backup() { takes_none "$@"; database backup; }

upgrade() {
  takes_none "$@"
  installed
  bootstrap
  lock
  if [[ ${POSTGRES_AUTH_HOST-} ]]; then
    say "No backup was made: the PostgreSQL at $POSTGRES_AUTH_HOST is external, and whoever runs it backs it up."
  else
    database backup
  fi
  deploy '' ''
}

restore() {
  local file='' yes=''
  read_restore "$@"
  [[ $file ]] || misuse 'restore needs a FILE, or latest; ./console.sh backups lists them'
  # Another name is that of a backup among the kit's own.
  [[ $file == latest || ! -e $STARTED_IN/$file ]] || file=$(realpath -- "$STARTED_IN/$file")
  confirm "$yes" 'This puts the users, keys and usage of the backup in the place of those there are.' restore
  installed
  lock
  database restore "$file" --yes
}

rollback() {
  takes_none "$@"
  installed
  lock
  play playbooks/rollback.yml
}

uninstall() {
  local purge='' yes=''
  read_uninstall "$@"
  [[ ! $purge ]] || confirm "$yes" 'This removes the models, the users and their keys.' 'uninstall --purge'
  # Only the play stops what runs.
  if [[ -f runtime/state.json && ! -f $CONTROLLER/.complete ]]; then bootstrap; fi
  if [[ -f $CONTROLLER/.complete ]]; then
    lock
    play playbooks/uninstall.yml -e "llamakit_purge=${purge:-0}"
  fi
  # What was chosen last belongs to what stays; the next start takes it up.
  if [[ ! $purge && -f runtime/mode.json ]]; then mv runtime/mode.json data/; fi
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
