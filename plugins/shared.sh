# Functions for the build scripts plugins/*/build. Tools are installed under
# target/plugins, once per version.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
wit=$root/wit
target=$root/target/plugins
mkdir -p "$target"

# Runs a command that installs into target/plugins/FOLDER, unless the same command
# has succeeded there before. The file `installed` is written last, so that an
# interrupted installation starts again.
# install FOLDER COMMAND…
install() {
    local folder=$target/$1 mark=$target/$1/installed
    [ "$(cat "$mark" 2> /dev/null)" = "$*" ] && return
    echo "installing $1 under target/plugins" >&2
    rm -rf "$folder"
    mkdir -p "$folder"
    shift
    "$@" || return
    echo "${folder##*/} $*" > "$mark"
}

# Installs a program from crates.io, without optimization: an optimized build takes
# longer than it saves.
# install_cargo CRATE VERSION OPTION…
install_cargo() {
    install "$1" env CARGO_PROFILE_DEV_DEBUG=false cargo install "$1" --version "=$2" --quiet --locked \
        --debug "${@:3}" --root "$target/$1" --target-dir "$target/build-tools"
    PATH=$target/$1/bin:$PATH
}

# wasm-tools and wit-bindgen have versions with the same dependencies, which are then
# compiled once.
install_wasm_tools() {
    install_cargo wasm-tools 1.258.0 --no-default-features --features component
}

install_wit_bindgen() {
    install_cargo wit-bindgen-cli 0.61.1 --no-default-features --features c,go
}

# Generates the bindings of the world. Hides the messages about generated files.
# make_bindings LANGUAGE FOLDER OPTION…
make_bindings() {
    wit-bindgen "$1" "$wit" --world plugin --out-dir "$2" "${@:3}" 2> >(grep -v '^Generating' >&2)
}

# Installs a program from PyPI in a separate virtual environment.
# install_pip PACKAGE VERSION
install_pip() {
    install "$1" bash -c 'python3 -m venv "$1" && "$1/bin/pip" install --quiet --disable-pip-version-check "$2"' \
        bash "$target/$1" "$1==$2"
    PATH=$target/$1/bin:$PATH
}

# Installs the packages of a package-lock.json from npm. `npm ci` would fail, because
# the lock files lack optional packages for other platforms.
# install_npm NAME FOLDER
install_npm() {
    install "$1" bash -c 'cp "$2/package.json" "$2/package-lock.json" "$1" && cd "$1" &&
        npm install --loglevel=error --no-audit --no-fund > /dev/null' \
        bash "$target/$1" "$2" "$(sha256sum < "$2/package-lock.json")"
    PATH=$target/$1/node_modules/.bin:$PATH
}

# Downloads the source of a crate to target/plugins/crate-NAME/vendor/NAME.
# install_crate NAME VERSION
install_crate() {
    install "crate-$1" bash -c 'cd "$1" && printf "%s\n" "[package]" "name = \"files\"" "edition = \"2024\"" \
        "[workspace]" "[lib]" "path = \"none.rs\"" "[dependencies]" "$2 = \"=$3\"" > Cargo.toml &&
        touch none.rs && cargo vendor --quiet > /dev/null' bash "$target/crate-$1" "$1" "$2"
}

# Installs Debian packages, if the user is root. Otherwise prints the command and
# fails.
# install_apt PACKAGE…
install_apt() {
    dpkg --status "$@" > /dev/null 2>&1 && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
        echo "missing; install with: sudo apt-get install $*" >&2
        return 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > /dev/null
}

# Checks that a component imports only interfaces that a host gives to a plugin, and
# moves it to target/plugins/LANGUAGE.wasm. WASI is allowed: the host gives a context
# without files, variables and network.
# finish LANGUAGE COMPONENT
finish() {
    local imports refused
    imports=$(wasm-tools component wit "$2" | sed -n '/^world /,/^}/s/^ *import \([^;]*\);.*/\1/p')
    refused=$(grep -v -E '^(flow:checkpoint/(types|checkpointer)@|wasi:(cli|clocks|filesystem|io|random|sockets)/)' \
        <<< "$imports" || true)
    if [ -n "$refused" ]; then
        echo "plugins/$1: imports that a plugin may not have:" $refused >&2
        return 1
    fi
    mv "$2" "$target/$1.wasm"
    echo "target/plugins/$1.wasm: $(stat -c %s "$target/$1.wasm") bytes"
}
