#!/usr/bin/env bash
# The tests of the kit itself. `./console.sh test [unit|proxy|cli|all]` prepares the controller and
# comes here. The last line is pytest's own; the exit status is 0 only when everything passed.
set -euo pipefail

ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
cd "$ROOT"

RUNTIME=$ROOT/runtime
CONTROLLER=$RUNTIME/controller
ENVIRONMENT=$RUNTIME/test
CACHE=$RUNTIME/cache
FAILED=()

say() { printf '%s\n' "$*"; }
fail() { printf 'tests/run.sh: %s\n' "$*" >&2; exit "${2:-1}"; }

pip_install() {
  "$ENVIRONMENT/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --no-deps "$@"
}

# Everything that is locked for the programs under test, and the tools that test them.
prepare_environment() {
  local lock
  lock=$(sha256sum requirements/test.txt | cut -c1-16)
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
# takes minutes. The unit tests do without.
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

# check NAME COMMAND...: what it finds is shown at once, and counts at the end.
check() {
  local name=$1
  shift
  say "==> $name"
  "$@" || FAILED+=("$name")
}

lint() {
  check ruff ruff check --quiet --output-format concise .
  check mypy mypy --no-error-summary --hide-error-context files/*/src playbooks/plugins tests
  check shellcheck shellcheck ./*.sh bin/*.sh tests/*.sh .ci/run
  check yamllint yamllint --strict .
  check ansible-lint ansible-lint -q --nocolor
}

main() {
  local layers status=0
  case ${1:-all} in
    all) layers=(unit proxy cli) ;;
    unit | proxy | cli) layers=("$1") ;;
    *) fail "expected unit, proxy, cli or all; found $1" 2 ;;
  esac
  [[ -x $CONTROLLER/bin/python ]] || fail 'the controller is missing. Run: ./console.sh test'

  prepare_environment
  [[ ${layers[*]} == unit ]] || prepare_llama_cpp
  export PATH=$ENVIRONMENT/bin:$PATH
  export MYPY_CACHE_DIR=$CACHE/mypy RUFF_CACHE_DIR=$CACHE/ruff PYTHONPYCACHEPREFIX=$CACHE/python
  export HYPOTHESIS_STORAGE_DIRECTORY=$CACHE/hypothesis
  export ANSIBLE_CONFIG=$ROOT/ansible.cfg ANSIBLE_HOME=$RUNTIME/ansible

  [[ ${layers[*]} != *unit* ]] || lint
  say "==> pytest ${layers[*]/#/tests/}"
  pytest -o "cache_dir=$CACHE/pytest" "${layers[@]/#/tests/}" || status=$?
  ((${#FAILED[@]} == 0)) || fail "these checks failed, see above: ${FAILED[*]}"
  exit "$status"
}

main "$@"
