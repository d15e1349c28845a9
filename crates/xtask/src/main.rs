//! Project chores as programs.
fn main() {}
