# Sourced by the commands beside it, which set $bin; bin/test sets $group=test, too. Sets $root (the checkout) and $venv
# (its environment), made or brought up to date first when need be: with what PARK needs to run, and for bin/test
# with what its tests need.
#
# .venv/stamp is written last and holds what the environment was made from. While it is right, nothing is done.
# Without it (never made, or a set-up that was cut short) the environment is made anew; with another one
# (pyproject.toml has changed) the project is installed again over the old. .venv/stamp-test is that of the tests.
# The lock keeps two commands that start together from doing so at once; it ends with the process that holds it.
set -eu
group=${group:-}
root=$(dirname -- "$bin")
venv=$root/.venv

_wanted() {
    # The path is in it because an environment does not survive being moved.
    { cat "$root/pyproject.toml" "$root/setup.cfg" && printf %s "$root"; } | cksum
}

_current() {
    [ -x "$venv/bin/python" ] && _stamped stamp && { [ -z "$group" ] || _stamped "stamp-$group"; }
}

_stamped() {
    [ -f "$venv/$1" ] && [ "$(cat "$venv/$1")" = "$(_wanted)" ]
}

_say() {
    printf '%s\n' "$@" >&2
}

# Prints a Python >= 3.11 that can make environments, or says what is missing.
_find_python() {
    old= bare=
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        found=$("$candidate" -I -c 'import sys; print("%d.%d" % sys.version_info[:2], sys.version_info >= (3, 11))' \
            2>/dev/null) || continue
        if [ "${found#* }" != True ]; then
            old="$old $candidate (${found% *})"
        elif "$candidate" -I -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$candidate"
            return
        else
            bare="$bare $candidate (${found% *})"
        fi
    done
    if [ -n "$bare" ]; then
        _say "park: the venv module of$bare is missing or has no ensurepip; on Debian and Ubuntu: apt install python3-venv"
    elif [ -n "$old" ]; then
        _say "park: needs Python 3.11 or later, and found only$old; put a newer python3 on the PATH"
    else
        _say "park: needs Python 3.11 or later, and there is no python3 on the PATH"
    fi
    return 1
}

_make() {
    python=$(_find_python)
    exec 9>"$root/.venv.lock"
    # A flock belongs to the open file, so this shell keeps what the short-lived Python took.
    "$python" -I -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
    if ! _current; then
        # pip shows what it loads, and how far it is, to who watches
        quiet=--quiet
        [ ! -t 2 ] || quiet=--no-input
        what="numpy, scipy, bumps, matplotlib"
        [ -z "$group" ] || what="$what, and what the tests need"
        _say "park: setting up $venv with $what (a minute or two, once)"
        if [ ! -f "$venv/stamp" ] || ! "$venv/bin/python" -I -m pip --version >/dev/null 2>&1; then
            "$python" -I -m venv --clear "$venv"
        fi
        rm -f "$venv/stamp" "$venv/stamp-test"
        { # --group needs pip 25.1
            "$venv/bin/python" -I -m pip install $quiet --upgrade 'pip>=25.1' &&
                (cd "$root" && "$venv/bin/python" -I -m pip install $quiet --editable '.[all]' ${group:+--group $group})
        } >&2 || {
            _say "park: the set-up failed; the lines above say why. The next start tries again."
            exit 1
        }
        _wanted >"$venv/stamp"
        [ -z "$group" ] || _wanted >"$venv/stamp-$group"
    fi
    exec 9>&-
}

_current || _make
