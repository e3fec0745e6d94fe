#!/usr/bin/env bash
# Users and keys under the names that scripts know; `./console.sh user --help` is the same for people.
set -euo pipefail

ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
PROXY=$ROOT/runtime/llamakit-users

usage() {
  cat <<'TEXT'
Usage: bin/user_management_cli.sh COMMAND [arguments]

  init-db                                   create the tables, or bring them up to date
  create-user   --username NAME [options]   a new user; prints the key, once
  list-users
  show-user     --username NAME
  disable-user  --username NAME
  enable-user   --username NAME
  delete-user   --username NAME --yes
  rotate-key    --username NAME [--overlap 24h]
  revoke-key    --key PUBLIC_ID, or --username NAME --all
  set-limit     --username NAME [--rate-limit N] [--token-limit N] [--max-concurrent N] [options]
  set-weight    --username NAME --weight N
  set-priority  --key PUBLIC_ID --priority interactive|batch
  allow-models  --username NAME --models A,B
  usage         [--user NAME] [--since 7d] [--by user,model,day]

Each command explains its options when given --help, and answers in JSON when given --json.
TEXT
}

# The keys are managed where the proxy is installed; what is missing is named, not guessed.
init_db() {
  if [[ ! -x $PROXY ]]; then
    echo 'user_management_cli.sh: nothing is installed here yet. Run: ./console.sh start' >&2
    exit 1
  fi
  exec "$PROXY" init-db "$@"
}

main() {
  local command=${1:-help}
  (($# == 0)) || shift
  case $command in
    init-db) init_db "$@" ;;
    list-users) exec "$ROOT/console.sh" user list "$@" ;;
    create-user | show-user | disable-user | enable-user | delete-user)
      exec "$ROOT/console.sh" user "${command%-user}" "$@"
      ;;
    rotate-key | revoke-key) exec "$ROOT/console.sh" user "${command%-key}" "$@" ;;
    set-limit | set-weight | set-priority | allow-models)
      exec "$ROOT/console.sh" user "$command" "$@"
      ;;
    usage) exec "$ROOT/console.sh" usage "$@" ;;
    help | -h | --help) usage ;;
    *)
      printf 'user_management_cli.sh: there is no command %q\n\n' "$command" >&2
      usage >&2
      exit 2
      ;;
  esac
}

main "$@"
