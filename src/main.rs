//! The binary `mhub`: server, tools and benchmarks of the hub.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    message_hub::cli::main()
}
