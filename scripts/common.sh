# What the scripts share. Sourced, not run.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

can_be_root() {
    [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -v; }
}

# have_or_install COMMAND PACKAGE: makes sure that COMMAND is there, with Debian's PACKAGE if need be.
have_or_install() {
    command -v "$1" >/dev/null && return
    command -v apt-get >/dev/null ||
        fail "This needs $1, and there is no apt-get to install it with: install it and run this again."
    can_be_root || fail "This needs $1: as root, run  apt-get install $2  and run this again."
    say "Installing $2, which has $1 ..."
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null 2>&1 ||
        { as_root apt-get update -qq >/dev/null && as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "$2" >/dev/null; } ||
        fail "apt-get can't install $2."
}

# What building and running peerix with a real Nix takes.
have_needs() {
    command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
    command -v cargo >/dev/null || fail "This needs a Rust toolchain: see https://rustup.rs"
    have_or_install cc build-essential
    have_or_install nix-store nix-bin
}
