#!/bin/sh
# Make a SoftHSM token for keyd in a directory, and print the configuration that uses it. `./SoftHSM-setup.sh --help` says more.
set -eu
umask 077

usage() {
    cat <<'END'
Usage: ./SoftHSM-setup.sh [DIRECTORY]

Installs SoftHSM 2 if it is missing (apt, dnf or brew), makes a token labelled "keyd" in DIRECTORY (default: ./softhsm), and
prints the [backends.hsm] section for keyd.toml on standard output. Everything else goes to standard error.

DIRECTORY will hold, with access for its owner only:
  tokens/          the token, with the keys; back it up
  softhsm2.conf    SoftHSM's configuration
  pin              the user PIN, which keyd reads
  so-pin           the security officer's PIN, which resets the user PIN; keep it elsewhere

Run it as the user that runs keyd; only installing needs root. Run again, it changes nothing and prints the same.

SoftHSM keeps keys in files. It is for trying out and for tests: its keys are as safe as the directory.
END
}

say() { printf 'SoftHSM-setup: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

install_softhsm() {
    if command -v apt-get >/dev/null; then
        say "installing softhsm2 with apt-get"
        as_root apt-get update -qq >&2
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends softhsm2 >&2
    elif command -v dnf >/dev/null; then
        say "installing softhsm with dnf"
        as_root dnf install -y -q softhsm >&2
    elif command -v brew >/dev/null; then
        say "installing softhsm with brew"
        brew install --quiet softhsm >&2
    else
        fail "SoftHSM 2 is missing, and so are apt-get, dnf and brew: install it, then run this again"
    fi
}

as_root() {
    umask 022 # what is installed is for everybody
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "installing needs root and sudo is missing: as root run $*"
    fi
}

# The module has no one place; the first pattern that matches is taken.
find_module() {
    prefix=$(brew --prefix softhsm 2>/dev/null || :)
    for module in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so \
        /usr/lib64/softhsm/libsofthsm2.so /usr/lib64/libsofthsm2.so "$prefix"/lib/softhsm/libsofthsm2.so \
        /usr/local/lib/softhsm/libsofthsm2.so; do
        if [ -f "$module" ]; then
            printf '%s\n' "$module"
            return
        fi
    done
    return 1
}

# A PIN is made once. It is moved to its name when it is whole, so that a killed run leaves no half of one.
make_pin() {
    [ ! -s "$1" ] || return 0
    od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$1.new"
    echo >>"$1.new"
    mv "$1.new" "$1"
}

has_token() { softhsm2-util --show-slots | grep -q '^ *Label: *keyd *$'; }

case ${1-} in
-h | --help)
    usage
    exit 0
    ;;
-*)
    usage >&2
    exit 2
    ;;
esac
if [ $# -gt 1 ]; then
    usage >&2
    exit 2
fi

directory=${1-softhsm}
case $directory in
'') fail "the name of the directory is empty" ;;
/*) ;;
*) directory=$(pwd)/$directory ;;
esac
if [ "$(printf '%s' "$directory" | tr -d '[:cntrl:]"\\#')" != "$directory" ]; then
    fail "the directory's name has a quote, a backslash, a # or a control character, which configuration files cannot hold: choose another"
fi

if ! command -v softhsm2-util >/dev/null || ! module=$(find_module); then
    (install_softhsm)
    command -v softhsm2-util >/dev/null || fail "SoftHSM was installed, but softhsm2-util is not in the PATH: add its directory"
    module=$(find_module) || fail "SoftHSM was installed, but its module libsofthsm2.so was not found: look where the package put it"
fi

if [ ! -e "$directory/softhsm2.conf" ] && [ -n "$(ls -A "$directory" 2>/dev/null)" ]; then
    fail "$directory is used for something else: choose a directory that is empty or not there"
fi
if [ -e "$directory" ] && [ ! -O "$directory" ]; then
    fail "$directory belongs to somebody else: run this as its owner, or choose another directory"
fi
mkdir -p "$directory" || fail "cannot make $directory: choose a directory that you can write to"
chmod 0700 "$directory" || fail "$directory belongs to somebody else: run this as its owner"
export SOFTHSM2_CONF="$directory/softhsm2.conf"
if [ ! -s "$SOFTHSM2_CONF" ]; then
    printf '%s\n' "directories.tokendir = $directory/tokens" 'objectstore.backend = file' 'log.level = ERROR' >"$SOFTHSM2_CONF"
fi
mkdir -p "$directory/tokens"

if has_token; then
    [ -s "$directory/pin" ] || fail "there is a token in $directory, but its PIN in $directory/pin is gone: put it back"
    say "the token in $directory is there already"
else
    make_pin "$directory/pin"
    make_pin "$directory/so-pin"
    # softhsm2-util takes PINs as arguments only, where other users may see them. Without access to the directory they are of no use.
    softhsm2-util --init-token --free --label keyd --pin "$(cat "$directory/pin")" --so-pin "$(cat "$directory/so-pin")" >&2 ||
        fail "softhsm2-util did not make the token; what it said is above"
    has_token || fail "softhsm2-util made no token in $directory/tokens: look into $SOFTHSM2_CONF"
    say "made a token in $directory; keep $directory/so-pin elsewhere"
fi
say "add these lines to keyd.toml"
cat <<END
[backends.hsm]
type = "pkcs11"
uri = "pkcs11:token=keyd"
module = "$module"
pin = { file = "$directory/pin" }
environment = { SOFTHSM2_CONF = "$directory/softhsm2.conf" }
END
