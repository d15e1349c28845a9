//! Fleet.
fn main() {}
