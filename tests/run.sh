#!/usr/bin/env bash
# The tests of the kit itself. `./console.sh test [unit|plays|proxy|cli|e2e|molecule|all|setup]` prepares
# the controller and comes here. The exit status is 0 only when everything that ran has passed.
set -euo pipefail

ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
cd "$ROOT"

RUNTIME=$ROOT/runtime
CONTROLLER=$RUNTIME/controller
ENVIRONMENT=$RUNTIME/test
CACHE=$RUNTIME/cache
BESIDE_LOG=$RUNTIME/beside.log
BESIDE=
# The half of the layer cli that shares no checkout with the other.
FIRST_STARTS=tests/cli/test_start.py
NEEDS_ROOT='it makes containers with a systemd in them, as root alone can.'
# Tests without servers share nothing, and wait now and then: one more at a time than there are
# cores. Those with servers fill the cores as they are.
SPREAD=(--numprocesses $(($(nproc) + 1)) --dist worksteal)
FAILED=()

say() { printf '%s\n' "$*"; }
fail() { printf 'tests/run.sh: %s\n' "$*" >&2; exit "${2:-1}"; }

pip_install() {
  "$ENVIRONMENT/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --no-deps "$@"
}

# Everything that is locked for the programs under test, and the tools that test them.
prepare_environment() {
  local lock
  lock=$({ cat requirements/test.txt && "$CONTROLLER/bin/python" -VV; } | sha256sum | cut -c1-16)
  [[ $(cat "$ENVIRONMENT/.complete" 2>/dev/null) != "$lock" ]] || return 0
  say '==> Install the test tools, into runtime/test'
  "$CONTROLLER/bin/python" -m venv --clear "$ENVIRONMENT"
  pip_install --require-hashes --requirement requirements/test.txt
  printf %s "$lock" >"$ENVIRONMENT/.complete"
}

find_wheel() {
  local folder wheel
  for folder in "${LLAMAKIT_WHEELHOUSE-}" "$RUNTIME/wheelhouse/cpu"; do
    for wheel in "$folder"/llama_cpp_python-"$1"-*.whl; do
      [[ -f $wheel ]] || continue
      readlink -f "$wheel"
      return
    done
  done
}

# llama-cpp-python is compiled, so it is no part of the lock: its wheel is found, or built, which
# takes minutes. The tests without servers do without.
prepare_llama_cpp() {
  local version wheel stamp
  version=$(sed -n 's/^llama-cpp-python==\([^ ]*\).*/\1/p' requirements/llama_cpp.txt)
  wheel=$(find_wheel "$version")
  if [[ ! $wheel ]]; then
    say "==> No wheel of llama-cpp-python $version is here: build it, with everything else that start installs"
    ./console.sh install
    wheel=$(find_wheel "$version")
    [[ $wheel ]] || fail "./console.sh install left no wheel of llama-cpp-python $version in runtime/wheelhouse/cpu"
  fi
  stamp=$(sha256sum "$wheel" | cut -c1-16)
  if [[ $(cat "$ENVIRONMENT/.llama_cpp" 2>/dev/null) != "$stamp" ]]; then
    say "==> Install ${wheel##*/}"
    pip_install --no-index --force-reinstall "$wheel"
    printf %s "$stamp" >"$ENVIRONMENT/.llama_cpp"
  fi
  LLAMAKIT_WHEELHOUSE=$(dirname "$wheel")
  export LLAMAKIT_WHEELHOUSE
}

# Molecule's hosts are containers with a systemd of their own, made from the distribution's packages.
prepare_containers() {
  local program missing=()
  for program in podman runc mmdebstrap; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  ((${#missing[@]})) || return 0
  if ((EUID == 0)) && command -v apt-get >/dev/null; then
    say "==> Install ${missing[*]}, for the hosts that molecule makes"
    apt-get update --quiet --quiet &&
      DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends \
        "${missing[@]}" iptables netavark aardvark-dns >"$RUNTIME/apt.log" 2>&1 && return 0
    say "  that failed, see $RUNTIME/apt.log"
  fi
  say "The hosts of the layer molecule need root, and ${missing[*]}. As root: apt-get install ${missing[*]}"
  return 1
}

may_use_containers() {
  ((EUID == 0)) || { say "The layer molecule can't run: $NEEDS_ROOT"; return 1; }
  prepare_containers
}

# The scenario's hosts go, whatever becomes of it. A host has no folder of the name that console.sh
# gives Ansible's files on this machine.
run_molecule() {
  local status=0
  unset ANSIBLE_REMOTE_TEMP
  molecule test -s default || status=$?
  ((status == 0)) || molecule destroy -s default >/dev/null 2>&1 || true
  return "$status"
}

# run_pytest NAME ARGUMENT...: a cache for each, because two of them may run side by side.
run_pytest() {
  local name=$1
  shift
  say "==> pytest $*"
  pytest -o "cache_dir=$CACHE/pytest-$name" "$@"
}

# What deploys waits for pip, services and hosts more than it computes: it runs beside the rest.
run_deployments() {
  local status=0 stopped=''
  trap 'stopped=yes' TERM
  if [[ $1 ]]; then
    say '==> molecule test -s default'
    run_molecule || status=$?
  fi
  [[ $stopped ]] || run_pytest cli tests/cli --ignore "$FIRST_STARTS" || status=$?
  return "$status"
}

start_deployments() {
  say "==> ${1:+molecule test -s default, then }pytest tests/cli, beside the rest; their output goes to $BESIDE_LOG"
  run_deployments "$1" >"$BESIDE_LOG" 2>&1 </dev/null &
  BESIDE=$!
}

finish_deployments() {
  [[ $BESIDE ]] || return 0
  say '==> waiting for what runs beside'
  local status=0
  wait "$BESIDE" || status=$?
  BESIDE=
  if ((status)); then cat "$BESIDE_LOG"
  else
    grep -A20 'SCENARIO RECAP' "$BESIDE_LOG" || true
    sed -n '/^==> pytest/,$p' "$BESIDE_LOG"
  fi
  return "$status"
}

# Whoever ends the tests ends what runs beside, too: its hosts, accounts and services.
# shellcheck disable=SC2329  # the trap in main calls it
stop_deployments() {
  [[ $BESIDE ]] || return 0
  kill -TERM "$BESIDE" || true
  pkill -TERM -P "$BESIDE" || true
  wait "$BESIDE" || true
  PYTHONPATH=tests python -m support.leftovers || true
  BESIDE=
}

main() {
  local tests=() hosts='' status=0
  case ${1:-all} in
    all) tests=(tests/lint tests/unit tests/plays tests/proxy tests/e2e "$FIRST_STARTS") ;;
    unit) tests=(tests/lint tests/unit "${SPREAD[@]}") ;;
    plays) tests=(tests/plays "${SPREAD[@]}") ;;
    proxy | cli | e2e) tests=("tests/$1") ;;
    molecule) ;;
    setup) ;;
    *) fail "expected unit, plays, proxy, cli, e2e, molecule, all or setup; found $1" 2 ;;
  esac
  [[ -x $CONTROLLER/bin/python ]] || fail 'the controller is missing. Run: ./console.sh test'

  prepare_environment
  [[ ${1-} =~ ^(unit|plays)$ ]] || prepare_llama_cpp
  export PATH=$ENVIRONMENT/bin:$PATH
  export MYPY_CACHE_DIR=$CACHE/mypy RUFF_CACHE_DIR=$CACHE/ruff PYTHONPYCACHEPREFIX=$CACHE/python
  export HYPOTHESIS_STORAGE_DIRECTORY=$CACHE/hypothesis
  export ANSIBLE_CONFIG=$ROOT/ansible.cfg ANSIBLE_HOME=$RUNTIME/ansible

  if [[ ${1-} == setup ]]; then
    may_use_containers
    say 'Everything that the tests need is here. To use the tools by hand: . runtime/test/bin/activate'
    exit 0
  fi
  case ${1:-all} in
    all)
      trap stop_deployments EXIT
      if ((EUID != 0)); then say "The layer molecule is left out: $NEEDS_ROOT"
      elif prepare_containers; then hosts=yes
      else FAILED+=(molecule); fi
      start_deployments "$hosts"
      ;;
    molecule) { may_use_containers && run_molecule; } || FAILED+=(molecule) ;;
  esac
  ((${#tests[@]} == 0)) || run_pytest "${1:-all}" "${tests[@]}" || status=$?
  finish_deployments || FAILED+=("${hosts:+molecule or }cli")
  ((${#FAILED[@]} == 0)) || fail "these checks failed, see above: ${FAILED[*]}"
  exit "$status"
}

main "$@"
