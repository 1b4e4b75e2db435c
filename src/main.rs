//! The binary `mhub`.

fn main() {}
