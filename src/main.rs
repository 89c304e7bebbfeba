//! The `chipmark` program; everything is in the library.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(chipmark::cli::main())
}
