//! The binary `mhub`: server, tools and benchmarks of the hub.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(not(feature = "sim"))]
fn main() -> ExitCode {
    message_hub::cli::main()
}

/// Over a simulated system there is nobody to serve.
#[cfg(feature = "sim")]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
