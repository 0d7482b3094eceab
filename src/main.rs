//! The `peerix` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The HTTP client and iroh share one TLS provider; without it the client refuses to be built.
    // Failing means that one is there already.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    peerix::cli::run()
}
