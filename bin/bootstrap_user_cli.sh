#!/usr/bin/env bash
# From a fresh clone to a first user: installs and starts what is missing, then creates the user.
# On stdout there is the key and nothing else; everything that is said on the way goes to stderr.
set -euo pipefail

ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)

usage() {
  cat <<'TEXT'
Usage: bin/bootstrap_user_cli.sh [--username NAME [options of create-user]]

Makes sure that the kit is installed and its database ready (it runs ./console.sh start when they
are not), then creates the user NAME and prints their key, once. Without --username it stops after
the first part and says how to go on.
TEXT
}

case ${1-} in
  -h | --help)
    usage
    exit 0
    ;;
  '' | --username | --username=*) ;;
  *)
    printf 'bootstrap_user_cli.sh: expected --username NAME first, found %q\n\n' "$1" >&2
    usage >&2
    exit 2
    ;;
esac

if ! "$ROOT/bin/user_management_cli.sh" init-db >&2; then
  echo 'The database is not ready: installing and starting what is missing.' >&2
  "$ROOT/console.sh" start >&2
fi

if (($# == 0)); then
  echo 'The database is ready. Create a user: bin/user_management_cli.sh create-user --username NAME' >&2
  exit 0
fi
exec "$ROOT/bin/user_management_cli.sh" create-user "$@"
