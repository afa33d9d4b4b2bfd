//! Placeholder while the program is being laid out.
fn main() {}
