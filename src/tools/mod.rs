//! Tools in the box.
/// stub
pub fn run(_: &str, _: Vec<std::ffi::OsString>) -> std::process::ExitCode { std::process::ExitCode::FAILURE }
