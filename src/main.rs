//! The `waypost` command: Envoy's command line, and tools in the box.

use std::process::ExitCode;

fn main() -> ExitCode {
    waypost::memory::prepare();
    waypost::cli::cli_main()
}
