//! Repository checks that cargo has no lint for.
fn main() {}
