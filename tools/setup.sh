#!/bin/sh
# Makes an environment with the packages of a lock and this project in it, editable:
#
#   tools/setup.sh [FOLDER LOCK]     by default .venv and requirements/dev.txt
#
# `make setup` calls it when pyproject.toml or the lock has changed, `make demo` for the few packages that run the
# project. It needs Python 3.11 or newer with its venv
# module and nothing else, and every way to fail ends in one line that says what is missing.
#
#   PYTHON=/path/to/python3   the interpreter to use, instead of the first suitable one on PATH
set -eu
cd "$(dirname "$0")/.."

venv=${1:-.venv}
lock=${2:-requirements/dev.txt}
log=.setup.log
began=$(date +%s)

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# Prints "VERSION EXECUTABLE", or "VERSION EXECUTABLE too-old", or "VERSION EXECUTABLE no-venv"; nothing where $1 is
# no Python that runs. The executable is the real one: not the shim that found it, and not a virtual environment's,
# which could be the very one that is about to be replaced. The program must be readable to Python 2 as well.
probe() {
    "$1" -c '
import sys
verdict = ""
if sys.version_info < (3, 11):
    verdict = "too-old"
else:
    try:
        import ensurepip, venv
    except ImportError:
        verdict = "no-venv"
executable = getattr(sys, "_base_executable", None) or sys.executable
print("%d.%d.%d" % sys.version_info[:3] + "\t" + executable + "\t" + verdict)
' 2>/dev/null || true
}

# Sets `version` and `python`, or fails with the most useful thing seen on the way.
find_python() {
    hint="install Python 3.11 or newer, or name one: make setup PYTHON=/path/to/python3"
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
        reason="PYTHON=$PYTHON is no Python that runs: $hint"
    else
        set -- python3 python3.14 python3.13 python3.12 python3.11
        reason="no Python found: $hint"
    fi
    tab=$(printf '\t')
    for candidate in "$@"; do
        found=$(probe "$candidate")
        [ -n "$found" ] || continue
        version=${found%%"$tab"*}
        found=${found#*"$tab"}
        python=${found%"$tab"*}
        case ${found##*"$tab"} in
        '') return ;;
        too-old)
            # A Python that only lacks its venv module is the nearer miss.
            [ -n "${near_miss:-}" ] || reason="Python $version ($python) is too old: $hint"
            ;;
        no-venv)
            near_miss=yes
            minor=${version%.*}
            reason="Python $version ($python) has no venv module: install it (Debian, Ubuntu: apt install python$minor-venv)"
            ;;
        esac
    done
    fail "$reason"
}

# True where .venv runs, holds exactly what the lock says, and is of the Python that was asked for.
is_current() {
    "$venv/bin/python" -c '' 2>/dev/null || return 1
    cmp -s "$lock" "$venv/.lock" || return 1
    [ -z "${PYTHON:-}" ] || [ "$(cat "$venv/.python" 2>/dev/null)" = "$python" ]
}

# How far pip is, from its log. $1: how many packages there are.
progress() {
    if grep -q '^Installing collected packages' "$log"; then
        printf 'unpacking %s packages' "$1"
    else
        printf '%s of %s packages' "$(grep -c '^Collecting' "$log")" "$1"
    fi
}

# watch PID TOTAL: says how far it is, once a second in place on a terminal, else every ten seconds.
watch() {
    seconds=0
    while kill -0 "$1" 2>/dev/null; do
        sleep 1
        seconds=$((seconds + 1))
        if [ "$2" -eq 1 ]; then
            continue
        elif [ -t 1 ]; then
            printf '\r\033[Ksetup: %s, %s s' "$(progress "$2")" "$seconds"
        elif [ $((seconds % 10)) -eq 0 ]; then
            say "$(progress "$2"), $seconds s"
        fi
    done
    if [ -t 1 ]; then printf '\r\033[K'; fi
}

# pip_install STEP TOTAL ARGUMENT...: pip's own words go to the log.
pip_install() {
    step=$1
    total=$2
    shift 2
    say "$step"
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input install --progress-bar off "$@" >"$log" 2>&1 &
    pid=$!
    watch "$pid" "$total"
    if wait "$pid"; then
        return
    fi
    # A network that fails also ends in "no matching distribution", so it is looked for first.
    if grep -Eqi 'connection broken|connection error|failed to establish|name resolution|timed out|proxyerror|sslerror' "$log"; then
        why="pip could not reach its package index: check the network, or pip's settings"
    elif grep -q 'DO NOT MATCH THE HASHES' "$log"; then
        why="a download is not the file that $lock names, and nothing was installed"
    elif missing=$(sed -n 's/.*No matching distribution found for \([^ ;]*\).*/\1/p' "$log" | head -n 1) && [ -n "$missing" ]; then
        why="there is no wheel of $missing for this Python and platform ($("$venv/bin/python" -V))"
    else
        why="pip failed: $(grep -v '^[[:space:]]*$' "$log" | tail -n 1)"
    fi
    fail "$why (all of pip's words: $log)"
}

[ -z "${PYTHON:-}" ] || find_python
if ! is_current; then
    [ -n "${python:-}" ] || find_python
    say "Python $version ($python) makes $venv"
    rm -rf "$venv"
    "$python" -m venv "$venv" >"$log" 2>&1 || fail "Python $version ($python) could not make $venv: $(tail -n 1 "$log")"
    # Wheels only: building a package from source would need a compiler, and would run code that no hash covers.
    # The lock is complete. Left to follow dependencies, pip asks for the newest "coverage[toml]" beside the locked
    # "coverage", and refuses it for want of a hash on the day a newer one is released.
    locked=$(grep -c '^[a-z].*==' "$lock")
    pip_install "installing $locked locked packages" "$locked" \
        --no-deps --require-hashes --only-binary :all: --requirement "$lock"
    "$venv/bin/python" -m pip check >"$log" 2>&1 || fail "the lock is not complete: $(tail -n 1 "$log")"
    printf '%s\n' "$python" >"$venv/.python"
    cp "$lock" "$venv/.lock"
fi
# The build backend is in the lock, so this step needs no network.
pip_install "installing the project, editable" 1 --no-deps --no-build-isolation --no-index --editable .
rm -f "$log"
say "done in $(($(date +%s) - began)) s"
