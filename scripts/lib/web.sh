# How scripts that build for the browser find a compiler for it. Sourced, not run.
# shellcheck shell=bash

web_target=wasm32-unknown-unknown

# Finds a toolchain with that target, or else one that has the sources of the standard library (`rustup component add rust-src`; on
# Debian `apt-get install rustc-web rust-web-src`), of which cargo then builds it. Sets RUSTC, the linker and `web_options`,
# cargo's options. False where there is none.
web_toolchain() {
    local compiler linker
    web_options=(--target "$web_target")
    linker="$(rustc --print sysroot 2>/dev/null)/lib/rustlib/$(rustc -vV 2>/dev/null | sed -n 's/^host: //p')/bin/rust-lld"
    for compiler in "${RUSTC:-rustc}" /usr/bin/rustc; do
        if [ -d "$("$compiler" --print target-libdir --target "$web_target" 2>/dev/null)" ]; then
            export RUSTC="$compiler"
        elif [ -e "$("$compiler" --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/std/Cargo.toml" ]; then
            export RUSTC="$compiler"
            web_options+=(-Z "build-std=std,panic_abort")
            # Of a stable compiler cargo builds the standard library only so.
            export RUSTC_BOOTSTRAP=1
        else
            continue
        fi
        # A distribution's compiler may come without it.
        if [ -x "$linker" ]; then
            export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$linker"
        fi
        # Units of another compiler are not reused, and those that are there stay.
        export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/web"
        return 0
    done
    return 1
}
