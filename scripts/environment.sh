# Sourced by the other scripts: makes and keeps .venv, the project's own Python environment.
#
# pip runs only when it has something to do. An editable install follows the sources by itself, so nothing
# needs installing again until the Python, the project's folder, or what pyproject.toml asks for changes.
# A stamp in .venv tells, and hence every run after the first works without a network.

project_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
environment="$project_root/.venv"

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Prints a command that starts Python 3.11 or newer with the venv module. PYTHON=... overrides the search.
find_python() {
    local candidate candidates=(python3 python3.14 python3.13 python3.12 python3.11 python)
    [[ -z "${PYTHON:-}" ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        is_new_enough "$candidate" || continue
        if ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "evtool: $candidate has no venv module; install it (Debian, Ubuntu: apt install python3-venv)" >&2
            return 1
        fi
        echo "$candidate"
        return
    done
    echo "evtool needs Python 3.11 or newer; found: $("${PYTHON:-python3}" --version 2>&1 || true)" >&2
    echo "Install one, or name it: PYTHON=/path/to/python3.11 $0" >&2
    return 1
}

# False as well when the Python below was removed, or when the folder was moved: a script in an environment
# names its interpreter in full, so those of a copy would run in the original.
environment_works() {
    is_new_enough "$environment/bin/python" && grep -qsF "$environment/bin/" "$environment/bin/pip"
}

# Prints a digest of all that an installation depends on. The settings of tools are left out on purpose.
installation_digest() {
    "$environment/bin/python" - "$project_root" <<'PYTHON'
import hashlib, json, pathlib, sys, tomllib

project_root = pathlib.Path(sys.argv[1])
settings = tomllib.loads((project_root / "pyproject.toml").read_text(encoding="utf-8"))
depends_on = [str(project_root), sys.version, settings["build-system"], settings["project"]]
print(hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest())
PYTHON
}

# ensure_environment [EXTRA]: installs the project, with the named extra, into .venv and puts that on the PATH.
ensure_environment() {
    local extra="${1:-}" python digest stamp
    stamp="$environment/installed${extra:+-$extra}"
    if ! environment_works; then
        python="$(find_python)"
        echo "Making $environment with $("$python" --version)" >&2
        "$python" -m venv --clear "$environment"
    fi
    digest="$(installation_digest)"
    if [[ "$(cat "$stamp" 2>/dev/null)" != "$digest" ]]; then
        echo "Installing evtool${extra:+ with what the \"$extra\" extra names}; only this needs a network" >&2
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
            --editable "$project_root${extra:+[$extra]}"
        # An extra comes on top of the plain installation.
        echo "$digest" | tee "$environment/installed" >"$stamp"
    fi
    PATH="$environment/bin:$PATH"
}
