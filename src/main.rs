//! The `waypost` command: Envoy's command line, and tools in the box.

use std::process::ExitCode;

/// A request allocates and frees a few dozen small pieces; this allocator does both without a lock and keeps them together.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    waypost::cli::cli_main()
}
