//! Build, check, generate, measure, end to end.

#[cfg(feature = "codegen")]
mod codegen;

fn main() {
    #[cfg(feature = "codegen")]
    codegen::run(
        std::path::Path::new("."),
        std::env::args().any(|a| a == "--check"),
    )
    .unwrap();
}
